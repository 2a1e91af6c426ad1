"""Who answers, how fast, and what that says of them: echo requests to every target, one socket per IP version.

Rules of this file:
- Pure on top: addresses, packets (RFC 792, RFC 4443 section 4), and the fold from echoes to a state. `Sweeper`, the
  only I/O, is at the bottom. It blocks, so the composition gives it a thread.
- Only this module knows icmplib. It opens the sockets; the packets are our own, by measurement on two shared cores:
  its `send` alone takes 19 µs a packet (it resolves, sets two options and sums every byte each time) and its tasks
  per host 320 µs a host; packed headers on one socket take 12 µs for request and reply together.
- What a target could forge decides nothing. The send time stays here, a reply must carry the sweep's secret cookie and
  come from the very address that was asked, and an ICMP error is no answer, never an early verdict.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import itertools
import os
import secrets
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import icmplib
import msgspec

from fleet.connectivity import Reach, Trigger
from fleet.limits import MS, SECOND

# -- addresses ---------------------------------------------------------------------------------------------------

_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


class Target(NamedTuple):
    """`place` is a socket address: what the kernel wants when we send and what it says when the target replies.

    `zone` names the network interface of an IPv6 link-local address; its number is looked up for each sweep.
    """

    version: int
    place: tuple[str, int] | tuple[str, int, int, int]
    zone: str = ""


# A site sweeps the same addresses for months, and reading one takes half the time that asking it does.
@functools.lru_cache(maxsize=65_536)
def target(address: str) -> Target:
    """Read an IPv4 or IPv6 literal. ValueError, with the sentence for a person, when it cannot be pinged."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(f"{address!r} is not an IP address; ping takes addresses, not names") from None
    if parsed.is_multicast or parsed == _BROADCAST:
        raise ValueError(f"{address} is a group of hosts; ping asks one host at a time")
    if parsed.is_unspecified:
        raise ValueError(f"{address} is no host's address")
    if isinstance(parsed, ipaddress.IPv4Address):
        return Target(4, (str(parsed), 0))
    if parsed.ipv4_mapped:
        raise ValueError(f"{address} is an IPv4 address in disguise; write {parsed.ipv4_mapped}")
    if parsed.is_link_local and not parsed.scope_id:
        raise ValueError(f"{address} exists on every link; write which one, such as {address}%eth0")
    if parsed.scope_id and not parsed.is_link_local:
        raise ValueError(f"{address} is not bound to a link; leave out %{parsed.scope_id}")
    host = socket.inet_ntop(socket.AF_INET6, parsed.packed)  # as the kernel spells it in replies
    return Target(6, (host, 0, 0, 0), parsed.scope_id or "")


def refusal(address: str) -> str | None:
    """Why this address cannot be pinged, as a sentence; None when it can. Ask before an address is taken on."""
    try:
        target(address)
    except ValueError as error:
        return str(error)
    return None


# -- packets -----------------------------------------------------------------------------------------------------

COOKIE_BYTES: Final = 16
TARGETS_MAX: Final = 65_536  # a sweep numbers its targets with the 16 bits of an echo's sequence number

_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number
_SEQ = struct.Struct("!H")
_ECHO_REQUEST = {4: 8, 6: 128}
_ECHO_REPLY = {4: 0, 6: 129}


def _folded(total: int) -> int:
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def echo_requests(version: int, ident: int, cookie: bytes) -> Callable[[int], bytes]:
    """A maker of echo requests: seq → ICMP message with `cookie` as its data. One maker per sweep.

    The Internet checksum (RFC 1071) is a sum, so all but the sequence number is summed once. For ICMPv6, whose sum
    covers addresses too, the kernel fills it in (RFC 3542 section 3.1).
    """
    kind, pack = _ECHO_REQUEST[version], _HEADER.pack
    words = _HEADER.pack(kind, 0, 0, ident, 0) + cookie
    base = _folded(sum(word for (word,) in struct.iter_unpack("!H", words)))

    def request(seq: int) -> bytes:
        total = base + seq
        return pack(kind, 0, 0xFFFF - (total & 0xFFFF) - (total >> 16), ident, seq) + cookie

    return request


def echo_reply(version: int, message: bytes | memoryview, cookie: bytes) -> int | None:
    """The sequence number of an ICMP message that is an echo reply with this cookie; None for any other message."""
    if len(message) != _HEADER.size + len(cookie) or message[0] != _ECHO_REPLY[version]:
        return None
    if message[_HEADER.size :] != cookie:
        return None
    seq: int = _SEQ.unpack_from(message, 6)[0]
    return seq


