package tpm

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"redoubt.internal/hsm"
)

// garbler stands between a token and its TPM and, while it is told to, spoils
// answers: a flipped bit, a cut body, another length.
type garbler struct {
	mu    sync.Mutex
	rnd   *rand.Rand
	spoil bool
}

func (g *garbler) set(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.spoil = on
}

func (g *garbler) answer(b []byte) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.spoil || g.rnd.IntN(4) > 0 {
		return b
	}
	switch g.rnd.IntN(3) {
	case 0:
		b[g.rnd.IntN(len(b))] ^= 1 << g.rnd.IntN(8)
	case 1:
		b = b[:10+g.rnd.IntN(len(b)-9)]
		binary.BigEndian.PutUint32(b[2:], uint32(len(b)))
	case 2:
		for i := 10; i < len(b); i++ {
			if g.rnd.IntN(8) == 0 {
				b[i] = byte(g.rnd.Uint32())
			}
		}
	}
	return b
}

func (g *garbler) serve(l net.Listener, tpm string) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		func() {
			defer client.Close()
			command := make([]byte, maxMessage)
			if _, err := io.ReadFull(client, command[:10]); err != nil {
				return
			}
			size := binary.BigEndian.Uint32(command[2:])
			if size < 10 || size > maxMessage {
				return
			}
			if _, err := io.ReadFull(client, command[10:size]); err != nil {
				return
			}
			response, err := exchangeSocket(tpm, command[:size], time.Now().Add(30*time.Second))
			if err == nil {
				_, _ = client.Write(g.answer(response))
			}
		}()
	}
}

// Whatever a TPM answers, no bad signature comes out, nothing panics, nothing
// hangs, and with good answers the same key signs again.
func TestGarbledAnswers(t *testing.T) {
	e := startTPM(t)
	socket := filepath.Join(e.dir, "g")
	l, err := net.Listen("unix", socket)
	must(t, err)
	defer l.Close()
	g := &garbler{rnd: rand.New(rand.NewPCG(4711, 1))}
	go g.serve(l, e.socket)
	c := e.config()
	c.Device = socket
	tok := open(t, c)
	key := generate(t, tok, "tpm:file=a.pem", hsm.ECDSAP256)
	signed, failed := 0, 0
	for round := range rounds(60, 2000) {
		g.set(true)
		for range 5 {
			if err := sign(key); err == nil { // hsm.Key verified it
				signed++
			} else {
				failed++
			}
			tok.link.gate <- struct{}{} // the next call is asked anew
			tok.link.lastErr = nil
			<-tok.link.gate
		}
		switch round % 4 {
		case 0:
			_, _ = key.Attest(t.Context(), []byte("nonce"))
		case 1:
			_, _ = tok.Signer(t.Context(), "tpm:file=a.pem")
		case 2:
			_, _, _ = tok.Lockout(t.Context())
		}
		g.set(false)
		if round%10 == 9 { // a spoiled flush or load may have left what nobody knows of: not more than the TPM has places for
			e.tool("tpm2_flushcontext", "-t")
			e.tool("tpm2_flushcontext", "-l")
			time.Sleep(2 * retryAfter)
			var err error
			for range 3 {
				if err = sign(key); err == nil {
					break
				}
				time.Sleep(2 * retryAfter)
			}
			must(t, err)
		}
	}
	t.Logf("%d signatures, %d failures", signed, failed)
	if signed == 0 || failed == 0 {
		t.Errorf("%d signatures, %d failures: the test spoils too much or too little", signed, failed)
	}
}
