package tpm

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"redoubt.internal/hsm"
)

// properties are the fixed properties of a TPM.
type properties struct {
	manufacturer, vendor, family, firmware string
	revision                               uint32
	algorithms                             string // that it has, once it was asked
}

// hardwareMakers are the manufacturers (TCG TPM Vendor ID Registry) of chips and
// firmware TPMs. Whoever is not here counts as software: an unknown TPM must not
// be believed to remember.
var hardwareMakers = []string{"AMD", "ATML", "BRCM", "CSCO", "FLYS", "HPE", "HPI", "HISI", "IFX", "INTC", "LEN", "NSG", "NSM", "NTC", "NTZ", "QCOM", "ROCC", "SEAL", "SECE", "SMSC", "SMSN", "SNS", "STM", "TXN", "WEC"}

// software reports whether the TPM is a program whose state is a file: swtpm
// ("IBM", "SW   TPM") and the TPMs of virtual machines.
func (p *properties) software() bool { return !slices.Contains(hardwareMakers, p.manufacturer) }

// Lockout is the state of the TPM's dictionary-attack protection.
type Lockout struct {
	// Locked: nothing guarded is authorised until the TPM recovers.
	Locked bool `json:"locked"`
	// Counter counts wrong tries; at MaxTries the TPM locks.
	Counter  uint32 `json:"counter"`
	MaxTries uint32 `json:"maxTries"`
	// Interval is the time after which one wrong try is forgotten.
	Interval time.Duration `json:"interval"`
	// Recovery is how long the lockout hierarchy itself stays locked after a wrong
	// try of its own; 0 means until the next reset.
	Recovery time.Duration `json:"recovery"`
}

// String describes the state in one line.
func (l Lockout) String() string {
	state := "open"
	if l.Locked {
		state = "LOCKED"
	}
	return fmt.Sprintf("%s, %d of %d tries used, one forgotten each %s", state, l.Counter, l.MaxTries, l.Interval)
}

// Err says why no secret may be tried now: lockout is hsm.ErrUnavailable (it heals
// by itself), one try left is hsm.ErrBadPIN (somebody must look).
func (l Lockout) Err() error {
	switch {
	case l.Locked:
		return fmt.Errorf("%w: the TPM is in dictionary-attack lockout (%s); it ends by itself, or by tpm2_dictionarylockout -c", hsm.ErrUnavailable, l)
	case l.MaxTries > 0 && l.Counter+1 >= l.MaxTries:
		return fmt.Errorf("%w: the TPM has one try left before lockout (%s) and it is not risked; find who tries wrong values, wait, or reset the counter with tpm2_dictionarylockout -c", hsm.ErrBadPIN, l)
	}
	return nil
}

// Lockout reads the state of the TPM's dictionary-attack protection, and whether
// a refused authorisation value is remembered (hsm.Latch).
func (t *Token) Lockout(ctx context.Context) (l Lockout, latched bool, err error) {
	var state Lockout
	if err := t.with(ctx, func(c *commands) error {
		v, err := c.lockout()
		state = v
		return err
	}); err != nil {
		return Lockout{}, false, err
	}
	latched, err = t.latch.Latched()
	return state, latched, err
}

// mayTry reads the lockout state before a secret is tried.
func (c *commands) mayTry() error {
	l, err := c.lockout()
	if err != nil {
		return fmt.Errorf("reading the TPM's lockout state: %w", err)
	}
	return l.Err()
}

// lockout reads the state of the dictionary-attack protection.
func (c *commands) lockout() (Lockout, error) {
	v, err := c.property(tpm2.TPMPTPermanent)
	if err != nil {
		return Lockout{}, err
	}
	l := Lockout{Locked: v[tpm2.TPMPTPermanent]&(1<<9) != 0} // TPMA_PERMANENT inLockout
	l.Counter, l.MaxTries = v[tpm2.TPMPTLockoutCounter], v[tpm2.TPMPTMaxAuthFail]
	l.Interval, l.Recovery = time.Duration(v[tpm2.TPMPTLockoutInterval])*time.Second, time.Duration(v[tpm2.TPMPTLockoutRecovery])*time.Second
	return l, nil
}

// properties reads the fixed ones.
func (c *commands) properties() (*properties, error) {
	v, err := c.property(tpm2.TPMPTFamilyIndicator)
	if err != nil {
		return nil, err
	}
	text := func(ids ...tpm2.TPMPT) string {
		var b []byte
		for _, id := range ids {
			b = binary.BigEndian.AppendUint32(b, v[id])
		}
		return strings.Map(func(r rune) rune {
			if r < ' ' || r > '~' {
				return -1
			}
			return r
		}, string(b))
	}
	p := &properties{
		family:       strings.TrimSpace(text(tpm2.TPMPTFamilyIndicator)),
		revision:     v[tpm2.TPMPTRevision],
		manufacturer: strings.TrimSpace(text(tpm2.TPMPTManufacturer)),
		vendor:       strings.Join(strings.Fields(text(tpm2.TPMPTVendorString1, tpm2.TPMPTVendorString2, tpm2.TPMPTVendorString3, tpm2.TPMPTVendorString4)), " "),
		firmware:     fmt.Sprintf("%08x.%08x", v[tpm2.TPMPTFirmwareVersion1], v[tpm2.TPMPTFirmwareVersion2]),
	}
	if p.family != "2.0" {
		return nil, fmt.Errorf("the device says it is a TPM of family %q, expected 2.0: %w", p.family, hsm.ErrUnsupported)
	}
	return p, nil
}

// property reads the group of properties that begins with first.
func (c *commands) property(first tpm2.TPMPT) (map[tpm2.TPMPT]uint32, error) {
	values, next := map[tpm2.TPMPT]uint32{}, uint32(first)
	for range 8 {
		r, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: next, PropertyCount: 64}.Execute(c.w)
		if err != nil {
			return nil, err
		}
		list, err := r.CapabilityData.Data.TPMProperties()
		if err != nil {
			return nil, err
		}
		for _, p := range list.TPMProperty {
			if uint32(p.Property)>>8 == uint32(first)>>8 {
				values[p.Property] = p.Value
			}
			next = uint32(p.Property) + 1
		}
		if !r.MoreData || next>>8 != uint32(first)>>8 || len(list.TPMProperty) == 0 {
			break
		}
	}
	return values, nil
}