# -- from echoes to a state --------------------------------------------------------------------------------------


class Echo(NamedTuple):
    """One target in one sweep. `rtt_ms` is None when no answer came in time."""

    address: str
    rtt_ms: float | None


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """When a target changes its state. The way back is narrower than the way out, so a value on the edge is calm.

    ValueError when that does not hold, or when no number of sweeps is asked for.
    """

    window_sweeps: int = 10
    losses_offline: int = 3  # in a row
    answers_online: int = 2  # in a row
    turn_sweeps: int = 3  # in a row, from online to degraded and back
    loss_pct_degraded: float = 20.0
    loss_pct_recovered: float = 10.0
    rtt_ms_degraded: float = 250.0
    rtt_ms_recovered: float = 200.0

    def __post_init__(self) -> None:
        if min(self.window_sweeps, self.losses_offline, self.answers_online, self.turn_sweeps) < 1:
            raise ValueError("ping: each number of sweeps must be at least 1")
        if self.loss_pct_recovered > self.loss_pct_degraded or self.rtt_ms_recovered > self.rtt_ms_degraded:
            raise ValueError("ping: a bound for recovered must not be above the bound for degraded")


DEFAULT: Final = Bounds()

_LONE_LOSS = 1  # in a young window one loss is already a high percentage; it takes two to judge


class PingState(msgspec.Struct, frozen=True, kw_only=True):
    """What the last sweeps say of one target.

    `window`     round trips in ms, oldest first, None for a loss; it starts anew when a target comes back
    `rtt_ms`     median of the window: one slow echo does not move it. None without an answer in the window
    `jitter_ms`  mean difference between one answer and the next (RFC 3393's delay variation, unsigned); None below two
    `loss_pct`   of the window
    `losses`, `answers`, `late`, `well`: how many sweeps in a row were lost, answered, beyond the bounds, well inside;
    the last two are judged only of a target that is up
    """

    reach: Reach = Reach.UNKNOWN
    rtt_ms: float | None = None
    jitter_ms: float | None = None
    loss_pct: float = 0.0
    window: tuple[float | None, ...] = ()
    losses: int = 0
    answers: int = 0
    late: int = 0
    well: int = 0


START: Final = PingState()

# Unknown is never green: a target that was never heard comes up by the same rule as one that was lost.
TABLE: Final[dict[tuple[Reach, Trigger], Reach]] = {
    (Reach.UNKNOWN, Trigger.HEARD): Reach.ONLINE,
    (Reach.UNKNOWN, Trigger.SILENT): Reach.OFFLINE,
    (Reach.ONLINE, Trigger.LATE): Reach.DEGRADED,
    (Reach.ONLINE, Trigger.SILENT): Reach.OFFLINE,
    (Reach.DEGRADED, Trigger.RECOVERED): Reach.ONLINE,
    (Reach.DEGRADED, Trigger.SILENT): Reach.OFFLINE,
    (Reach.OFFLINE, Trigger.HEARD): Reach.ONLINE,
}
_AWAY = (Reach.UNKNOWN, Reach.OFFLINE)


def advance(state: PingState, echo: Echo, bounds: Bounds = DEFAULT) -> PingState:
    """The state after one more sweep. Pure; which target it is, the caller knows."""
    lost = echo.rtt_ms is None
    losses = state.losses + 1 if lost else 0
    answers = 0 if lost else state.answers + 1
    away = state.reach in _AWAY
    window = (*state.window, echo.rtt_ms)[-bounds.window_sweeps :]
    if away and answers >= bounds.answers_online:
        window = window[-answers:]  # the outage has been told; it does not count again as loss
    rtt_ms, jitter_ms, loss_pct = _figures(window)
    late = state.late + 1 if not away and _is_late(rtt_ms, loss_pct, window, bounds) else 0
    well = state.well + 1 if not away and _is_well(rtt_ms, loss_pct, bounds) else 0
    turns = (
        (losses >= bounds.losses_offline, Trigger.SILENT),
        (answers >= bounds.answers_online, Trigger.HEARD),
        (late >= bounds.turn_sweeps, Trigger.LATE),
        (well >= bounds.turn_sweeps, Trigger.RECOVERED),
    )
    reaches = (TABLE.get((state.reach, trigger)) for holds, trigger in turns if holds)
    return PingState(
        reach=next((reach for reach in reaches if reach), state.reach),
        rtt_ms=rtt_ms,
        jitter_ms=jitter_ms,
        loss_pct=loss_pct,
        window=window,
        losses=losses,
        answers=answers,
        late=late,
        well=well,
    )


