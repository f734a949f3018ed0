package tpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/go-tpm/tpm2"

	"redoubt.internal/hsm"
)

// commands is what one operation may do with the TPM while it holds the link.
type commands struct {
	t    *Token
	w    *wire
	made []tpm2.TPMHandle // transient objects to flush at the end
}

// stale says that what the TPM held for this process is gone: it was reset.
var errStale = errors.New("the TPM was reset meanwhile")

// with runs fn on the TPM, once more when the TPM turned out to have been reset.
// Whatever fn loads is flushed when it is done. fn's results must not be looked
// at when with fails.
func (t *Token) with(ctx context.Context, fn func(c *commands) error) error {
	for attempt := 0; ; attempt++ {
		err := t.link.do(ctx, func(w *wire) error {
			c := &commands{t: t, w: w}
			err := c.sync()
			if err == nil {
				err = fn(c)
			}
			c.flushMade()
			if w.lost == nil {
				t.state.sessionsBefore = nil
			}
			if err != nil && w.lost == nil && c.wasReset(err) {
				c.t.state.void()
				return fmt.Errorf("%w: %w", errStale, err)
			}
			return err
		})
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errStale) && attempt == 0 && ctx.Err() == nil:
			continue
		case isVerdict(err):
			return err
		}
		return meaning(err)
	}
}

// isVerdict reports errors that already say what they mean.
func isVerdict(err error) bool {
	for _, v := range []error{hsm.ErrBadPIN, hsm.ErrNotFound, hsm.ErrExists, hsm.ErrUnsupported, hsm.ErrUnavailable, hsm.ErrInsecureKey} {
		if errors.Is(err, v) {
			return true
		}
	}
	return false
}

// meaning gives a TPM's response code the sentinel callers know.
func meaning(err error) error {
	var rc tpm2.TPMRC
	switch {
	case errors.Is(err, errLost), errors.Is(err, errStale):
		return fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
	case errors.Is(err, tpm2.TPMRCLockout):
		return fmt.Errorf("%w: the TPM is in dictionary-attack lockout (tpm2_getcap properties-variable shows its state; tpm2_dictionarylockout -c ends it): %w", hsm.ErrUnavailable, err)
	case errors.Is(err, tpm2.TPMRCObjectMemory), errors.Is(err, tpm2.TPMRCSessionMemory), errors.Is(err, tpm2.TPMRCSessionHandles):
		return fmt.Errorf("%w: others hold the TPM's few places (use /dev/tpmrm0, or flush them with tpm2_flushcontext): %w", hsm.ErrUnavailable, err)
	case errors.Is(err, tpm2.TPMRCScheme), errors.Is(err, tpm2.TPMRCHash), errors.Is(err, tpm2.TPMRCCurve), errors.Is(err, tpm2.TPMRCCommandCode):
		return fmt.Errorf("%w: %w", hsm.ErrUnsupported, err)
	case errors.As(err, &rc):
		return fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
	}
	return err
}

// sync makes the state fit the TPM behind the link: on the first contact and
// after a loss it reads the clock, flushes what a kept TPM still holds of ours,
// and forgets what a reset one forgot.
func (c *commands) sync() error {
	s := &c.t.state
	if s.epoch == c.w.l.epoch {
		return nil
	}
	clock, err := c.clock()
	if errors.Is(err, tpm2.TPMRCInitialize) {
		return fmt.Errorf("%w: the TPM was not started up (TPM2_Startup is the firmware's or, with swtpm, --flags startup-clear): %w", hsm.ErrUnavailable, err)
	}
	if err != nil {
		return fmt.Errorf("reading the TPM's clock: %w", err)
	}
	kept := s.clock != nil && sameBoot(*s.clock, *clock) && c.shared()
	if kept {
		if err := c.recover(); err != nil {
			return fmt.Errorf("flushing what a lost command left: %w", err)
		}
	}
	s.void()
	if s.props == nil || !kept {
		if s.props, err = c.properties(); err != nil {
			return fmt.Errorf("reading the TPM's properties: %w", err)
		}
	}
	s.clock, s.epoch = clock, c.w.l.epoch
	return nil
}

// void forgets what the TPM held; nothing of it is flushed.
func (s *state) void() {
	s.sessions = [2]*session{}
	s.contexts = map[string]tpm2.TPMSContext{}
	s.checked = map[uint32]bool{}
	s.held = map[tpm2.TPMHandle]bool{}
	s.lostLoad, s.sessionsBefore = false, nil
	s.epoch = 0
}

