"""What does a hub answer one site, and when? The hub's half of the return, as a decider: messages and the time in,
messages out. What it needs of its data, and what it stores, it asks of a `Shelf`; all of one batch of messages is one
transaction, and the answers leave after its commit.

Invariants
  1  Nothing of a session is stored unless its fence is still the newest, checked in the same transaction.
  2  An `Ack` speaks of what is committed. (The caller sends what `heard` returns only after the commit.)
  3  What does not fit is answered and named, never stored over: a hole is asked for again, a fork is kept as a branch
     and the site held in quarantine, a block that does not hold is kept apart with its reason.
  4  A receipt is offered only when the site said that nothing is left, and only for what is stored here.
  5  A cloned or restored site is found by its ratchet or by the ends of its logs, at the first contact of the second
     copy; a hub that was restored itself is found by a receipt that it signed and does not know.
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from fleet import envelope
from fleet.envelope import Log
from fleet.limits import MS, SECOND
from sync import messages, receipt, stream
from sync.flow import Inflow, Outflow
from sync.messages import (
    Ack,
    Bye,
    Challenge,
    Chunk,
    Custody,
    Heads,
    Hello,
    Lane,
    Level,
    LogHead,
    Message,
    Ping,
    Pong,
    Present,
    Proof,
    Quarantined,
    ReceiptAccepted,
    ReceiptDisputed,
    ReceiptOffered,
    Refused,
    Released,
    Rewind,
    SnapshotsKept,
    Stream,
    Want,
    Welcome,
)
from sync.protocol import PING_NS, RECEIPT_NS, SILENCE_NS, Caps

WINDOW_BYTES = 4 * 1024 * 1024  # granted to a site, when there is room
_REWINDS_MAX = 3  # of one session, before a person has to look
_WANT_BYTES_FIRST = 64 * 1024
_WANT_BYTES_MAX = 512 * 1024
_WANTS_MAX = 8
_WANT_NS_MAX = 30 * SECOND


class Phase(StrEnum):
    """Of one session at the hub."""

    NONE = "NONE"
    CHALLENGED = "CHALLENGED"
    REPLAYING = "REPLAYING"
    LIVE = "LIVE"
    QUARANTINED = "QUARANTINED"


class Me(NamedTuple):
    """Who this hub is."""

    tenant: str
    writer: str
    name: str
    public_key: bytes
    sign: Callable[[bytes], bytes]


class Known(NamedTuple):
    """What the hub remembers of a site. `logs` are the ends as stored here, by epoch."""

    writer: str
    name: str
    public_key: bytes
    token: bytes
    former: bytes
    quarantine: tuple[str, ...]
    receipt_number: int
    logs: Sequence[LogHead]


class Took(NamedTuple):
    """What became of a group: the end of its log here now, and what stopped it (empty: nothing). `again_from` asks for
    what is missing; `forked` and `bad` call for a person."""

    head: LogHead | None
    problem: str = ""
    missing: bool = False
    forked: bool = False
    bad: bool = False


class Missing(NamedTuple):
    """A segment whose bytes are wanted; `have` is how many are here."""

    sha256: bytes
    size: int
    have: int


class Shelf(Protocol):
    """The hub's data, as far as one session needs it. Every call is inside the batch's transaction."""

    def known(self, writer: str) -> Known | None: ...

    def admit(self, hello: Hello, now_ns: int) -> str:
        """A site that is not known shows an invitation: enter it. The reason why not, or empty."""
        ...

    def welcome(self, writer: str, token: bytes, former: bytes, told: bytes, now_ns: int) -> int:
        """Take the next fence and remember the session's token."""
        ...

    def settled(self, writer: str) -> None:
        """The site has the token: the one before it is void."""
        ...

    def holds(self, writer: str, fence: int) -> bool: ...

    def hash_at(self, log: Log, seq: int) -> bytes | None: ...

    def take(self, writer: str, key: bytes, group: stream.Group, now_ns: int) -> Took: ...

    def present(self, writer: str, said: Present, now_ns: int) -> str:
        """Keep one part of the present. Why not, or empty."""
        ...

    def quarantine(self, writer: str, reasons: Sequence[str], now_ns: int) -> None: ...

    def receipt(self, writer: str, logs: Sequence[LogHead], now_ns: int) -> tuple[bytes, bytes] | None:
        """A new receipt over what is here up to `logs`: content and signature. None when it is not all here."""
        ...

    def countersigned(self, writer: str, number: int, signature: bytes, now_ns: int) -> str: ...

    def wanted(self, writer: str, limit: int) -> Sequence[Missing]: ...

    def chunk(self, writer: str, said: Chunk, now_ns: int) -> tuple[bool, str]:
        """Keep bytes of a segment. Whether it is whole and verified now, and what was wrong."""
        ...

    def compare(self, writer: str, theirs: Heads, fence: int, now_ns: int) -> Heads | None: ...

    def root(self, writer: str) -> bytes: ...

    def outgoing(self, writer: str) -> Sequence[tuple[LogHead, bytes]]:
        """The logs that are written towards this site: their ends and keys."""
        ...

    def blocks(self, log: Log, after_seq: int, bytes_max: int) -> Sequence[envelope.Block]: ...

    def apart(self, writer: str, reason: str, raw: bytes, now_ns: int) -> None:
        """Put bad input where a person finds it."""
        ...


