//go:build cgo

package main

const cgoEnabled = true // PKCS#11 modules can be loaded
