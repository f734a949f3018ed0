#!/bin/sh
# Makes the service user before its folders are unpacked.
set -e
getent group redoubt >/dev/null || groupadd --system redoubt
getent passwd redoubt >/dev/null ||
	useradd --system --gid redoubt --home-dir /var/lib/redoubt --no-create-home --shell /usr/sbin/nologin redoubt