def _figures(window: Sequence[float | None]) -> tuple[float | None, float | None, float]:
    """Median round trip and jitter in ms (None where there is too little), loss in percent."""
    rtts = [rtt for rtt in window if rtt is not None]
    loss_pct = 100.0 * (len(window) - len(rtts)) / len(window)
    if not rtts:
        return None, None, loss_pct
    ordered, middle = sorted(rtts), len(rtts) // 2
    median = ordered[middle] if len(rtts) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    steps = [abs(after - before) for before, after in itertools.pairwise(rtts)]
    return median, sum(steps) / len(steps) if steps else None, loss_pct


def _is_late(rtt_ms: float | None, loss_pct: float, window: Sequence[float | None], bounds: Bounds) -> bool:
    lossy = loss_pct >= bounds.loss_pct_degraded and window.count(None) > _LONE_LOSS
    return lossy or (rtt_ms is not None and rtt_ms >= bounds.rtt_ms_degraded)


def _is_well(rtt_ms: float | None, loss_pct: float, bounds: Bounds) -> bool:
    return loss_pct < bounds.loss_pct_recovered and rtt_ms is not None and rtt_ms < bounds.rtt_ms_recovered


# -- the sockets -------------------------------------------------------------------------------------------------


class PingNotPermitted(Exception):
    """The system lets this program open no ICMP socket. str() is the sentence for whoever runs this box."""

    def __init__(self) -> None:
        python, group = os.path.realpath(sys.executable), os.getegid()
        super().__init__(
            "The system does not let this program send pings, so no target can be asked. Allow it in one of three ways"
            " and start it again: AmbientCapabilities=CAP_NET_RAW in the service's unit; for this Python,"
            f" `sudo setcap cap_net_raw+ep {python}`; or for this program's group,"
            f' `sudo sysctl net.ipv4.ping_group_range="{group} {group}"`.'
        )


# Linux's numbers; the socket module has no names for them.
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_MEMINFO, _SO_TIMESTAMPNS_NEW = 32, 33, 55, 64
_MEMINFO_DROPS = struct.Struct("=32xI")  # SK_MEMINFO_DROPS, the ninth word
_TIMESPEC = struct.Struct("=qq")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)
# A set bit keeps a type out, before it takes room in the buffer: on loopback our own requests, elsewhere all errors.
_FILTER = {
    4: (255, 1, struct.pack("=I", ~(1 << 0) & 0xFFFF_FFFF)),  # SOL_RAW, ICMP_FILTER
    6: (58, 1, struct.pack("=8I", *(0xFFFF_FFFF & ~(1 << 1 if word == 4 else 0) for word in range(8)))),
}
_SOCKETS = {4: icmplib.ICMPv4Socket, 6: icmplib.ICMPv6Socket}

# A reply takes up to 4.3 KB in the kernel; a burst of them stays below the smallest usual buffer, 208 KB.
_BURST_PACKETS = 32
_DRAIN_PACKETS_MAX = 4_096
_BUFFERS = (
    (_SO_RCVBUFFORCE, socket.SO_RCVBUF, 4 * 1024 * 1024),
    (_SO_SNDBUFFORCE, socket.SO_SNDBUF, 16 * 1024 * 1024),  # what waits for neighbours that are not there
)
_MESSAGE_BYTES_MAX = 128
_PAUSE_MS = 1
_STALL_NS = 4 * SECOND  # neighbours that are not there hold the send buffer for the 3 s of their ARP probes

_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS})  # the send buffer or the neighbour table: wait and ask again
_NO_WAY = frozenset(  # the system knows of no way there: for this target no answer, for the sweep no trouble
    {
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.ENETDOWN,
        errno.EADDRNOTAVAIL,
        errno.ECONNREFUSED,
        errno.EACCES,  # a broadcast address of one of our networks, or a "prohibit" route
        errno.EPERM,  # the packet filter of this box
        errno.EINVAL,  # an address no packet can go to
        errno.ENODEV,
        errno.ENXIO,
    }
)
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})

_Clock = Callable[[], int]


def _opened(version: int, privileged: bool) -> icmplib.ICMPv4Socket | icmplib.ICMPv6Socket:
    """A new socket of icmplib's. OSError as the system gave it, which icmplib keeps only as context."""
    try:
        return _SOCKETS[version](privileged=privileged)
    except icmplib.ICMPSocketError as error:
        cause = error.__context__
        raise cause if isinstance(cause, OSError) else error from None


