#!/bin/sh
# Stops what runs when the package goes, not when another version takes its place (dpkg says remove, rpm says 0).
set -e
if [ "$1" = remove ] || [ "$1" = 0 ]; then
	if [ -d /run/systemd/system ]; then
		systemctl --no-reload disable --now 'redoubt*.service' 'redoubt*.timer' || true
	fi
fi
