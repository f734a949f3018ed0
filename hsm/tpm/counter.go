package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"redoubt.internal/hsm"
)

// Counter is an NV index of type counter. It only ever goes up, also when its
// owner undefines it and defines it anew (TPM 2.0 Library part 1, 37.2.4); only
// who can restore the TPM's own storage can set it back, as with swtpm, whose
// storage is a file.
type Counter struct {
	t     *Token
	index uint32
}

// Counter names the counter of a URI "tpm:nv=0x01......"; it touches nothing.
func (t *Token) Counter(s string) (*Counter, error) {
	u, err := parseURI(s)
	if err != nil {
		return nil, err
	}
	if u.nv == 0 {
		return nil, fmt.Errorf("TPM URI names no counter, expected tpm:nv=0x01......: %w", hsm.ErrUnsupported)
	}
	return &Counter{t: t, index: u.nv}, nil
}

// Rewindable reports whether the TPM is one whose storage can be put back, and
// says which it is.
func (c *Counter) Rewindable(ctx context.Context) (rewindable bool, what string, err error) {
	var p properties
	if err := c.t.with(ctx, func(cs *commands) error { p = *cs.t.state.props; return nil }); err != nil {
		return true, "", err
	}
	return p.software(), fmt.Sprintf("TPM %s %s firmware %s", p.manufacturer, p.vendor, p.firmware), nil
}

// counterAttributes: the owner increments, whoever may use the TPM reads, and
// neither is stopped by dictionary-attack lockout.
var counterAttributes = tpm2.TPMANV{NT: tpm2.TPMNTCounter, OwnerWrite: true, OwnerRead: true, AuthRead: true, NoDA: true}

// Define makes the counter and increments it once, because before that it has no
// value. It fails with hsm.ErrExists when the index is taken.
func (c *Counter) Define(ctx context.Context) error {
	err := c.t.with(ctx, func(cs *commands) error {
		owner, err := cs.owner()
		if err != nil {
			return err
		}
		_, err = tpm2.NVDefineSpace{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: owner},
			PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: tpm2.TPMHandle(c.index), NameAlg: tpm2.TPMAlgSHA256, Attributes: counterAttributes, DataSize: 8}),
		}.Execute(cs.w)
		if errors.Is(err, tpm2.TPMRCNVDefined) {
			return hsm.ErrExists
		}
		if err != nil {
			return err
		}
		return cs.increment(c.index)
	})
	if err != nil {
		return fmt.Errorf("defining the counter at 0x%08x: %w", c.index, err)
	}
	return nil
}

// Read returns the counter; hsm.ErrNotFound when it is not defined.
func (c *Counter) Read(ctx context.Context) (uint64, error) {
	var value uint64
	err := c.t.with(ctx, func(cs *commands) error {
		v, err := cs.readCounter(c.index)
		value = v
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("reading the counter at 0x%08x: %w", c.index, err)
	}
	return value, nil
}

// Increment adds one and returns the value then read back.
func (c *Counter) Increment(ctx context.Context) (uint64, error) {
	var value uint64
	err := c.t.with(ctx, func(cs *commands) error {
		if err := cs.increment(c.index); err != nil {
			return err
		}
		v, err := cs.readCounter(c.index)
		value = v
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("raising the counter at 0x%08x: %w", c.index, err)
	}
	return value, nil
}

// nvName reads what the index is, and refuses anything but a counter of ours. The
// name changes with the first write, so it is read each time.
func (cs *commands) nvName(index uint32) (*tpm2.TPM2BName, error) {
	r, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(cs.w)
	if errors.Is(err, tpm2.TPMRCHandle) || errors.Is(err, tpm2.TPMRCValue) {
		return nil, hsm.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	public, err := r.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	a := public.Attributes
	a.Written = false
	if a != counterAttributes || public.DataSize != 8 || uint32(public.NVIndex) != index {
		return nil, fmt.Errorf("the index is something else than a counter of this product: %w", hsm.ErrInsecureKey)
	}
	return &r.NVName, nil
}

func (cs *commands) increment(index uint32) error {
	name, err := cs.nvName(index)
	if err != nil {
		return err
	}
	owner, err := cs.owner()
	if err != nil {
		return err
	}
	_, err = tpm2.NVIncrement{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: owner},
		NVIndex:    tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: *name},
	}.Execute(cs.w)
	return err
}

// readCounter reads in a salted session: its HMAC shows that the TPM answered.
func (cs *commands) readCounter(index uint32) (uint64, error) {
	name, err := cs.nvName(index)
	if err != nil {
		return 0, err
	}
	p, err := cs.srk()
	if err != nil {
		return 0, err
	}
	session, err := cs.salted(p, nil)
	if err != nil {
		return 0, err
	}
	r, err := tpm2.NVRead{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(index), Name: *name, Auth: session},
		NVIndex:    tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: *name},
		Size:       8,
	}.Execute(cs.w)
	if err != nil {
		return 0, err
	}
	if len(r.Data.Buffer) != 8 {
		return 0, fmt.Errorf("counter of %d octets", len(r.Data.Buffer))
	}
	return binary.BigEndian.Uint64(r.Data.Buffer), nil
}
