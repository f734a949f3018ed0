// Package e2e drives unmodified Sigstore clients against the redoubt binary, as a user would, inside a network namespace that
// holds nothing but a loopback device: whatever passes here needed no network.
//
// The tests are built with the tag e2e (./task e2e). They want the pinned clients in the folder that .ci/clients prints; a client
// that is not there fails its tests, unless REDOUBT_E2E_MISSING (lines of "NAME-VERSION reason") says why it could not be had,
// in which case they are skipped with that reason. One server is shared by all groups. Start at main_test.go, then lab_test.go.
package e2e