class _Line:
    """One socket: raw where that is allowed, else the datagram socket that Linux has for pings (ping_group_range)."""

    def __init__(self, version: int) -> None:
        self.version = version
        try:
            self._owner, self._raw = _opened(version, privileged=True), True
        except PermissionError:
            try:
                self._owner, self._raw = _opened(version, privileged=False), False
            except PermissionError:
                raise PingNotPermitted from None
        self.socket: socket.socket = self._owner.sock
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS_NEW, 1)
        for forced, modest, size in _BUFFERS:
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, forced, size)
            except PermissionError:  # without CAP_NET_ADMIN: as much as the system gives to anyone
                self.socket.setsockopt(socket.SOL_SOCKET, modest, size)
        if self._raw:
            self.socket.setsockopt(*_FILTER[version])

    def replies(self, cookie: bytes) -> tuple[list[tuple[int, object, int]], bool]:
        """Take what waits in the socket: (sequence number, who replied, arrival in Unix ns) each, and whether nothing
        is left in it."""
        receive, version, headed = self.socket.recvmsg, self.version, self._raw and self.version == 4
        found: list[tuple[int, object, int]] = []
        for _ in range(_DRAIN_PACKETS_MAX):
            try:
                message, ancillary, _flags, place = receive(_MESSAGE_BYTES_MAX, _ANCILLARY_BYTES)
            except BlockingIOError:
                return found, True
            if headed and message:
                message = message[(message[0] & 0x0F) * 4 :]  # the IP header (RFC 791 section 3.1, IHL)
            seq = echo_reply(version, message, cookie)
            if seq is not None:
                seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2])
                found.append((seq, place, seconds * SECOND + nanoseconds))
        return found, False

    def drops(self) -> int:
        """How many packets the kernel has thrown away because this socket's buffer was full."""
        raw = self.socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO_DROPS.size)
        drops: int = _MEMINFO_DROPS.unpack(raw)[0]
        return drops

    def close(self) -> None:
        self._owner.close()


def _zoned(known: Target) -> Target:
    """The target with the number of its interface now; 0, to which the kernel finds no way, while there is none."""
    if not known.zone:
        return known
    try:
        index = int(known.zone) if known.zone.isdecimal() else socket.if_nametoindex(known.zone)
    except OSError:
        index = 0
    return known._replace(place=(known.place[0], 0, 0, index))


