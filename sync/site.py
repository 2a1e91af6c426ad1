"""What does a site say to its hub, and when? The site's half of the return, as a decider: messages and the time in,
messages out. What it needs of the site's data it asks of a `Shelf`.

Invariants
  1  Priority: control before the present, the present before the log, the log before segments. `pump` decides that, and
     nothing else does.
  2  The site forgets nothing because of an `Ack`: that only moves the window. What the hub holds is what a receipt,
     signed by the key that was pinned, says it holds.
  3  LIVE is declared in the step that checks the receipt against the log, inside one critical section with appends.
  4  A message of another session (fence) changes nothing.
  5  The ratchet's new token is on the disk before anything is said in its session.
  6  Time is an argument, and only ever compared with itself: the clock of this box may be years wrong.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from fleet import envelope
from fleet.envelope import Block, Log
from fleet.limits import MS, SECOND
from fleet.present import Present as NodePresent
from sync import messages, present, receipt, stream
from sync.flow import Inflow, Outflow, Patience
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
    Order,
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
    RosterHeld,
    RosterOffered,
    SnapshotsKept,
    Stream,
    Want,
    Welcome,
)
from sync.protocol import HELLO_NS, PING_NS, SILENCE_NS, TABLE, Caps, Cause, State, token_of

_PRESENT_NS_MIN = SECOND // 2
_PRESENT_LOOK_NS = SECOND // 20  # after a look that found nothing new
_PRESENT_RESEND_NS = 8 * SECOND
_PRESENT_BYTES = 48 * 1024  # of a whole present, in one part
_BEHIND_EVENTS = 5_000  # a live site with more than that to send is replaying again
_BEHIND_NS = 10 * SECOND
_WANTS_MAX = 64  # of the hub's wishes for segments
_ASKED_MAX = 64  # of its words about documents; the oldest goes, and the next comparison finds what differs
_CUSTODY_MAX = 100_000
_LEVEL_NS = 5 * SECOND  # a level that nothing came of is said again
_CLOCK_BACK_NS = SECOND
_DOUBTED_MAX = 3  # beyond it the whole present is said
_BYES_MAX = 5
_REASON_CHARS_MAX = 500
_WINDOW_BYTES = 1024 * 1024  # of the hub's log, towards us
CONTROL_MAX = 1_024  # messages that wait; beyond it the oldest goes, as if the line had lost it


class Me(NamedTuple):
    """Who this site is. `sign` is by the writer's key."""

    log: Log
    site: str
    public_key: bytes
    sign: Callable[[bytes], bytes]
    program: str = ""
    sealing_key: bytes = b""  # X25519, for files on a stick


class Memory(NamedTuple):
    """What the shelf remembers of the hub: `hub` and `hub_key` are pinned with the invitation, or at the first
    welcome; `receipt` is the newest one, as the hub signed it."""

    hub: str = ""
    hub_key: bytes = b""
    token: bytes = b""
    invitation: bytes = b""
    receipt_number: int = 0
    receipt: bytes = b""
    alone_since_ns: int = 0


class Answer(NamedTuple):
    """What the shelf says to an offered receipt: its signature, or why not."""

    signature: bytes
    reason: str = ""


class Shelf(Protocol):
    """The site's data, as far as the protocol needs it. Every call is inside one transaction of the site's database."""

    def memory(self) -> Memory: ...

    def logs(self) -> Sequence[tuple[LogHead, bytes]]:
        """The end and the public key of every log of this site that is not empty, oldest epoch first."""
        ...

    def heard(self) -> Sequence[LogHead]:
        """The ends of the hub's logs towards this site, as they are here."""
        ...

    def hlc(self) -> int: ...

    def remember(self, hub: str, hub_key: bytes, token: bytes, fence: int, now_ns: int) -> None: ...

    def blocks(self, log: Log, after_seq: int, bytes_max: int) -> Sequence[Block]: ...

    def presents(self) -> Mapping[str, NodePresent]:
        """Every node, an object that is replaced when anything about it changes."""
        ...

    def take(self, group: stream.Group, hub_key: bytes, now_ns: int) -> tuple[LogHead | None, str]:
        """Store blocks of the hub's log. The new end; or None and why not."""
        ...

    def chunk(self, sha256: bytes, offset: int, size: int) -> tuple[bytes, str]:
        """Bytes of a sealed segment; or none and why there are none."""
        ...

    def certify(self, content: bytes, hub_signature: bytes, hub_key: bytes, now_ns: int) -> Answer:
        """Check a receipt against what is here, sign and store it."""
        ...

    def roster(self, content: bytes, signature: bytes, hub: str, hub_key: bytes, now_ns: int) -> tuple[int, str]:
        """Take in the hub's people. The version that is here now, and why not this one. ValueError when the hub did not sign
        it."""
        ...

    def common(self, head: LogHead) -> int:
        """Up to which event the log here is surely the one that the hub has up to `head`."""
        ...

    def compare(self, theirs: Heads, now_ns: int) -> Sequence[Heads]:
        """Documents: what to say back. What the other side lacks is appended to the log again."""
        ...

    def new_epoch(self, reason: str, common: LogHead | None, now_ns: int) -> None: ...

    def turned(self, state: State, cause: Cause, reason: str, now_ns: int) -> None: ...


