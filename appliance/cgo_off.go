//go:build !cgo

package main

const cgoEnabled = false // PKCS#11 modules cannot be loaded
