#!/bin/sh
# Keys, logs and marks stay, also after a purge: nobody else can give them back. So does the user that owns them.
set -e
if [ "$1" = purge ] || [ "$1" = 0 ]; then
	[ ! -L /etc/redoubt/redoubt.yaml ] || [ -e /etc/redoubt/redoubt.yaml ] || rm -f /etc/redoubt/redoubt.yaml
	[ ! -e /var/lib/redoubt/redoubt.yaml ] || echo "redoubt: /var/lib/redoubt and /var/lib/redoubt.highwater* stay; remove them by hand when their keys and logs are no longer wanted"
fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