// shared reports that the TPM is spoken to without a resource manager, so that
// what is not flushed stays.
func (c *commands) shared() bool {
	st, err := os.Stat(c.w.l.device)
	return err == nil && st.Mode()&os.ModeSocket != 0
}

// sameBoot reports whether the TPM was neither reset nor restarted in between.
func sameBoot(a, b tpm2.TPMSClockInfo) bool {
	return a.ResetCount == b.ResetCount && a.RestartCount == b.RestartCount && a.Clock <= b.Clock
}

// clock reads the TPM's clock and reset counters.
func (c *commands) clock() (*tpm2.TPMSClockInfo, error) {
	r, err := tpm2.ReadClock{}.Execute(c.w)
	if err != nil {
		return nil, err
	}
	return &r.CurrentTime.ClockInfo, nil
}

// wasReset tells after a failed operation whether the TPM was reset beneath it.
func (c *commands) wasReset(err error) bool {
	var rc tpm2.TPMRC
	if !errors.As(err, &rc) && !errors.Is(err, errStale) || c.t.state.clock == nil {
		return false
	}
	clock, err := c.clock()
	return err == nil && !sameBoot(*c.t.state.clock, *clock)
}

// recover flushes, on a TPM that was not reset, what operations cut short by a
// loss left behind: handles we know, objects of ours whose handle never came
// back (told by their names), and sessions that were not there before.
func (c *commands) recover() error {
	s := &c.t.state
	for h := range s.held {
		if err := c.flush(h); err != nil && isLost(err) {
			return err
		}
	}
	if s.lostLoad {
		handles, err := c.handles(0x80000000)
		if err != nil {
			return err
		}
		for _, h := range handles {
			r, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(c.w)
			if err != nil && isLost(err) {
				return err
			}
			if err == nil && s.names[string(r.Name.Buffer)] {
				if err := c.flush(h); err != nil && isLost(err) {
					return err
				}
			}
		}
	}
	if s.sessionsBefore != nil {
		handles, err := c.handles(0x02000000)
		if err != nil {
			return err
		}
		for _, h := range handles {
			if !s.sessionsBefore[h] {
				if err := c.flush(h); err != nil && isLost(err) {
					return err
				}
			}
		}
	}
	return nil
}

// isLost reports that err is no answer of the TPM but its absence.
func isLost(err error) bool { return errors.Is(err, errLost) }

// handles lists the loaded handles of a range, which its first one names.
func (c *commands) handles(first uint32) ([]tpm2.TPMHandle, error) {
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 64}.Execute(c.w)
	if err != nil {
		return nil, err
	}
	list, err := r.CapabilityData.Data.Handles()
	if err != nil {
		return nil, err
	}
	return list.Handle, nil
}

// keep notes a handle the TPM gave us until it is flushed; err is that of the
// command that was to give it. Objects are flushed at the end of the operation.
func (c *commands) keep(h tpm2.TPMHandle, name tpm2.TPM2BName, err error) {
	s := &c.t.state
	if err != nil {
		s.lostLoad = s.lostLoad || isLost(err)
		return
	}
	s.held[h] = true
	c.made = append(c.made, h)
	if len(name.Buffer) > 0 {
		s.names[string(name.Buffer)] = true
	}
}

// expect notes the name of an object about to be loaded.
func (c *commands) expect(name tpm2.TPM2BName) { c.t.state.names[string(name.Buffer)] = true }

// flush gives a handle back.
func (c *commands) flush(h tpm2.TPMHandle) error {
	_, err := tpm2.FlushContext{FlushHandle: h}.Execute(c.w)
	if err == nil || !isLost(err) {
		delete(c.t.state.held, h)
	}
	return err
}

// release flushes an object before the end of the operation, to make room.
func (c *commands) release(h tpm2.TPMHandle) {
	for i, m := range c.made {
		if m == h {
			c.made = append(c.made[:i], c.made[i+1:]...)
			_ = c.flush(h)
			return
		}
	}
}

// flushMade flushes every object of the operation. What a lost TPM cannot flush
// stays noted in held for recover.
func (c *commands) flushMade() {
	for _, h := range c.made {
		_ = c.flush(h)
	}
	c.made = nil
}

// sameName compares two names.
func sameName(a, b tpm2.TPM2BName) bool { return bytes.Equal(a.Buffer, b.Buffer) }
