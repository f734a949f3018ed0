#!/bin/sh
# Checks that this folder is what its maker packed, and has its program put it in force: installs, upgrades, repairs. Makes no network call
# and may be run again, also after it was cut off: the result is the same.
#   ./install.sh --fingerprint F [--root DIR] [--no-user] [--dry-run] [...]
# F is the fingerprint of the bundle as its maker read it out: what `redoubt bundle build` printed, in groups or not. --no-fingerprint installs
# whatever this is. Everything else is handed to `redoubt upgrade`, whose --help explains it.
set -eu

usage() { echo "usage: install.sh --fingerprint F|--no-fingerprint [flags of redoubt upgrade]" >&2; exit 2; }
fingerprint= left=$#
while [ "$left" -gt 0 ]; do
	left=$((left - 1))
	case $1 in
	--fingerprint) [ "$left" -gt 0 ] || usage
		fingerprint=$(printf '%s' "$2" | tr 'A-F' 'a-f' | tr -d ' :-'); shift 2; left=$((left - 1))
		case $fingerprint in *[!0-9a-f]* | '') fingerprint=bad ;; esac
		[ ${#fingerprint} -ge 32 ] || { echo "install.sh: a fingerprint has 32 to 64 hex digits" >&2; exit 2; } ;;
	--no-fingerprint) fingerprint=none; shift ;;
	*) set -- "$@" "$1"; shift ;;
	esac
done
[ -n "$fingerprint" ] || usage
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
cd "$here"

# Nothing is installed unless the manifest is the one that was read out, its list of digests is the one it names, and every file
# is the one in the list. tar leaves the manifest beside the folder, `redoubt bundle unpack` in it. Only tools of the machine judge.
refuse() { echo "install.sh: $*; nothing was installed" >&2; exit 1; }
manifest=manifest.note
[ -f "$manifest" ] || manifest=../manifest.note
[ -f "$manifest" ] || refuse "manifest.note is neither in this folder nor beside it"
if [ "$fingerprint" != none ]; then
	have=$(sed -n '/^$/q;p' "$manifest" | sha256sum | cut -c1-64)
	case $have in "$fingerprint"*) ;; *) refuse "the fingerprint of this bundle is $(printf '%s' "$have" | cut -c1-32 | sed 's/..../&-/g; s/-$//'), another one than was asked for" ;; esac
fi
sums=$(sed -n '3s/.*"sums":"\([0-9a-f]\{64\}\)".*/\1/p' "$manifest")
[ -n "$sums" ] || refuse "manifest.note is not the manifest of a bundle"
[ "$(sha256sum <SHA256SUMS | cut -c1-64)" = "$sums" ] || refuse "SHA256SUMS is not the one the manifest names"
sha256sum --check --strict --quiet SHA256SUMS || refuse "the files do not match SHA256SUMS"

case $(uname -m) in
x86_64) bin=bin/amd64 ;;
aarch64) bin=bin/arm64 ;;
*) refuse "there is no binary for $(uname -m)" ;;
esac
[ -d "$bin" ] || refuse "this bundle holds no binaries for $(uname -m)"

# The PKCS#11 build needs the C library; where it does not run, the free-standing one does.
program=$bin/redoubt-appliance
if ! "$program" version >/dev/null 2>&1; then
	echo "install.sh: the PKCS#11 build does not run here; installing the free-standing one (no PKCS#11 tokens)" >&2
	program=$bin/redoubt-static
fi
"$program" upgrade --from "$here" "$@"

cat <<'NEXT'
Next:
  redoubt demo                                    the whole job on this machine, in a minute
  redoubt init --profile production               asks, finds tokens, makes the state directory; every answer is a flag
  systemctl enable --now redoubt.service redoubt-reconcile.timer
  or, each role in a process and under a user of its own: init without --owner, then systemctl enable --now redoubt.target redoubt-ca-reconcile.timer
  systemctl enable --now redoubt-inbox.timer      where parcels arrive in a folder (redoubt-ca-inbox.timer where roles run apart)
NEXT
