#!/bin/sh
# Installs Redoubt from this folder. Makes no network call, asks nothing, and may be run again: the result is the same.
#   ./install.sh [--root DIR] [--no-user]
# --root installs below DIR (an image, a chroot) instead of /. --no-user leaves the service user alone.
set -eu

root= user=yes
while [ $# -gt 0 ]; do
	case $1 in
	--root) [ $# -gt 1 ] || { echo "install.sh: --root needs a directory" >&2; exit 2; }
		root=${2%/}; shift 2 ;;
	--no-user) user=no; shift ;;
	*) echo "usage: install.sh [--root DIR] [--no-user]" >&2; exit 2 ;;
	esac
done
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
cd "$here"

# Nothing is installed unless every file is the one that was packed.
if ! sha256sum --check --strict --quiet SHA256SUMS; then
	echo "install.sh: the files do not match SHA256SUMS; nothing was installed" >&2
	exit 1
fi

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

# The PKCS#11 build needs the C library; where it does not run, the free-standing one takes its name.
if bin/redoubt version >/dev/null 2>&1; then
	put 0755 bin/redoubt /usr/bin/redoubt
else
	echo "install.sh: the PKCS#11 build does not run here; installing the free-standing one (no PKCS#11 tokens)" >&2
	put 0755 bin/redoubt-static /usr/bin/redoubt
fi
put 0755 bin/redoubt-static /usr/bin/redoubt-static
for unit in systemd/*; do put 0644 "$unit" "/usr/lib/systemd/system/$(basename -- "$unit")"; done
find docs licences monitoring -type f | while read -r file; do put 0644 "$file" "/usr/share/redoubt/$file"; done

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
