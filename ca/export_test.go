package ca

// Verifications is how many signatures of the issuing key were verified, by the
// authority and by the transparency log for it.
func (a *Authority) Verifications() int64 { return a.verifier.Count() }
