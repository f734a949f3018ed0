#!/bin/sh
# Neither starts nor enables anything: `redoubt init` comes first, on a fresh machine, and who upgrades restarts when it suits.
set -e
[ -e /etc/redoubt/redoubt.yaml ] || [ -L /etc/redoubt/redoubt.yaml ] || ln -s /var/lib/redoubt/redoubt.yaml /etc/redoubt/redoubt.yaml
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
