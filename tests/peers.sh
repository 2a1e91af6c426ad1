#!/bin/sh
# Real peers for the tests. As root they are installed (Debian packages); otherwise the tests that need one say that they skip.
set -u
want="rsyslog rsyslog-gnutls mosquitto mosquitto-clients influxdb curl openssl bsdutils chromium prometheus fping faketime strace zstd jq"
missing=""
for package in $want; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ]; then
    echo "not root: tests that need these packages will skip:$missing"
    exit 0
fi
echo "installing peers for the tests:$missing"
{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing; } >/tmp/skerry-peers.log 2>&1 \
    || echo "apt-get could not install:$missing (see /tmp/skerry-peers.log); tests that need them will skip"
exit 0
