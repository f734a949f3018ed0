package main

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
)

// decodeQR reads a picture as a telephone does.
func decodeQR(t testing.TB, img image.Image) string {
	t.Helper()
	bitmap, err := gozxing.NewBinaryBitmapFromImage(img)
	if err != nil {
		t.Fatal(err)
	}
	r, err := qrcode.NewQRCodeReader().Decode(bitmap, map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_PURE_BARCODE: true})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetText()
}

// TestReceiptAsQR draws receipts of every length up to the limit, and reads them back from the PNG file and from the blocks.
func TestReceiptAsQR(t *testing.T) {
	for _, n := range []int{250, 400, 700, 1000} {
		note := "redoubt.receipt/v1 outside\n" + strings.Repeat("10000000 9UCscY5a2WwdWniSdqDmmqyRxmTm+Ox4Qi6sANFUOO8= ok log.example\n", 20)
		note = note[:n-40] + "\n\n— inside l97aLbZYOpdyA/cWa59bwMzJUC==\n"
		file := filepath.Join(t.TempDir(), "receipt.png")
		if _, err := drawReceipt(note, file); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if got := decodeQR(t, img); got != note {
			t.Fatalf("%d bytes: the file reads as %q", n, got)
		}
		blocks, err := drawReceipt(note, "-")
		if err != nil {
			t.Fatal(err)
		}
		if got := decodeQR(t, seen(blocks)); got != note {
			t.Fatalf("%d bytes: the blocks read as %q", n, got)
		}
		lines := strings.Split(strings.TrimSuffix(blocks, "\n"), "\n")
		t.Logf("%d bytes: picture of %d pixels, blocks of %d columns and %d lines", len(note), img.Bounds().Dx(), len([]rune(lines[0])), len(lines))
	}
}

// seen is what a terminal with light characters on a dark ground shows of blocks.
func seen(blocks string) image.Image {
	lines := strings.Split(strings.TrimSuffix(blocks, "\n"), "\n")
	const scale = 4
	img := image.NewGray(image.Rect(0, 0, len([]rune(lines[0]))*scale, 2*len(lines)*scale))
	for y, line := range lines {
		for x, r := range []rune(line) {
			for half, light := range []bool{r == '█' || r == '▀', r == '█' || r == '▄'} {
				for i := range scale * scale {
					if light {
						img.SetGray(x*scale+i%scale, (2*y+half)*scale+i/scale, color.Gray{255})
					}
				}
			}
		}
	}
	return img
}
