package main

import (
	"errors"
	"math/big"
	"strings"
)

var errSize = errors.New("want bytes, or a number with k, M, G, T (decimal) or Ki, Mi, Gi, Ti (binary), a B after it or not")

// parseSize reads a size as it stands on media: 4.4GB is 4400000000 bytes, 4GiB is 4294967296. A fraction of a byte is cut off.
func parseSize(text string) (int64, error) {
	digits := strings.TrimRight(text, "kKMGTiB ")
	unit := strings.TrimSuffix(strings.TrimSpace(text[len(digits):]), "B")
	number, base := unit, int64(1000)
	if strings.HasSuffix(unit, "i") {
		number, base = strings.TrimSuffix(unit, "i"), 1024
	}
	power := strings.Index("KMGT", strings.ToUpper(number)) + 1
	if number == "" {
		power = 0
	}
	if digits == "" || strings.Trim(digits, "0123456789.") != "" || len(digits) > 20 || len(number) > 1 || number == "" && base == 1024 || number != "" && power == 0 {
		return 0, errSize
	}
	size, ok := new(big.Rat).SetString(digits)
	if !ok {
		return 0, errSize
	}
	factor := new(big.Int).Exp(big.NewInt(base), big.NewInt(int64(power)), nil)
	size.Mul(size, new(big.Rat).SetInt(factor))
	whole := new(big.Int).Quo(size.Num(), size.Denom())
	if !whole.IsInt64() {
		return 0, errSize
	}
	return whole.Int64(), nil
}
