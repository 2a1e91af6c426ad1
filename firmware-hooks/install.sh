#!/bin/sh
# Points the syslog of this device at a Skerry appliance. Running it again changes nothing.
#
#   install.sh [--udp] [--print] [--root DIR] HOST:PORT
#
#   --udp       datagrams instead of TCP (BusyBox knows no other way)
#   --print     show what would be written, write nothing
#   --root DIR  write below DIR, an image that is being built; nothing is started
#
# With rsyslog: TCP with octet counting and RFC 5424, behind a queue that goes to the disk while the appliance is away.
# With BusyBox syslogd: UDP with RFC 3164, kept in the local log as well.
set -eu

protocol=tcp
print=false
root=
address=

die() {
    echo "install.sh: $1" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
    --udp) protocol=udp ;;
    --print) print=true ;;
    --root)
        [ $# -gt 1 ] || die "--root needs a folder"
        root=${2%/}
        [ -d "$2" ] || die "$2 is no folder"
        shift
        ;;
    -*) die "unknown: $1 (see the head of this file)" ;;
    *)
        [ -z "$address" ] || die "one HOST:PORT, not two"
        address=$1
        ;;
    esac
    shift
done

port=${address##*:}
host=${address%:*}
case $host in
\[*\]) host=${host#\[} host=${host%\]} ;;
*:*) die "write an IPv6 address in brackets: [fd00::1]:514" ;;
esac
# What follows is written into configuration files: only what a host name or address can hold.
case $host in '' | *[!A-Za-z0-9.:_-]*) die "where to? HOST:PORT, such as 192.0.2.10:5514" ;; esac
case $port in '' | *[!0-9]* | ??????*) die "$port is no port" ;; esac
[ "$port" -ge 1 ] && [ "$port" -le 65535 ] || die "$port is no port"

rsyslog_conf() {
    cat <<CONF
# Written by Skerry's install.sh; a further run replaces it.
action(
    type="omfwd" name="skerry"
    target="$host" port="$port" protocol="$protocol"$1
    template="RSYSLOG_SyslogProtocol23Format"
    action.resumeRetryCount="-1" action.resumeInterval="5" action.resumeIntervalMax="60"
    queue.type="LinkedList" queue.size="10000" queue.timeoutEnqueue="0"
    queue.filename="skerry" queue.spoolDirectory="/var/spool/rsyslog"
    queue.maxDiskSpace="256m" queue.maxFileSize="8m"
    queue.checkpointInterval="100" queue.saveOnShutdown="on"
)
CONF
}

# Prints the file and the variable in which this system keeps the options of BusyBox syslogd.
busybox_place() {
    for place in etc/conf.d/syslog:SYSLOGD_OPTS etc/default/busybox-syslogd:SYSLOG_OPTS etc/default/syslogd:SYSLOGD_ARGS; do
        if [ -f "$root/${place%%:*}" ]; then
            echo "$place"
            return
        fi
    done
}

# Puts standard input at $1, whole or not at all. False when it stood there already.
put() {
    if [ -d "$(dirname "$1")" ] || mkdir -p "$(dirname "$1")"; then :; else die "cannot write $1"; fi
    cat >"$1.skerry-new" || die "cannot write $1; run this as root"
    if cmp -s "$1.skerry-new" "$1"; then
        rm -f "$1.skerry-new"
        echo "$1 is already so"
        return 1
    fi
    mv "$1.skerry-new" "$1"
    echo "wrote $1"
}

restart() {
    [ -z "$root" ] || return 0
    if [ -d /run/systemd/system ]; then
        systemctl restart "$1"
    elif command -v rc-service >/dev/null 2>&1; then
        rc-service "$2" restart
    else
        echo "now restart $3"
    fi
}

if [ -x "$root/usr/sbin/rsyslogd" ] || { [ -z "$root" ] && command -v rsyslogd >/dev/null 2>&1; }; then
    framing=
    [ "$protocol" = udp ] || framing=' TCP_Framing="octet-counted"'
    if $print; then
        rsyslog_conf "$framing"
        exit 0
    fi
    mkdir -p "$root/var/spool/rsyslog" || die "cannot write $root/var/spool/rsyslog; run this as root"
    if rsyslog_conf "$framing" | put "$root/etc/rsyslog.d/90-skerry.conf"; then
        if [ -z "$root" ] && ! rsyslogd -N1 2>/dev/null; then
            die "rsyslogd does not accept its configuration; see rsyslogd -N1"
        fi
        restart rsyslog rsyslog rsyslogd
    fi
    exit 0
fi

case $host in *:*) host="[$host]" ;; esac
options="-L -R $host:$port"
place=$(busybox_place)
if $print || [ -z "$place" ]; then
    echo "syslogd $options"
    $print || die "no rsyslog here, and no known place for the options of syslogd; start it as shown above"
    exit 0
fi
file=$root/${place%%:*}
if { grep -v '# skerry$' "$file" || :; echo "${place#*:}=\"$options\" # skerry"; } | put "$file"; then
    restart busybox-syslogd syslog syslogd
fi
