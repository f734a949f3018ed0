// The unmodified notation of the end-to-end tests, built by .ci/clients: the list of its versions is not to be had through the module proxy,
// which `go install` of a version asks for.
module redoubt.internal/ci/notation

go 1.26

require github.com/notaryproject/notation v1.3.2
