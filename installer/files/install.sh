#!/bin/sh
# Installs Redoubt from this folder. Makes no network call, asks nothing, and may be run again: the result is the same.
#   ./install.sh --fingerprint F [--root DIR] [--no-user]
# F is the fingerprint of the bundle as its maker read it out: what `redoubt bundle build` printed, in groups or not. --root installs
# below DIR (an image, a chroot) instead of /. --no-user leaves the service user alone. --no-fingerprint installs whatever this is.
set -eu

usage() { echo "usage: install.sh --fingerprint F|--no-fingerprint [--root DIR] [--no-user]" >&2; exit 2; }
root= user=yes fingerprint=
while [ $# -gt 0 ]; do
	case $1 in
	--fingerprint) [ $# -gt 1 ] || usage
		fingerprint=$(printf '%s' "$2" | tr 'A-F' 'a-f' | tr -d ' :-'); shift 2
		case $fingerprint in *[!0-9a-f]* | '') fingerprint=bad ;; esac
		[ ${#fingerprint} -ge 32 ] || { echo "install.sh: a fingerprint has 32 to 64 hex digits" >&2; exit 2; } ;;
	--no-fingerprint) fingerprint=none; shift ;;
	--root) [ $# -gt 1 ] || { echo "install.sh: --root needs a directory" >&2; exit 2; }
		root=${2%/}; shift 2 ;;
	--no-user) user=no; shift ;;
	*) usage ;;
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

if [ "$user" = yes ] && [ -z "$root" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "install.sh: run as root, or with --root DIR --no-user" >&2
		exit 1
	fi
	getent group redoubt >/dev/null || groupadd --system redoubt
	getent passwd redoubt >/dev/null ||
		useradd --system --gid redoubt --home-dir /var/lib/redoubt --no-create-home --shell /usr/sbin/nologin redoubt
fi

# put MODE SOURCE TARGET: replaces atomically, so that a running binary goes on with the old file.
put() {
	mkdir -p "$root$(dirname -- "$3")"
	install -m "$1" "$2" "$root$3.new"
	mv -f "$root$3.new" "$root$3"
}

case $(uname -m) in
x86_64) bin=bin/amd64 ;;
aarch64) bin=bin/arm64 ;;
*) refuse "there is no binary for $(uname -m)" ;;
esac
[ -d "$bin" ] || refuse "this bundle holds no binaries for $(uname -m)"

# The PKCS#11 build needs the C library; where it does not run, the free-standing one takes its name.
if "$bin/redoubt" version >/dev/null 2>&1; then
	put 0755 "$bin/redoubt" /usr/bin/redoubt
else
	echo "install.sh: the PKCS#11 build does not run here; installing the free-standing one (no PKCS#11 tokens)" >&2
	put 0755 "$bin/redoubt-static" /usr/bin/redoubt
fi
put 0755 "$bin/redoubt-static" /usr/bin/redoubt-static

# listed FOLDER: its files as SHA256SUMS names them; what else lies there was never checked and is not installed.
listed() { sed -n "s|^[0-9a-f]\{64\}  \($1/.*\)|\1|p" SHA256SUMS; }
listed systemd | while read -r unit; do put 0644 "$unit" "/usr/lib/systemd/system/$(basename -- "$unit")"; done
for folder in docs licences monitoring; do
	listed $folder | while read -r file; do put 0644 "$file" "/usr/share/redoubt/$file"; done
done

mkdir -p "$root/etc/redoubt" "$root/var/lib/redoubt" "$root/var/log/redoubt"
chmod 0755 "$root/etc/redoubt"
chmod 0700 "$root/var/lib/redoubt"
chmod 0750 "$root/var/log/redoubt"
[ -e "$root/etc/redoubt/redoubt.yaml" ] || ln -sfn /var/lib/redoubt/redoubt.yaml "$root/etc/redoubt/redoubt.yaml"
if [ "$user" = yes ] && [ -z "$root" ]; then
	chown redoubt:redoubt /var/lib/redoubt /var/log/redoubt
	if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
fi

cat <<'NEXT'
Redoubt is installed. Next:
  redoubt demo                                    the whole job on this machine, in a minute
  redoubt init --dir /var/lib/redoubt --owner redoubt --domain DOMAIN --profile production ...
  systemctl enable --now redoubt.service redoubt-reconcile.timer
  systemctl enable --now redoubt-inbox.timer      where parcels arrive in a folder
NEXT