class _Wanted(NamedTuple):
    window: int
    sha256: bytes
    offset: int
    size: int
    asked_ns: int


class Session:
    """One site's session; it lives as long as the hub's process and takes one hello after the other."""

    def __init__(self, me: Me, writer: str, caps: Caps | None = None) -> None:
        self.me, self.writer = me, writer
        self.caps = caps or Caps()
        self.phase = Phase.NONE
        self.since_ns = 0
        self.heard_ns = 0
        self.fence = 0
        self.reason = ""
        self.logs: dict[int, LogHead] = {}  # the ends that the site said
        self.acked: dict[int, int] = {}
        self.hello: Hello | None = None
        self.out = Outflow()
        self.window_bytes = WINDOW_BYTES
        self.receipt_ns = 0
        self.present_ns: int | None = None
        self._key = b""
        self._nonce = b""
        self._in = Inflow()
        self._unpacker = stream.Unpacker(me.tenant)
        self._packer = stream.Packer()
        self._sent: dict[tuple[str, int], int] = {}
        self._control: deque[Message] = deque()
        self._rewinds = 0
        self._level: tuple[LogHead, ...] = ()
        self._offered = 0
        self._number = 0  # of the newest present
        self._parts: set[int] = set()
        self._pinged_ns = 0
        self._wanted: dict[int, _Wanted] = {}
        self._window = 0
        self._want_bytes = _WANT_BYTES_FIRST
        self._asked: dict[bytes, int] = {}  # by segment, how far it has been asked for
        self._unsettled = False
        self._by_file = False

    @property
    def in_session(self) -> bool:
        return self.phase in (Phase.REPLAYING, Phase.LIVE, Phase.QUARANTINED)

    def line_down(self, now_ns: int) -> None:
        self._end(now_ns)

    def _end(self, now_ns: int) -> None:
        if self.phase is not Phase.NONE:
            self.since_ns = now_ns
        self.phase = Phase.NONE
        self._control.clear()
        self._wanted.clear()
        self.fence = 0

    def carried(self, hello: Hello, now_ns: int, shelf: Shelf) -> str:
        """Take in what a file brings, in place of a line: its sender was proven by the file's own signature, so there
        is no nonce, and no fence to take: it all happens in one transaction. Why not, or empty."""
        known = shelf.known(self.writer)
        reason = self._unfit(hello, known)
        if not reason and known is None:
            reason = shelf.admit(hello, now_ns)
            known = shelf.known(self.writer)
        if reason or known is None:
            return reason or "the site could not be entered"
        place = self._place(hello, known, shelf)
        if isinstance(place, Refused):
            if place.new_epoch:  # an older file than what is here: what it brings is here, or is named as a fork
                place = ""
            else:
                return place.reason
        self.hello, self._key = hello, known.public_key
        self.logs = {head.epoch: head for head in hello.logs}
        self.acked = {head.epoch: head.seq for head in known.logs}
        self._in.begin(1)
        self.out.granted_bytes = 1 << 40
        self._restream(1, hello.heard)
        self.phase, self.since_ns, self.heard_ns, self._by_file = Phase.REPLAYING, now_ns, now_ns, True
        if place:
            self._hold((place,), now_ns, shelf)
        return ""

    def towards(self, heard: Iterable[LogHead], now_ns: int) -> None:
        """Speak into a file for a site that has the hub's log so far."""
        self.out.granted_bytes = 1 << 40
        self._restream(1, tuple(heard))
        self.phase, self.since_ns, self.heard_ns, self._by_file = Phase.REPLAYING, now_ns, now_ns, True

    # -- what the site says -------------------------------------------------------------------------------------

    def heard(self, message: Message | messages.Unknown, now_ns: int, nonce: bytes, token: bytes, shelf: Shelf) -> None:
        """`nonce` and `token` are fresh random bytes, used if this message needs them."""
        if isinstance(message, messages.Unknown):
            return
        match message:
            case Hello():
                self._hello(message, now_ns, nonce, shelf)
                return
            case Proof():
                self._proof(message, now_ns, token, shelf)
                return
            case _:
                pass
        if not self.in_session or getattr(message, "fence", None) != self.fence:
            return
        if not self._by_file and not shelf.holds(self.writer, self.fence):  # invariant 1
            self.reason = "a newer session of this site is open"
            self._end(now_ns)
            return
        self.heard_ns = now_ns
        if self._unsettled:
            self._unsettled = False
            shelf.settled(self.writer)
        match message:
            case Present():
                self._present(message, now_ns, shelf)
            case Stream():
                self._stream(message, now_ns, shelf)
            case Chunk():
                self._chunk(message, now_ns, shelf)
            case Ack(stream=number, offset=offset, window_bytes=window, resend=resend):
                self.out.acked(number, offset, window, now_ns)
                if resend:
                    self.out.resend(now_ns)
            case Rewind(stream=number, heads=heads):
                if number == self.out.stream:
                    self._restream(number + 1, heads)
            case Level(logs=logs):
                self._levelled(logs, now_ns, shelf)
            case ReceiptAccepted(number=number, signature=signature):
                problem = shelf.countersigned(self.writer, number, signature, now_ns)
                if problem:
                    self._hold((problem,), now_ns, shelf)
                elif self.phase is Phase.REPLAYING:
                    self.phase, self.since_ns = Phase.LIVE, now_ns
            case ReceiptDisputed(reason=reason):
                self._hold((f"the site disputes a receipt: {reason}",), now_ns, shelf)
            case Heads():
                answer = shelf.compare(self.writer, message, self.fence, now_ns)
                if answer is not None:
                    self._control.append(answer)
            case Ping(number=number):
                self._control.append(Pong(self.fence, number))
            case Bye():
                self._end(now_ns)
            case _:
                pass

    def _hello(self, said: Hello, now_ns: int, nonce: bytes, shelf: Shelf) -> None:
        self._end(now_ns)
        self.hello, self._nonce = said, nonce
        known = shelf.known(self.writer)
        reason = self._unfit(said, known)
        if reason:
            self._refuse(said, reason)
            return
        signature = self.me.sign(messages.challenge_content(said, self.me.writer, nonce))
        version = min(said.newest, messages.PROTOCOL)
        self._control.append(Challenge(version, self.me.writer, self.me.public_key, nonce, signature))
        self.phase = Phase.CHALLENGED

    def _unfit(self, said: Hello, known: Known | None) -> str:
        if said.writer != self.writer:
            return "the hello names another site than the line it came over"
        if said.tenant != self.me.tenant:
            return "this hub keeps no logs of that tenant"
        if said.oldest > messages.PROTOCOL:
            return "the site speaks only newer versions of the protocol; update the hub"
        if said.newest < messages.PROTOCOL_OLDEST:
            return "the site speaks only older versions of the protocol; update the site"
        if known is not None and known.public_key != said.public_key:
            return "the site shows another key than the one it was entered with"
        if known is None and not said.invitation:
            return "the site is not known here; it needs an invitation"
        return ""

    def _refuse(
        self, said: Hello, reason: str, *, again_s: int = 30, new_epoch: bool = False, common: LogHead | None = None
    ) -> None:
        signature = self.me.sign(messages.refusal_content(said, reason, new_epoch, common))
        self._control.append(Refused(reason, again_s, new_epoch, common, said.nonce, signature))
        self.reason, self.phase = reason, Phase.NONE

    def _proof(self, said: Proof, now_ns: int, token: bytes, shelf: Shelf) -> None:
        hello = self.hello
        if hello is None or self.phase is not Phase.CHALLENGED:
            return
        try:
            key = envelope.public_key(hello.public_key)
        except ValueError:
            self._refuse(hello, "the site's key is none")
            return
        content = messages.proof_content(hello, self.me.writer, self._nonce)
        if not envelope.vouches(key, said.signature, content):
            self._refuse(hello, "the site's proof does not match its key")
            return
        known = shelf.known(self.writer)
        if known is None:
            reason = shelf.admit(hello, now_ns)
            known = shelf.known(self.writer)
            if reason or known is None:
                self._refuse(hello, reason or "the site could not be entered")
                return
        place = self._place(hello, known, shelf)
        if isinstance(place, Refused):
            self._refuse(hello, place.reason, new_epoch=place.new_epoch, common=place.common, again_s=place.again_s)
            return
        reasons = list(known.quarantine)
        clone = self._ratchet(said, known)
        if clone and clone not in reasons:
            reasons.append(clone)
        if place and place not in reasons:
            reasons.append(place)
        self._welcome(hello, known, token, reasons, now_ns, shelf)

    def _place(self, hello: Hello, known: Known, shelf: Shelf) -> Refused | str:
        """How the site's ends and ours fit. A refusal when it has to begin a new epoch; the sentence of a fork; or
        empty."""
        theirs = {head.epoch: head for head in hello.logs}
        newest = max(theirs, default=0)
        for here in known.logs:
            said = theirs.get(here.epoch) or LogHead(self.writer, here.epoch, 0, envelope.GENESIS)
            if said.seq > here.seq:
                continue  # whether it goes on from ours shows in the chain of its next block
            log = Log(self.me.tenant, self.writer, here.epoch)
            same = here.hash if said.seq == here.seq else shelf.hash_at(log, said.seq) if said.seq else said.hash
            if same != said.hash:
                return self._forked(here.epoch, said.seq)
            if said.seq < here.seq and here.epoch >= newest:
                words = (
                    f"the site was set back: its log ends at event {said.seq:,} of epoch {here.epoch}, and"
                    f" {here.seq:,} are here; it goes on in a new epoch"
                )
                return Refused(words, 0, True, said)
        return ""

    def _forked(self, epoch: int, seq: int) -> str:
        return f"epoch {epoch} was continued in two ways before event {seq + 1:,}: this box was cloned or restored"

    def _ratchet(self, said: Proof, known: Known) -> str:
        if not known.token:
            return ""
        for token in (known.token, known.former):
            if token and hmac.compare_digest(hmac.digest(token, self._nonce, "sha256"), said.ratchet):
                return ""
        if self._is_ours(said.receipt, known):
            return ""  # we forgot what we signed: this hub was restored, not the site
        return "another copy of this site has been here since: one of the two is a clone or an old image"

    def _is_ours(self, raw: bytes, known: Known) -> bool:
        """A receipt that this hub signed and does not remember."""
        content, signature = raw[:-64], raw[-64:]
        try:
            held = receipt.read(content)
        except ValueError:
            return False
        signed = receipt.Signed(content, signature)
        ours = receipt.check(signed, envelope.public_key(self.me.public_key)) is receipt.Verdict.GOOD
        return ours and held.site == self.writer and held.number > known.receipt_number

    def _welcome(self, hello: Hello, known: Known, token: bytes, reasons: list[str], now_ns: int, shelf: Shelf) -> None:
        self.fence = shelf.welcome(self.writer, token, known.token, hello.program.encode()[:64], now_ns)
        self._unsettled = True
        self._key = known.public_key
        self.logs = {head.epoch: head for head in hello.logs}
        self.acked = {head.epoch: head.seq for head in known.logs}
        self._in.begin(1)
        self._unpacker = stream.Unpacker(self.me.tenant)
        self.out.granted_bytes = 0
        self._restream(1, hello.heard)
        self._rewinds, self._level, self._offered = 0, (), 0
        self._number, self._parts, self._wanted, self._asked = 0, set(), {}, {}
        self.since_ns = self.heard_ns = self._pinged_ns = now_ns
        self.phase = Phase.REPLAYING
        self._control.append(
            Welcome(self.fence, token, tuple(known.logs), self.window_bytes, now_ns, known.receipt_number)
        )
        self._control.append(Heads(self.fence, shelf.root(self.writer)))
        if reasons:
            self._hold(reasons, now_ns, shelf)

    def _hold(self, reasons: Sequence[str], now_ns: int, shelf: Shelf) -> None:
        if self.phase is not Phase.QUARANTINED:
            self.phase, self.since_ns = Phase.QUARANTINED, now_ns
        known = shelf.known(self.writer)
        before = list(known.quarantine) if known else []
        every = [*before, *(reason for reason in reasons if reason not in before)]
        if every != before:
            shelf.quarantine(self.writer, every, now_ns)
        self._control.append(Quarantined(self.fence, tuple(every)))

    def release(self, now_ns: int, shelf: Shelf) -> None:
        """A person says that the site may go on."""
        shelf.quarantine(self.writer, (), now_ns)
        if self.phase is Phase.QUARANTINED:
            self.phase, self.since_ns, self._level = Phase.REPLAYING, now_ns, ()
            self._control.append(Released(self.fence))

    # -- lanes --------------------------------------------------------------------------------------------------

    def _present(self, said: Present, now_ns: int, shelf: Shelf) -> None:
        key = envelope.public_key(self._key)
        log = Log(self.me.tenant, self.writer, 0)
        if not envelope.vouches(key, said.signature, messages.present_content(log, said)):
            shelf.apart(self.writer, "a present that the site did not sign", said.rows[:4096], now_ns)
            return
        if said.number < self._number or said.parts < 1 or not 0 <= said.part < said.parts:
            return
        if said.number > self._number:
            self._number, self._parts = said.number, set()
        problem = shelf.present(self.writer, said, now_ns)
        if problem:
            shelf.apart(self.writer, problem, said.rows[:4096], now_ns)
        self._parts.add(said.part)
        if len(self._parts) >= said.parts:
            self.present_ns = said.at_ns
            self._control.append(SnapshotsKept(self.fence, said.number))

    def _stream(self, said: Stream, now_ns: int, shelf: Shelf) -> None:
        taken = self._in.take(said.stream, said.offset, said.data)
        if said.stream != self._in.stream:
            return
        if taken.hole:
            self._control.append(Ack(self.fence, said.stream, self._in.offset, self.window_bytes, resend=True))
            return
        head: LogHead | None = None
        try:
            for group in self._unpacker.feed(taken.data) if taken.data else ():
                if group.log.writer != self.writer:
                    raise stream.StreamProblem("a block of another log stands in this site's stream")
                took = shelf.take(self.writer, self._key, group, now_ns)
                head = took.head or head
                if took.head is not None:
                    self.acked[took.head.epoch] = took.head.seq
                if took.forked:
                    self._hold((took.problem,), now_ns, shelf)
                elif took.problem:
                    if took.bad:
                        shelf.apart(self.writer, took.problem, group.blocks[0].events[0][:4096], now_ns)
                    raise stream.StreamProblem(took.problem)
        except stream.StreamProblem as problem:
            self._rewind(str(problem), now_ns, shelf)
            return
        self._control.append(Ack(self.fence, said.stream, self._in.offset, self.window_bytes, head))

    def _rewind(self, reason: str, now_ns: int, shelf: Shelf) -> None:
        self._rewinds += 1
        self._in.begin(self._in.stream + 1)
        self._unpacker = stream.Unpacker(self.me.tenant)
        known = shelf.known(self.writer)
        heads = tuple(known.logs) if known else ()
        if self._rewinds > _REWINDS_MAX:
            self._hold((reason,), now_ns, shelf)
            return
        self._control.append(Rewind(self.fence, self._in.stream - 1, heads, reason))

    def _levelled(self, logs: tuple[LogHead, ...], now_ns: int, shelf: Shelf) -> None:
        self._level = logs
        for head in logs:
            self.logs[head.epoch] = head
        if self.phase is not Phase.QUARANTINED:
            self._offer(now_ns, shelf)

    def _offer(self, now_ns: int, shelf: Shelf) -> None:
        made = shelf.receipt(self.writer, self._level, now_ns)  # invariant 4
        if made is not None:
            self.receipt_ns = now_ns
            self._control.append(ReceiptOffered(self.fence, *made))

    def _chunk(self, said: Chunk, now_ns: int, shelf: Shelf) -> None:
        asked = self._wanted.pop(said.window, None)
        if self._by_file:
            asked = _Wanted(said.window, said.sha256, said.offset, len(said.data), now_ns)
        if asked is None or asked.sha256 != said.sha256:
            return
        took_ns = now_ns - asked.asked_ns
        if took_ns < SECOND // 2 and len(said.data) == asked.size:
            self._want_bytes = min(self._want_bytes * 2, _WANT_BYTES_MAX)
        elif took_ns > 4 * SECOND:
            self._want_bytes = max(self._want_bytes // 2, 4 * 1024)
        whole, problem = shelf.chunk(self.writer, said, now_ns)
        if problem:
            self._asked.pop(said.sha256, None)
            shelf.apart(self.writer, problem, b"", now_ns)
        if whole:
            self._asked.pop(said.sha256, None)
            self._control.append(Custody(self.fence, said.sha256))

    def _want(self, now_ns: int, shelf: Shelf) -> Message | None:
        for window, asked in tuple(self._wanted.items()):
            if now_ns - asked.asked_ns > _WANT_NS_MAX:
                del self._wanted[window]
                self._asked.pop(asked.sha256, None)
        if len(self._wanted) >= _WANTS_MAX:
            return None
        for missing in shelf.wanted(self.writer, _WANTS_MAX + 1):
            offset = max(self._asked.get(missing.sha256, 0), missing.have)
            size = min(missing.size - offset, self._want_bytes)
            if size <= 0:
                continue
            self._window += 1
            self._asked[missing.sha256] = offset + size
            self._wanted[self._window] = _Wanted(self._window, missing.sha256, offset, size, now_ns)
            return Want(self.fence, self._window, missing.sha256, offset, size)
        return None

    # -- what the hub says --------------------------------------------------------------------------------------

    def pump(self, now_ns: int, shelf: Shelf, room_bytes: int = 1 << 62) -> list[Message]:
        """What to send now, most urgent first. To be called in the batch's transaction, sent after its commit."""
        said: list[Message] = []
        while room_bytes > 0:
            message = self._next(now_ns, shelf)
            if message is None:
                break
            said.append(message)
            size = len(getattr(message, "data", b"")) + 64
            room_bytes -= size
            if message.LANE is not Lane.CONTROL:
                self.caps.spent(size, now_ns)
        return said

    def _next(self, now_ns: int, shelf: Shelf) -> Message | None:
        if self._control and self.caps.allows(Lane.CONTROL, now_ns):
            return self._control.popleft()
        if not self.in_session:
            return None
        if self.caps.allows(Lane.LOG, now_ns) and self.phase is not Phase.QUARANTINED and self.out.granted_bytes:
            self.out.tick(now_ns)
            if self.out.wants:
                self._fill(shelf)
            part = self.out.due(now_ns)
            if part is not None:
                return Stream(self.fence, self.out.stream, part.offset, part.data)
        return self._want(now_ns, shelf) if self.caps.allows(Lane.SEGMENTS, now_ns) else None

    def _fill(self, shelf: Shelf) -> None:
        for head, key in shelf.outgoing(self.writer):
            sent = self._sent.get((head.writer, head.epoch), 0)
            if head.seq <= sent:
                continue
            log = Log(self.me.tenant, head.writer, head.epoch)
            blocks = tuple(shelf.blocks(log, sent, self.out.group_bytes))
            if blocks:
                self.out.add(self._packer.pack(stream.Group(log, key, blocks)))
                self._sent[head.writer, head.epoch] = blocks[-1].head.seq
            return

    def _restream(self, number: int, heads: Sequence[LogHead]) -> None:
        self.out.begin(number, self.out.granted_bytes)
        self._packer = stream.Packer()
        self._sent = {(head.writer, head.epoch): head.seq for head in heads}

    def tick(self, now_ns: int, shelf: Shelf) -> None:
        """At least once a second."""
        if not self.in_session:
            return
        silent = now_ns - self.heard_ns
        if silent > SILENCE_NS:
            self._end(now_ns)
        elif silent > PING_NS and now_ns - self._pinged_ns > PING_NS:
            self._pinged_ns = now_ns
            self._control.append(Ping(self.fence, now_ns // MS))
        if self.phase is Phase.LIVE and now_ns - self.receipt_ns > RECEIPT_NS:
            self.receipt_ns = now_ns
            known = shelf.known(self.writer)
            if known is not None and tuple(known.logs) != self._level:
                self._level = tuple(known.logs)
                self._offer(now_ns, shelf)
