package main

import "testing"

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "4700000000": 4700000000, "4.4GB": 4400000000, "4.4G": 4400000000, "4GiB": 4 << 30, "1.5KiB": 1536, "700MB": 700000000, "64 MiB": 64 << 20, "2kB": 2000, "1TB": 1e12, "10B": 10, "1.5B": 1,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "GB", "-1", "4,4GB", "1e9", "4.4.4", "4GG", "4i", "4iB", "1/2", "0x10", "9999999999999999999", "99999999999TB", "4 blocks"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

// FuzzParseSize: no text makes it crash or gives a negative size.
func FuzzParseSize(f *testing.F) {
	f.Add("4.4GB")
	f.Add("1.KiB")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := parseSize(text); err == nil && got < 0 {
			t.Errorf("%q: %d", text, got)
		}
	})
}
