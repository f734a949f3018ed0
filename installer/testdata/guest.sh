#!/bin/sh
# What TestInstallInGuest does in its virtual machine, once systemd is up. The medium is the second disk. Everything goes to the serial
# port; the last line says how it ended.
set -eux
trap 'code=$?; set +x; [ $code = 0 ] || journalctl --no-pager -o cat -u "redoubt*" | tail -n 80; echo "guest ends with $code"; sync; poweroff -ff' EXIT
export HOME=/root SOFTHSM2_CONF=/etc/redoubt/softhsm2.conf
state=/var/lib/redoubt
units="redoubt-ca redoubt-log redoubt-tsa redoubt-trust redoubt-console redoubt-front"
reached() { set +x; echo "== $(cut -d' ' -f1 /proc/uptime) s: $*"; set -x; }
active() { for unit in $units; do test "$(systemctl show -P ActiveState $unit) $(systemctl show -P NRestarts $unit)" = "active 0"; done; }
sign() { SSL_CERT_FILE=/tmp/setup/ca-bundle.pem redoubt sign $1 --setup /tmp/setup --identity-token /media/token --bundle $1.json; }
verify() { ${program:-redoubt} verify $1 --setup /tmp/setup --bundle $1.json --certificate-identity dev@corp.internal --certificate-oidc-issuer https://login.corp.internal; }
version() { redoubt version | cut -d' ' -f2; }
reached "systemd is up"
test "$(ls /sys/class/net)" = lo
mount -o ro /dev/vdb /media
. /media/fingerprints
/media/redoubt-1.0.0/install.sh --fingerprint $FIRST
reached installed

# A token for each role, as a site prepares them: a PIN file of root's, and what SoftHSM needs besides in a drop-in.
mkdir /srv/hsm
printf 'directories.tokendir = /srv/hsm\nobjectstore.backend = file\nlog.level = ERROR\n' >$SOFTHSM2_CONF
for role in ca log tsa trust oidc root; do
	(umask 077; echo 73911 >/etc/redoubt/pin-$role)
	softhsm2-util --init-token --free --label redoubt-$role --so-pin 12345678 --pin 73911
	mv /srv/hsm/*-*-*-*-* /srv/hsm/$role
done
mkdir -p /etc/systemd/system/redoubt-.service.d
printf '[Service]\nEnvironment=SOFTHSM2_CONF=%s\nReadWritePaths=/srv/hsm\n' $SOFTHSM2_CONF >/etc/systemd/system/redoubt-.service.d/hsm.conf
systemctl daemon-reload
redoubt init --dir $state --domain corp.internal --profile production --non-interactive \
	--keys 'pkcs11:token=redoubt-{role}?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/etc/redoubt/pin-{role}'
for role in ca log tsa trust; do chown -R redoubt-$role:redoubt /srv/hsm/$role; chmod 0700 /srv/hsm/$role; done
cat /media/issuer.yaml >>$state/redoubt.yaml
sed -i 's|^keys:|keys:\n    timeout: 30s|' $state/redoubt.yaml # processors are emulated here
redoubt config validate
for name in fulcio rekor tsa ct tuf mirror; do echo "127.0.0.1 $name.corp.internal" >>/etc/hosts; done
reached initialised

systemctl enable --now redoubt.target
active
redoubt client setup --out /tmp/setup
echo first >/tmp/a
sign /tmp/a
verify /tmp/a
reached "first signature verified"

for unit in $units; do systemd-analyze security --no-pager --threshold=15 $unit >/tmp/exposure; tail -n 1 /tmp/exposure; done
redoubt doctor
reached "doctor is content"

before=$(systemctl show -P MainPID redoubt-tsa)
kill -9 $before
for i in $(seq 300); do test "$(systemctl show -P NRestarts redoubt-tsa) $(systemctl show -P ActiveState redoubt-tsa)" != "1 active" || break; sleep 0.2; done
test "$(systemctl show -P ActiveState redoubt-tsa)" = active
test $before != "$(systemctl show -P MainPID redoubt-tsa)"
echo second >/tmp/b
sign /tmp/b
verify /tmp/b
reached "killed and restarted"

systemctl stop redoubt.target
mkdir /srv/backup
/media/redoubt-1.1.0/install.sh --fingerprint $SECOND --backup-to /srv/backup --no-encryption
test $(version) = 1.1.0
redoubt state show | grep 'format 3'
systemctl start redoubt.target
active
verify /tmp/a
echo third >/tmp/c
sign /tmp/c
verify /tmp/c
reached upgraded

redoubt upgrade --rollback # stops the units and starts them
test $(version) = 1.0.0
redoubt state show | grep 'format 2'
active
echo fourth >/tmp/d
sign /tmp/d
verify /tmp/d
reached "gone back"

redoubt uninstall
test ! -e /usr/bin/redoubt
test -z "$(systemctl list-unit-files --no-legend 'redoubt*')"
test -z "$(systemctl list-units --no-legend --state=active,activating 'redoubt*')"
test -s $state/db/rekor.db
test -s $state.highwater
id redoubt-ca
program=/media/redoubt-1.0.0/bin/amd64/redoubt-static
verify /tmp/d
$program log fsck --dir $state
reached removed
