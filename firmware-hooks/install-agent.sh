#!/bin/sh
# Installs the agent on this device. Running it again changes nothing that is so already.
#
#   install-agent.sh [--root DIR] [--token FILE] [--ca FILE] [--discover] --device NAME [URL ...]
#
#   --device NAME  what this device is called
#   --token FILE   its token, from the site's crew; without one the site must let strangers in
#   --ca FILE      the authority that the sites' certificates are from (PEM)
#   --discover     find sites by multicast DNS too; needs --ca
#   URL            a site: https://HOST:PORT
#   --root DIR     write below DIR, an image that is being built; nothing is started
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=
device=
token=
ca=
discover=false
sites=

die() {
    echo "install-agent.sh: $1" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
    --root | --device | --token | --ca)
        [ $# -gt 1 ] || die "$1 needs a word after it"
        case $1 in
        --root)
            root=${2%/}
            [ -d "$2" ] || die "$2 is no folder"
            ;;
        --device) device=$2 ;;
        --token) token=$2 ;;
        --ca) ca=$2 ;;
        esac
        shift
        ;;
    --discover) discover=true ;;
    -*) die "unknown: $1 (see the head of this file)" ;;
    *)
        # What follows is written into a configuration file: only what an address can hold.
        case $1 in *[!A-Za-z0-9.:/_\[\]-]*) die "$1 is no address of a site" ;; esac
        case $1 in http://?* | https://?*) ;; *) die "$1 is no address of a site; write https://HOST:PORT" ;; esac
        sites="$sites${sites:+, }\"$1\""
        ;;
    esac
    shift
done

case $device in '' | *[!A-Za-z0-9._-]*) die "--device NAME: letters, digits, dots, dashes and lines" ;; esac
[ -z "$token" ] || [ -r "$token" ] || die "$token cannot be read"
[ -z "$ca" ] || [ -r "$ca" ] || die "$ca cannot be read"
if $discover; then
    [ -n "$ca" ] || die "--discover needs --ca: whoever is found must be vouched for"
elif [ -z "$sites" ]; then
    die "where to? An address of a site, or --discover"
fi

config() {
    cat <<JSON
{
  "device": "$device",
  "queue": "/var/lib/skerry-agent/queue.db",
  "sites": [$sites],
  "discover": $discover,
  "token_file": "${token:+/etc/skerry-agent/token}",
  "ca_file": "${ca:+/etc/skerry-agent/ca.pem}"
}
JSON
}

changed=false
# Puts standard input at $2 with mode $1, whole or not at all.
put() {
    mkdir -p "$(dirname "$2")" || die "cannot write $2; run this as root"
    (umask 077 && cat >"$2.skerry-new") || die "cannot write $2; run this as root"
    chmod "$1" "$2.skerry-new"
    if cmp -s "$2.skerry-new" "$2"; then
        rm -f "$2.skerry-new"
        echo "$2 is already so"
    else
        mv "$2.skerry-new" "$2"
        echo "wrote $2"
        changed=true
    fi
}

put 755 "$root/opt/skerry-agent/agent.py" <"$here/agent.py"
config | put 644 "$root/etc/skerry-agent/agent.json"
[ -z "$token" ] || put 640 "$root/etc/skerry-agent/token" <"$token"
[ -z "$ca" ] || put 644 "$root/etc/skerry-agent/ca.pem" <"$ca"
put 644 "$root/etc/systemd/system/skerry-agent.service" <"$here/skerry-agent.service"

[ -z "$root" ] || exit 0
if ! id skerry-agent >/dev/null 2>&1; then
    useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin skerry-agent
fi
[ -z "$token" ] || chgrp skerry-agent /etc/skerry-agent/token
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable skerry-agent
    if $changed; then systemctl restart skerry-agent; fi
else
    echo "now start: python3 /opt/skerry-agent/agent.py run --config /etc/skerry-agent/agent.json"
fi