class _Round:
    """One sweep under way. `open` counts the targets that may still answer."""

    def __init__(
        self, targets: Sequence[Target], lines: dict[int, _Line], monotonic_ns: _Clock, wall_ns: _Clock
    ) -> None:
        self.targets, self.lines, self.monotonic_ns, self.wall_ns = targets, lines, monotonic_ns, wall_ns
        self.cookie, ident = secrets.token_bytes(COOKIE_BYTES), secrets.randbits(16)
        self.ways = {
            version: (line.socket.sendto, echo_requests(version, ident, self.cookie)) for version, line in lines.items()
        }
        self.sent_ns = [0] * len(targets)
        self.rtt_ns: list[int | None] = [None] * len(targets)
        self.open = len(targets)
        self.poll = select.poll()
        for line in lines.values():
            self.poll.register(line.socket, select.POLLIN)
        self.empty_ns = dict.fromkeys(lines, monotonic_ns())

    def run(self, timeout_ns: int, interval_ns: int) -> int:
        """Ask and listen by turns, so that no more than a burst of replies ever waits in a socket.

        How many targets were asked: fewer than all when nothing could be sent for `_STALL_NS`.
        """
        asked, total = 0, len(self.targets)
        now_ns = start_ns = self.monotonic_ns()
        deadline_ns = start_ns + _STALL_NS
        while self.open and now_ns < deadline_ns:
            due = min((now_ns - start_ns) // interval_ns + 1, asked + _BURST_PACKETS, total)
            reached = self.ask(asked, due)
            if reached > asked:
                asked = reached
                deadline_ns = self.monotonic_ns() + (timeout_ns if asked == total else _STALL_NS)
            elif asked == total:
                self.poll.poll((deadline_ns - now_ns) / MS)
            else:
                self.poll.poll(_PAUSE_MS)  # ahead of the pace, or nothing can be sent
            self.collect()
            now_ns = self.monotonic_ns()
        self.collect()  # what came in time counts, however late we fetch it
        return asked

    def ask(self, first: int, end: int) -> int:
        """Send the requests from `first` to before `end`; where to go on."""
        targets, ways, sent_ns, monotonic_ns = self.targets, self.ways, self.sent_ns, self.monotonic_ns
        for seq in range(first, end):
            version, place, _zone = targets[seq]
            if version not in ways:
                self.open -= 1
                continue
            send, request = ways[version]
            message = request(seq)
            sent_ns[seq] = monotonic_ns()
            try:
                send(message, place)
            except OSError as error:
                if error.errno in _FULL:
                    return seq
                if error.errno not in _NO_WAY:
                    raise
                self.open -= 1
        return end

    def collect(self) -> None:
        for version, line in self.lines.items():
            began_ns = self.monotonic_ns()
            found, emptied = line.replies(self.cookie)
            now_ns, wall_ns = self.monotonic_ns(), self.wall_ns()
            for seq, place, stamp_ns in found:
                # The kernel stamps arrival in wall time, so waiting in the socket is not counted. A stamp that is not
                # between "the socket was empty" and now is of a wall clock that was set meanwhile: then now it is.
                came_ns = now_ns - (wall_ns - stamp_ns)
                if not self.empty_ns[version] <= came_ns <= now_ns:
                    came_ns = now_ns
                if seq < len(self.targets) and place == self.targets[seq].place and self.rtt_ns[seq] is None:
                    self.rtt_ns[seq] = came_ns - self.sent_ns[seq]
                    self.open -= 1
            if emptied:
                self.empty_ns[version] = began_ns


class Sweeper:
    """Asks all targets at once, over one socket per IP version. Not thread-safe: one sweep at a time.

    `packets_per_s_max`  how fast requests leave; a narrow radio link wants less than a LAN
    `dropped`            packets, our replies among them, that the kernel threw away during sweeps because this box was
                         too slow to fetch them. Not 0 means that some of the loss told may be our own
    """

    def __init__(self, packets_per_s_max: int = 100_000) -> None:
        assert packets_per_s_max > 0
        self.dropped = 0
        self._interval_ns = SECOND // packets_per_s_max
        self._lines: dict[int, _Line] = {}

    def open(self) -> None:
        """Take the IPv4 socket; the one for IPv6 follows with the first such target. Raises PingNotPermitted."""
        self._line(4)

    def close(self) -> None:
        """Give the sockets back. A later sweep opens them anew."""
        while self._lines:
            self._lines.popitem()[1].close()

    def sweep(
        self,
        addresses: Sequence[str],
        *,
        timeout_s: float = 1.0,
        monotonic_ns: _Clock = time.monotonic_ns,
        wall_ns: _Clock = time.time_ns,
    ) -> list[Echo]:
        """Ask each address once; the echoes, in the same order. Blocks until all have answered or `timeout_s` has
        passed since the last was asked. A reply counts when it came within `timeout_s` of its own request.

        `wall_ns` is the clock by which the kernel stamps arrivals (CLOCK_REALTIME); it may be wrong and may jump.
        ValueError, before anything is sent, for an address that `refusal` refuses and for more than `TARGETS_MAX`;
        PingNotPermitted; OSError when a socket fails as a whole. No way to a target is no answer from it. But a target
        that was not asked (nothing could be sent for seconds) has no echo: that the box is stuck is not their silence.
        """
        if len(addresses) > TARGETS_MAX:
            raise ValueError(f"one sweep asks at most {TARGETS_MAX} targets, not {len(addresses)}")
        targets = [_zoned(target(address)) for address in addresses]
        lines = {version: line for version in {t.version for t in targets} if (line := self._line(version))}
        for line in lines.values():
            while not line.replies(b"")[1]:  # what others' pings left here since the last sweep
                pass
        drops = {version: line.drops() for version, line in lines.items()}
        timeout_ns = round(timeout_s * SECOND)
        sweep = _Round(targets, lines, monotonic_ns, wall_ns)
        asked = sweep.run(timeout_ns, self._interval_ns)
        self.dropped += sum(line.drops() - drops[version] for version, line in lines.items())
        return [
            Echo(address, None if rtt_ns is None or rtt_ns > timeout_ns else rtt_ns / MS)
            for address, rtt_ns in zip(addresses[:asked], sweep.rtt_ns[:asked], strict=True)
        ]

    def _line(self, version: int) -> _Line | None:
        """The socket for this IP version; None for IPv6 where the kernel does not speak it."""
        if version not in self._lines:
            try:
                self._lines[version] = _Line(version)
            except OSError as error:
                if version == 6 and error.errno in _NO_IPV6:
                    return None
                raise
        return self._lines[version]
