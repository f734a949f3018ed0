package pkcs11

import "path/filepath"

// Seen is what a module shows to somebody who does not log in.
type Seen struct {
	Module string `json:"module"`
	// Library is what it says of itself.
	Library string      `json:"library,omitempty"`
	Tokens  []SeenToken `json:"tokens"`
}

// SeenToken is one token of a module.
type SeenToken struct {
	Label        string `json:"label"`
	Serial       string `json:"serial"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	// Initialized tokens have a label of their own; PIN says whether the user's is set.
	Initialized bool `json:"initialized"`
	PIN         bool `json:"pin"`
	// Locked and LastTry are the state of that PIN.
	Locked  bool `json:"locked,omitempty"`
	LastTry bool `json:"lastTry,omitempty"`
	// Software keeps its keys in files of this machine, as far as is known.
	Software bool `json:"software"`
}

// places are where makers and Debian put their modules; patterns of filepath.Match.
var places = []string{
	"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so",
	"/usr/lib/*/opencryptoki/libopencryptoki.so", "/usr/lib/*/pkcs11/libopencryptoki.so", "/usr/lib64/opencryptoki/libopencryptoki.so", // openCryptoki
	"/usr/lib/*/pkcs11/yubihsm_pkcs11.so", "/usr/lib64/pkcs11/yubihsm_pkcs11.so", "/usr/local/lib/pkcs11/yubihsm_pkcs11.so", // YubiHSM 2
	"/usr/lib/*/libykcs11.so*", "/usr/local/lib/libykcs11.so*", // YubiKey
	"/usr/safenet/lunaclient/lib/libCryptoki2_64.so", "/opt/safenet/lunaclient/lib/libCryptoki2_64.so", "/usr/lib/libCryptoki2_64.so", // Luna
	"/opt/nfast/toolkits/pkcs11/libcknfast.so",                                                                                                               // nShield
	"/opt/cloudhsm/lib/libcloudhsm_pkcs11.so",                                                                                                                // AWS CloudHSM
	"/opt/utimaco/lib/libcs_pkcs11_R3.so", "/usr/lib/libcs_pkcs11_R3.so", "/opt/utimaco/p11/libcs_pkcs11_R3.so", "/opt/primekey/p11proxy/lib/libp11proxy.so", // Utimaco, and those behind it
	"/opt/PTK/lib/libcryptoki.so", "/opt/safenet/protecttoolkit*/ptk/lib/libcryptoki.so", // ProtectServer
	"/opt/securosys/lib/libprimusP11.so", "/usr/local/primus/lib/libprimusP11.so", // Primus
	"/usr/lib/*/opensc-pkcs11.so", "/usr/lib64/opensc-pkcs11.so", // smart cards
	"/usr/lib/*/pkcs11/libkryoptic_pkcs11.so", "/usr/lib64/pkcs11/libkryoptic_pkcs11.so",
	"/usr/lib/*/libtpm2_pkcs11.so.1", "/usr/lib64/pkcs11/libtpm2_pkcs11.so",
	"/usr/lib/*/nss/libsoftokn3.so", "/usr/lib/*/libsoftokn3.so", "/usr/lib64/libsoftokn3.so",
}

// Present are the modules that stand where makers and Debian put theirs, each file once.
func Present() (modules []string) {
	files := map[string]bool{}
	for _, pattern := range places {
		found, _ := filepath.Glob(pattern)
		for _, path := range found {
			if file, err := filepath.EvalSymlinks(path); err == nil && !files[file] {
				files[file] = true
				modules = append(modules, path)
			}
		}
	}
	return modules
}