class Site:
    def __init__(self, me: Me, caps: Caps | None = None) -> None:
        self.me = me
        self.caps = caps or Caps()
        self.state = State.AUTONOMOUS
        self.reason = ""  # of the last refusal, in the hub's words
        self.again_ns = 0  # not to ask before
        self.hub = ""
        self.fence = 0
        self.acked: dict[int, int] = {}  # by epoch, as the hub said in this session
        self.quarantine: tuple[str, ...] = ()
        self.custody: set[bytes] = set()
        self.out = Outflow()
        self.heard_ns = 0
        self.level_seq: tuple[LogHead, ...] = ()
        self._hello: Hello | None = None
        self._hello_ns = 0
        self._hub_key = b""
        self._welcomed_ns = self._byes = 0
        self._proven = False  # the hub's challenge to this hello was answered
        self._control: deque[Message] = deque(maxlen=CONTROL_MAX)
        self._logs: Sequence[tuple[LogHead, bytes]] = ()  # as they end in this transaction
        self._mark: tuple[tuple[LogHead, ...], int] | None = None  # ends, and the offset at which they are all sent
        self._level_ns = self._ticked_ns = 0
        self._rewind: Rewind | None = None
        self._patience = Patience()
        self._in = Inflow()
        self._unpacker = stream.Unpacker(me.log.tenant)
        self._packer = stream.Packer()
        self._sent: dict[int, int] = {}  # by epoch, packed into the stream so far
        self._pinged_ns = 0
        self._number = 0
        self._present_ns = 0
        self._present_every_ns = _PRESENT_NS_MIN
        self._confirmed: Mapping[str, NodePresent] = {}
        self._doubted: list[Mapping[str, NodePresent]] = []  # said since, and neither confirmed nor surely lost
        self._under_way: tuple[int, Mapping[str, NodePresent], int, int] | None = None  # number, nodes, sent, parts
        self._parts: deque[Present] = deque()
        self._whole = True
        self._wants: deque[Want] = deque()
        self._asked: deque[Heads] = deque(
            maxlen=_ASKED_MAX
        )  # what the hub says of documents, until nothing is on its way
        self._behind_ns: int | None = None

    # -- the line ---------------------------------------------------------------------------------------------

    def line_up(self, now_ns: int, nonce: bytes, shelf: Shelf) -> None:
        """There is a line: say hello. To be called again when `due` says so."""
        if self.state is not State.AUTONOMOUS:
            return
        memory = shelf.memory()
        self.hub, self._hub_key = memory.hub, memory.hub_key
        log = self.me.log
        self._hello = Hello(
            messages.PROTOCOL_OLDEST,
            messages.PROTOCOL,
            log.tenant,
            log.writer,
            self.me.site,
            self.me.public_key,
            tuple(head for head, _ in shelf.logs()),
            tuple(shelf.heard()),
            shelf.hlc(),
            memory.alone_since_ns,
            nonce,
            hashlib.sha256(memory.invitation + log.writer.encode()).digest() if memory.invitation else b"",
            memory.receipt_number,
            self.me.program,
            self.me.sealing_key,
        )
        self._hello_ns = self.heard_ns = now_ns
        self._proven = False
        self._control.clear()
        self._control.append(self._hello)
        self._turn(Cause.LINE_UP, "", now_ns, shelf)

    def line_down(self, now_ns: int, shelf: Shelf) -> None:
        self._over(Cause.LINE_DOWN, "", now_ns, shelf)

    @property
    def in_session(self) -> bool:
        return self.state in (State.REPLAYING, State.LIVE, State.QUARANTINED)

    def _over(self, cause: Cause, reason: str, now_ns: int, shelf: Shelf) -> None:
        if (self.state, cause) in TABLE:
            self._turn(cause, reason, now_ns, shelf)
        self._control.clear()
        self._parts.clear()
        self._wants.clear()
        self._asked.clear()
        self._under_way = None
        self.fence = 0

    def _turn(self, cause: Cause, reason: str, now_ns: int, shelf: Shelf) -> None:
        state = TABLE.get((self.state, cause))
        if state is not None and state is not self.state:
            self.state = state
            shelf.turned(state, cause, reason, now_ns)

    # -- what the hub says ------------------------------------------------------------------------------------

    def heard(self, message: Message | messages.Unknown, now_ns: int, shelf: Shelf) -> None:
        if isinstance(message, messages.Unknown):
            return
        fence = getattr(message, "fence", None)
        if fence is not None and not isinstance(message, Welcome) and not (self.in_session and fence == self.fence):
            return  # invariant 4
        self.heard_ns = now_ns
        match message:
            case Challenge():
                self._challenged(message, now_ns, shelf)
            case Welcome():
                self._welcomed(message, now_ns, shelf)
            case Refused():
                self._refused(message, now_ns, shelf)
            case Ack(stream=number, offset=offset, window_bytes=window, head=head, resend=resend):
                self.out.acked(number, offset, window, now_ns)
                if head is not None and head.writer == self.me.log.writer:
                    self.acked[head.epoch] = max(self.acked.get(head.epoch, 0), head.seq)
                if resend:
                    self.out.asked_again(now_ns)
            case Rewind(stream=number, heads=heads):
                if number == self.out.stream:
                    self._restream(number + 1, heads, shelf)
            case SnapshotsKept(number=number):
                self._kept(number, now_ns)
            case Want():
                if len(self._wants) < _WANTS_MAX:
                    self._wants.append(message)
            case Custody(sha256=sha256):
                if len(self.custody) < _CUSTODY_MAX:
                    self.custody.add(sha256)
            case ReceiptOffered(content=content, signature=signature):
                self._offered(content, signature, now_ns, shelf)
            case Quarantined(reasons=reasons) if self._ordered(message):
                self.quarantine = reasons
                self._turn(Cause.QUARANTINE, "; ".join(reasons), now_ns, shelf)
            case Released() if self.state is State.QUARANTINED and self._ordered(message):
                self.quarantine = ()
                self.level_seq, self._mark = (), None
                self._turn(Cause.RELEASED, "", now_ns, shelf)
            case RosterOffered(content=content, signature=signature):
                self._people(content, signature, now_ns, shelf)
            case Heads():
                self._asked.append(message)  # what is on its way would be taken for missing, so `_next` looks at it
            case Stream():
                self._streamed(message, now_ns, shelf)
            case Ping(number=number):
                self._control.append(Pong(self.fence, number))
            case Bye(reason=reason):
                self._over(Cause.LINE_DOWN, reason, now_ns, shelf)
                # Two copies of one site would end each other's sessions for ever, as fast as the line allows.
                short = now_ns - self._welcomed_ns < SILENCE_NS
                self._byes = min(self._byes + 1, _BYES_MAX) if short else 0
                self.again_ns = now_ns + (SECOND << self._byes if short else 0)
            case _:
                pass

    def _challenged(self, said: Challenge, now_ns: int, shelf: Shelf) -> None:
        hello = self._hello
        if hello is None or self.state is not State.RETURNING:
            return
        known = self._hub_key or said.public_key
        try:
            key = envelope.public_key(known)
        except ValueError:
            return
        proven = envelope.vouches(key, said.signature, messages.challenge_content(hello, said.hub, said.nonce))
        if not proven or (self.hub and said.hub != self.hub):
            # Or it is the answer to an earlier hello, come late: either way the right one may still come.
            self.reason = "whoever answers there is not the hub that this site knows"
            return
        self.hub, self._hub_key = said.hub, known
        memory = shelf.memory()
        ratchet = hmac.digest(memory.token, said.nonce, "sha256") if memory.token else b""
        signature = self.me.sign(messages.proof_content(hello, said.hub, said.nonce))
        self._control.append(Proof(signature, ratchet, memory.receipt))
        self._proven = True

    def _welcomed(self, said: Welcome, now_ns: int, shelf: Shelf) -> None:
        hello = self._hello
        if not self._proven or self.state is not State.RETURNING or hello is None:
            return
        if said.token != token_of(hello.nonce, said.token):
            return  # it is for another copy of this site, or for a hello before this one
        if not self._ordered(said):
            return
        shelf.remember(self.hub, self._hub_key, said.token, said.fence, now_ns)  # invariant 5
        self.fence, self.reason = said.fence, ""
        self.quarantine = ()
        self._in.begin(1)
        self._unpacker = stream.Unpacker(self.me.log.tenant)
        self.out.granted_bytes = said.window_bytes
        self._restream(1, said.acked, shelf)
        self._rewind, self._patience = None, Patience()
        self._wants.clear()
        self._parts.clear()
        self._confirmed, self._whole, self._under_way, self._present_ns = {}, True, None, 0
        self._doubted = []
        self._behind_ns = None
        self._pinged_ns = self._welcomed_ns = now_ns
        self._turn(Cause.WELCOME, "", now_ns, shelf)
        self._control.append(Ack(self.fence, 1, 0, _WINDOW_BYTES))

    def _ordered(self, order: Order) -> bool:
        """Whether it is the hub that says this, and in this session."""
        hello = self._hello
        good = hello is not None and envelope.vouches(
            envelope.public_key(self._hub_key), order.signature, messages.order_content(hello, order)
        )
        if not good:
            self.reason = "an order on the line is not signed by the hub; it is passed over"
        return good

    def _restream(self, number: int, heads: Sequence[LogHead], shelf: Shelf) -> None:
        self.out.begin(number, self.out.granted_bytes)
        self._packer = stream.Packer()
        own = [head for head in heads if head.writer == self.me.log.writer]
        self._sent = {head.epoch: shelf.common(head) for head in own}
        self.acked = {head.epoch: head.seq for head in own}
        self.level_seq, self._mark = (), None

    def _refused(self, said: Refused, now_ns: int, shelf: Shelf) -> None:
        hello = self._hello
        if hello is None or said.nonce != hello.nonce or self.state is not State.RETURNING:
            return
        self.reason = said.reason
        content = messages.refusal_content(hello, said.reason, said.new_epoch, said.common)
        trusted = bool(self._hub_key) and envelope.vouches(envelope.public_key(self._hub_key), said.signature, content)
        self._over(Cause.REFUSED, said.reason, now_ns, shelf)
        self.again_ns = now_ns + max(said.again_s, 5) * SECOND
        if said.new_epoch and trusted:
            shelf.new_epoch(said.reason, said.common, now_ns)
            self.again_ns = now_ns + (SECOND << self._byes if self._byes else MS)  # not before it is committed

    def _kept(self, number: int, now_ns: int) -> None:
        if self._under_way is None or number != self._under_way[0]:
            return
        _, nodes, sent_ns, _ = self._under_way
        self._confirmed, self._doubted, self._under_way, self._whole = nodes, [], None, False
        # What took a second to arrive is not said twice a second: the queue would only grow.
        self._present_every_ns = max(_PRESENT_NS_MIN, min((now_ns - sent_ns) * 2 // 3, 5 * SECOND))

    def _offered(self, content: bytes, signature: bytes, now_ns: int, shelf: Shelf) -> None:
        try:
            made = receipt.read(content)
        except ValueError:
            return
        hub = envelope.public_key(self._hub_key)
        if receipt.check(receipt.Signed(content, signature), hub) is receipt.Verdict.HUB:
            self.reason = str(receipt.Verdict.HUB)  # a stranger's: to dispute it would be to do his work
            return
        answer = shelf.certify(content, signature, self._hub_key, now_ns)  # invariant 3
        if not answer.signature:
            self._control.append(ReceiptDisputed(self.fence, made.number, answer.reason))
            return
        self._control.append(ReceiptAccepted(self.fence, made.number, answer.signature))
        newest = self.level_seq[-1] if self.level_seq else None
        covered = newest and any(span.epoch == newest.epoch and span.seq >= newest.seq for span in made.logs)
        if self.state is State.REPLAYING and covered:
            self._turn(Cause.COVERED, f"receipt {made.number}", now_ns, shelf)

    def _people(self, content: bytes, signature: bytes, now_ns: int, shelf: Shelf) -> None:
        try:
            version, problem = shelf.roster(content, signature, self.hub, self._hub_key, now_ns)
        except ValueError as error:
            self.reason = str(error)  # a stranger's: to answer it would be to do his work
            return
        self._control.append(RosterHeld(self.fence, version, problem[:_REASON_CHARS_MAX]))

    def _streamed(self, said: Stream, now_ns: int, shelf: Shelf) -> None:
        if said.stream != self._in.stream:
            if said.stream < self._in.stream:
                self._say_rewind(now_ns)
            return
        taken = self._in.take(said.stream, said.offset, said.data)
        if taken.hole:
            self._control.append(Ack(self.fence, said.stream, self._in.offset, _WINDOW_BYTES, resend=True))
            return
        head: LogHead | None = None
        try:
            for group in self._unpacker.feed(taken.data) if taken.data else ():
                head, problem = shelf.take(group, self._hub_key, now_ns)
                if problem:
                    raise stream.StreamProblem(problem)
                self._patience.helped()
        except stream.StreamProblem as problem:
            self._in.begin(said.stream + 1)
            self._unpacker = stream.Unpacker(self.me.log.tenant)
            self._rewind = Rewind(self.fence, said.stream, tuple(shelf.heard()), str(problem)[:_REASON_CHARS_MAX])
            self._patience.failed(now_ns)
            self._say_rewind(now_ns)
            return
        self._control.append(Ack(self.fence, said.stream, self._in.offset, _WINDOW_BYTES, head))

    def _say_rewind(self, now_ns: int) -> None:
        if self._rewind is not None and self._patience.due(now_ns):
            self._control.append(self._rewind)

    # -- what the site says ------------------------------------------------------------------------------------

    def pump(self, now_ns: int, shelf: Shelf, room_bytes: int = 1 << 62) -> list[Message]:
        """What to send now, most urgent first, about `room_bytes` of it (invariant 1)."""
        said: list[Message] = []
        self._logs = shelf.logs() if self.in_session else ()
        while room_bytes > 0:
            message = self._next(now_ns, shelf)
            if message is None:
                break
            said.append(message)
            size = _size(message)
            room_bytes -= size
            if message.LANE is not Lane.CONTROL:
                self.caps.spent(size, now_ns)
        return said

    def _next(self, now_ns: int, shelf: Shelf) -> Message | None:
        if self._control and self.caps.allows(Lane.CONTROL, now_ns):
            return self._control.popleft()
        if not self.in_session:
            return None
        if self.caps.allows(Lane.SNAPSHOTS, now_ns):
            said = self._next_present(now_ns, shelf)
            if said is not None:
                return said
        if self.caps.allows(Lane.LOG, now_ns):
            said = self._next_part(now_ns, shelf)
            if said is not None:
                return said
        if not self.out.sent or self._backlog():
            return None
        while self._asked and self.out.idle:
            self._control.extend(shelf.compare(self._asked.popleft(), now_ns))
        if self._control and self.caps.allows(Lane.CONTROL, now_ns):
            return self._control.popleft()
        level = self._next_level(now_ns)
        if level is not None:
            return level
        if self.caps.allows(Lane.SEGMENTS, now_ns) and self._wants:
            want = self._wants.popleft()
            data, gone = shelf.chunk(want.sha256, want.offset, want.size)
            return Chunk(self.fence, want.window, want.sha256, want.offset, data, gone)
        return None

    def _next_level(self, now_ns: int) -> Message | None:
        """Events never stop coming, so a level speaks of the ends as they were when all was sent, once that is
        acknowledged. It, the receipt and its answer may be lost: until the site is live it is said again."""
        if self.state is State.LIVE and self.level_seq:
            return None  # from here on the hub offers receipts by itself
        if self._mark is None:
            heads = tuple(head for head, _ in self._logs)
            wait_ns = SECOND if heads != self.level_seq else max(_LEVEL_NS, 4 * (self.out.rate.rtt_ns or 0))
            if self.level_seq and now_ns - self._level_ns < wait_ns:
                return None
            self._mark = (heads, self.out.offset)
        heads, offset = self._mark
        if self.out.acked_offset < offset:
            return None
        self._mark, self.level_seq, self._level_ns = None, heads, now_ns
        return Level(self.fence, heads)

    def _backlog(self) -> int:
        return sum(max(head.seq - self._sent.get(head.epoch, 0), 0) for head, _ in self._logs)

    def _next_present(self, now_ns: int, shelf: Shelf) -> Message | None:
        if self._parts:
            return self._parts.popleft()
        if self._under_way is not None:
            late = now_ns - self._under_way[2] > max(_PRESENT_RESEND_NS, 4 * (self.out.rate.rtt_ns or 0))
            if not late:
                return None
            self._doubted.append(self._under_way[1])
            self._under_way = None
            if len(self._doubted) > _DOUBTED_MAX:
                self._doubted, self._confirmed, self._whole = [], {}, True
        due_ns = self._present_ns + self._present_every_ns
        if now_ns < due_ns:
            return None
        nodes = dict(shelf.presents())
        at_ns = now_ns // MS * MS  # so that a time in whole milliseconds stays what it is
        rows = present.rows_of(nodes, self._confirmed, at_ns, self._doubted)
        if not rows and not self._whole:
            self._present_ns = now_ns - self._present_every_ns + _PRESENT_LOOK_NS
            return None
        lists = list(present.parts_of(rows, _PRESENT_BYTES))
        self._number += 1
        for index, part in enumerate(lists):
            said = Present(self.fence, self._number, self._whole, index, len(lists), at_ns, present.pack(part))
            signature = self.me.sign(messages.present_content(self.me.log, said))
            self._parts.append(_with(said, signature))
        self._present_ns = max(due_ns, now_ns - self._present_every_ns // 2)  # one late present makes no other late
        self._under_way = (self._number, nodes, now_ns, len(lists))
        return self._parts.popleft()

    def _next_part(self, now_ns: int, shelf: Shelf) -> Message | None:
        self.out.tick(now_ns)
        if self.out.wants:
            self._fill(shelf)
        part = self.out.due(now_ns)
        return Stream(self.fence, self.out.stream, part.offset, part.data) if part is not None else None

    def _fill(self, shelf: Shelf) -> None:
        for head, key in self._logs:
            sent = self._sent.get(head.epoch, 0)
            if head.seq <= sent:
                continue
            log = self.me.log._replace(epoch=head.epoch)
            blocks = tuple(shelf.blocks(log, sent, self.out.group_bytes))
            if blocks:
                self.out.add(self._packer.pack(stream.Group(log, key, blocks)))
                self._sent[head.epoch] = blocks[-1].head.seq
            return

    # -- time --------------------------------------------------------------------------------------------------

    def tick(self, now_ns: int, shelf: Shelf) -> None:
        """At least once a second."""
        if now_ns < self._ticked_ns - _CLOCK_BACK_NS:  # invariant 6: what was timed by it means nothing any more
            self._over(Cause.LINE_DOWN, "this box's clock was set back", now_ns, shelf)
            self.again_ns = now_ns
        self._ticked_ns = now_ns
        if self.state is State.RETURNING and now_ns - self._hello_ns > HELLO_NS:
            self._over(Cause.SILENCE, "", now_ns, shelf)
        if not self.in_session:
            return
        silent = now_ns - self.heard_ns
        if silent > SILENCE_NS:
            self._over(Cause.SILENCE, f"{silent // SECOND} s without a word", now_ns, shelf)
        elif silent > PING_NS and now_ns - self._pinged_ns > PING_NS:
            self._pinged_ns = now_ns
            self._control.append(Ping(self.fence, now_ns // MS))
        if self.state is State.LIVE:
            self._logs = shelf.logs()
            behind = self._backlog() > _BEHIND_EVENTS
            self._behind_ns = None if not behind else self._behind_ns or now_ns
            if self._behind_ns is not None and now_ns - self._behind_ns > _BEHIND_NS:
                self.level_seq, self._mark = (), None
                self._turn(Cause.BEHIND, "", now_ns, shelf)

    @property
    def session_is_over(self) -> bool:
        return self.state is State.AUTONOMOUS

    def bye(self, reason: str) -> Message | None:
        return Bye(self.fence, reason) if self.in_session else None


def _with(said: Present, signature: bytes) -> Present:
    return Present(said.fence, said.number, said.whole, said.part, said.parts, said.at_ns, said.rows, signature)


def _size(message: Message) -> int:
    data = getattr(message, "data", None) or getattr(message, "rows", None) or b""
    return len(data) + 64
