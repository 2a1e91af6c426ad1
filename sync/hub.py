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

import msgspec

from fleet import envelope
from fleet.envelope import Log
from fleet.limits import MS, SECOND
from sync import messages, receipt, stream
from sync.flow import PART_BYTES_MIN, Inflow, Outflow, Patience, Rate
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
from sync.protocol import PING_NS, RECEIPT_NS, SILENCE_NS, Caps, token_of

WINDOW_BYTES = 4 * 1024 * 1024  # granted to a site, when there is room
_REWINDS_MAX = 3  # without progress, before a person has to look
_WANT_BYTES_MAX = 512 * 1024
_WANTS_MAX = 8
_WANT_NS_MAX = 30 * SECOND
_CONTROL_MAX = 1_024  # messages that wait; beyond it the oldest goes, as if the line had lost it
_PENDING_MAX = 4  # hellos of one site that wait for their proof
_LOGS_MAX = 10_000  # ends of logs in one message
_PARTS_MAX = 100_000  # of one present
_REASONS_MAX = 20  # of one quarantine
_REASON_CHARS_MAX = 300
_NUMBER_MAX = 1 << 62
_HELD_NS = 10 * SECOND  # a site in quarantine is told so that often
_AGAIN_NS = 5 * SECOND  # what nobody answered is said again
_ROSTER_NS_MAX = 600 * SECOND  # a site that does not answer to a roster, as an older one, is asked that seldom
_HEADS_NS = 600 * SECOND  # the heads of documents are compared that often
_CLOCK_BACK_NS = SECOND
_NO_TOKEN = b"none"  # as a former token: the site had none before the welcome that it may not have got
_ANY_TOKEN = b"any"  # and: this hub was restored and has forgotten which


class Phase(StrEnum):
    """Of one session at the hub."""

    NONE = "NONE"
    CHALLENGED = "CHALLENGED"
    REPLAYING = "REPLAYING"
    LIVE = "LIVE"
    QUARANTINED = "QUARANTINED"


_OPEN = (Phase.REPLAYING, Phase.LIVE, Phase.QUARANTINED)


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

    def met(self, writer: str, hello: Hello) -> None:
        """A site that proved who it is: remember what it says of itself."""
        ...

    def welcome(self, writer: str, token: bytes, former: bytes, told: bytes, now_ns: int) -> int:
        """Take the next fence and remember the session's token, and the one that the site shows if this one is lost."""
        ...

    def settled(self, writer: str) -> None:
        """The site has the token: the one before it is void."""
        ...

    def holds(self, writer: str, fence: int) -> bool: ...

    def hash_at(self, log: Log, seq: int) -> bytes | None: ...

    def branched(self, log: Log) -> bool:
        """Whether a second history of this log is kept here."""
        ...

    def forgot(self, writer: str, heard: Sequence[LogHead], now_ns: int) -> bool:
        """Whether the site has heard more of the log towards it than there is here: this hub was restored. The log is
        then gone on with in a new epoch."""
        ...

    def recall(self, writer: str, content: bytes, signature: bytes, now_ns: int) -> None:
        """Keep a receipt that this hub signed and has forgotten: the next one follows it."""
        ...

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

    def compare(self, writer: str, theirs: Heads, fence: int, now_ns: int) -> Sequence[Heads]: ...

    def root(self, writer: str) -> bytes: ...

    def outgoing(self, writer: str) -> Sequence[tuple[LogHead, bytes]]:
        """The logs that are written towards this site: their ends and keys."""
        ...

    def grown(self, writer: str) -> int:
        """Another number than before whenever `outgoing` may say more than before. It costs nothing."""
        ...

    def blocks(self, log: Log, after_seq: int, bytes_max: int) -> Sequence[envelope.Block]: ...

    def roster(self, writer: str) -> tuple[bytes, bytes] | None:
        """The people of this hub that a site has to know of: content and signature. None while there is nothing to say."""
        ...

    def roster_held(self, writer: str, version: int, problem: str) -> bool:
        """Remember what a site holds. Whether there is nothing more to tell it."""
        ...

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
        self.receipt_ns = self.heads_ns = 0
        self.present_ns: int | None = None
        self._key = b""
        self._pending: deque[tuple[Hello, bytes]] = deque(maxlen=_PENDING_MAX)  # with the nonce of the challenge
        self._in = Inflow()
        self._unpacker = stream.Unpacker(me.tenant)
        self._packer = stream.Packer(stream.LEVEL_HUB)
        self._sent: dict[tuple[str, int], int] = {}
        self._grown = -1  # of the logs towards the site, when all of them was on its way
        self._control: deque[Message] = deque(maxlen=_CONTROL_MAX)
        self._rewind: Rewind | None = None
        self._patience = Patience()
        self._level: tuple[LogHead, ...] = ()
        self._was_held = self._announce = False
        self._bye: tuple[int, int] = (0, 0)  # said of that fence, then
        self._number = 0  # of the newest present
        self._parts: set[int] = set()
        self._pinged_ns = self._held_ns = self._ticked_ns = 0
        self._line = Rate()  # for segments
        self._wanted: dict[int, _Wanted] = {}
        self._window = 0
        self._look = True  # for segments to ask for
        self._asked: dict[bytes, int] = {}  # by segment, how far it has been asked for
        self._fresh = False  # a segment is here that no receipt lists
        self._unsettled = False
        self._by_file = False
        self._chunk_ns = 0
        self._roster_due = False  # until the site says what it holds
        self._roster_ns = self._roster_wait_ns = 0

    @property
    def in_session(self) -> bool:
        return self.phase in _OPEN

    def line_down(self, now_ns: int) -> None:
        self._end(now_ns)

    def _end(self, now_ns: int) -> None:
        if self.phase is not Phase.NONE:
            self.since_ns = now_ns
        self.phase = Phase.NONE
        self._control.clear()
        self._wanted.clear()
        self._unpacker = stream.Unpacker(self.me.tenant)  # half a megabyte, and most sites are cut off
        self._packer = stream.Packer(stream.LEVEL_HUB)
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
        place = self._place(hello, known, now_ns, shelf)
        self.hello, self._key = hello, known.public_key
        self.logs = {head.epoch: head for head in hello.logs}
        self.acked = {head.epoch: head.seq for head in known.logs}
        self._in.begin(1)
        self.out.granted_bytes = 1 << 40
        self._restream(1, hello.heard)
        self.phase, self.since_ns, self.heard_ns, self._by_file = Phase.REPLAYING, now_ns, now_ns, True
        if place is not None and place.common is None:  # else an older file: what it brings is here
            self._hold((_forked(max(self.logs)),), now_ns, shelf)
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
        fence = getattr(message, "fence", 0)
        if not self.in_session or fence != self.fence:
            if not isinstance(message, Bye):
                self._no_session(fence, now_ns)
            return
        if not self._by_file and not shelf.holds(self.writer, fence):  # invariant 1
            self.reason = "a newer session of this site is open"
            self._end(now_ns)
            self._no_session(fence, now_ns)
            return
        self.heard_ns = now_ns
        if self._unsettled:
            self._unsettled = False
            shelf.settled(self.writer)
            self.people_changed(now_ns, shelf)
        wrong = _wrong(message)
        if wrong:
            shelf.apart(self.writer, wrong, messages.encode(message)[:4096], now_ns)
            return
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
                    self.out.asked_again(now_ns)
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
            case RosterHeld(version=version, problem=problem):
                self._roster_due = not shelf.roster_held(self.writer, version, problem[:_REASON_CHARS_MAX])
            case ReceiptDisputed(reason=reason):
                self._hold((f"the site disputes a receipt: {reason}",), now_ns, shelf)
            case Heads():
                if self.phase is not Phase.QUARANTINED:
                    self._control.extend(shelf.compare(self.writer, message, self.fence, now_ns))
                    self.heads_ns = min(
                        self.heads_ns, now_ns - _HEADS_NS + RECEIPT_NS
                    )  # what differed is looked at again
            case Ping(number=number):
                self._control.append(Pong(self.fence, number))
            case Bye():
                self._end(now_ns)
            case _:
                pass

    def _no_session(self, fence: int, now_ns: int) -> None:
        """So that the site need not wait for a silence. Of one session, once a second."""
        said, at_ns = self._bye
        if fence and (said != fence or not 0 <= now_ns - at_ns < SECOND):
            self._bye = (fence, now_ns)
            self._control.append(Bye(fence, "there is no such session here any more"))

    def stop(self, reason: str, now_ns: int, shelf: Shelf) -> None:
        """What this site said cannot be worked on: a person has to look."""
        fence = self.fence
        if self.in_session:
            self._hold((reason,), now_ns, shelf)
        self._end(now_ns)
        self._no_session(fence, now_ns)

    def _hello(self, said: Hello, now_ns: int, nonce: bytes, shelf: Shelf) -> None:
        """A hello proves nothing: what goes on goes on until its proof is here. One that comes twice is one."""
        if any(hello == said for hello, _ in self._pending):
            return
        reason = self._unfit(said, shelf.known(self.writer))
        if reason:
            self._refuse(said, reason)
            return
        signature = self.me.sign(messages.challenge_content(said, self.me.writer, nonce))
        version = min(said.newest, messages.PROTOCOL)
        self._pending.append((said, nonce))
        self._control.append(Challenge(version, self.me.writer, self.me.public_key, nonce, signature))
        if self.phase is Phase.NONE:
            self.phase, self.since_ns = Phase.CHALLENGED, now_ns

    def _unfit(self, said: Hello, known: Known | None) -> str:
        if said.writer != self.writer:
            return "the hello names another site than the line it came over"
        if said.tenant != self.me.tenant:
            return "this hub keeps no logs of that tenant"
        if said.oldest > messages.PROTOCOL:
            return "the site speaks only newer versions of the protocol; update the hub"
        if said.newest < messages.PROTOCOL_OLDEST:
            return "the site speaks only older versions of the protocol; update the site"
        if wrong := _wrong_heads((*said.logs, *said.heard)):
            return wrong
        if any(head.writer != said.writer for head in said.logs):
            return "the hello names another site's logs as its own"
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
        self.reason = reason
        if self.phase is Phase.CHALLENGED:
            self.phase = Phase.NONE

    def _proof(self, said: Proof, now_ns: int, token: bytes, shelf: Shelf) -> None:
        if not self._pending:
            return
        found = next((one for one in reversed(self._pending) if self._proves(said, *one)), None)
        if found is None:
            self._refuse(self._pending[-1][0], "the site's proof does not match its key")
            return
        hello, nonce = found
        self._pending.clear()
        self._end(now_ns)  # whatever stands now, the site is in another place
        known = shelf.known(self.writer)
        if known is None:
            reason = shelf.admit(hello, now_ns)
            known = shelf.known(self.writer)
            if reason or known is None:
                self._refuse(hello, reason or "the site could not be entered")
                return
        place = self._place(hello, known, now_ns, shelf)
        if place is not None:
            self._refuse(hello, place.reason, new_epoch=True, common=place.common, again_s=0)
            return
        forgot = shelf.forgot(self.writer, hello.heard, now_ns)
        former, clone = self._ratchet(said, known, nonce, forgot=forgot)
        if self._is_ours(said.receipt, known):
            shelf.recall(self.writer, said.receipt[:-64], said.receipt[-64:], now_ns)
        self._welcome(hello, shelf.known(self.writer) or known, token_of(hello.nonce, token), former, now_ns, shelf)
        reasons = (*known.quarantine, *((clone,) if clone else ()))
        if reasons:
            self._hold(reasons, now_ns, shelf)

    def _proves(self, said: Proof, hello: Hello, nonce: bytes) -> bool:
        try:
            key = envelope.public_key(hello.public_key)
        except ValueError:
            return False
        return envelope.vouches(key, said.signature, messages.proof_content(hello, self.me.writer, nonce))

    def _place(self, hello: Hello, known: Known, now_ns: int, shelf: Shelf) -> _NewEpoch | None:
        """How the site's newest log and ours fit: whether it has to go on in a new epoch. What it left behind in an
        older one was told when it began the newer."""
        if not known.logs:
            return None
        here = known.logs[-1]
        said = max(hello.logs, key=lambda head: head.epoch, default=LogHead(self.writer, 0, 0, envelope.GENESIS))
        if said.epoch > here.epoch:
            return None
        if said.epoch < here.epoch:
            said = LogHead(self.writer, here.epoch, 0, envelope.GENESIS)
        log = Log(self.me.tenant, self.writer, here.epoch)
        held = here.hash if said.seq == here.seq else shelf.hash_at(log, said.seq) if said.seq else said.hash
        if shelf.branched(log) or (said.seq <= here.seq and held != said.hash):
            words = _forked(here.epoch)
            self._remember(known, (words,), now_ns, shelf)
            return _NewEpoch(f"{words}; it goes on in a new epoch, and is held until a person has looked", None)
        if said.seq >= here.seq:
            return None  # whether it goes on from ours shows in the chain of its next block
        return _NewEpoch(
            f"the site was set back: its log ends at event {said.seq:,} of epoch {here.epoch}, and"
            f" {here.seq:,} are here; it goes on in a new epoch",
            said,
        )

    def _ratchet(self, said: Proof, known: Known, nonce: bytes, *, forgot: bool) -> tuple[bytes, str]:
        """The token that the site holds until this welcome reaches it; and, when it should hold another, the words."""
        if not known.token:
            return _NO_TOKEN, ""
        for token in (known.token, known.former):
            if token and hmac.compare_digest(hmac.digest(token, nonce, "sha256"), said.ratchet):
                return token, ""
        if known.former == _NO_TOKEN and not said.ratchet:
            return _NO_TOKEN, ""
        if known.former == _ANY_TOKEN or forgot or self._is_ours(said.receipt, known):
            return _ANY_TOKEN, ""  # this hub was restored, not the site
        return known.token, "another copy of this site has been here since: one of the two is a clone or an old image"

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

    def _welcome(self, hello: Hello, known: Known, token: bytes, former: bytes, now_ns: int, shelf: Shelf) -> None:
        shelf.met(self.writer, hello)
        self.fence = shelf.welcome(self.writer, token, former, hello.program.encode()[:64], now_ns)
        self.hello, self.reason = hello, ""
        self._unsettled = True
        self._key = known.public_key
        self.logs = {head.epoch: head for head in hello.logs}
        self.acked = {head.epoch: head.seq for head in known.logs}
        self._in.begin(1)
        self._unpacker = stream.Unpacker(self.me.tenant)
        self._restream(1, hello.heard)
        self._rewind, self._patience = None, Patience()
        self._level, self._was_held, self._announce = (), False, False
        self._number, self._parts, self._wanted, self._asked, self._look = 0, set(), {}, {}, True
        self.since_ns = self.heard_ns = self._pinged_ns = now_ns
        self.phase = Phase.REPLAYING
        self._order(Welcome(self.fence, token, tuple(known.logs), self.window_bytes, now_ns, known.receipt_number))

    def _hold(self, reasons: Sequence[str], now_ns: int, shelf: Shelf) -> None:
        if self.phase is not Phase.QUARANTINED:
            self.phase, self.since_ns = Phase.QUARANTINED, now_ns
        self._was_held, self._held_ns = True, now_ns
        known = shelf.known(self.writer)
        held = self._remember(known, reasons, now_ns, shelf) if known else tuple(reasons)
        self._order(Quarantined(self.fence, held))

    def _order(self, order: Order) -> None:
        if self.hello is not None:
            signature = self.me.sign(messages.order_content(self.hello, order))
            self._control.append(msgspec.structs.replace(order, signature=signature))

    def _remember(self, known: Known, reasons: Sequence[str], now_ns: int, shelf: Shelf) -> tuple[str, ...]:
        """All that the site is held for."""
        told = (" ".join(reason.split())[:_REASON_CHARS_MAX] for reason in reasons)
        every = tuple(dict.fromkeys((*known.quarantine, *told)))[:_REASONS_MAX]
        if every != tuple(known.quarantine):
            shelf.quarantine(self.writer, every, now_ns)
        return every

    def release(self, now_ns: int, shelf: Shelf) -> None:
        """A person says that the site may go on."""
        shelf.quarantine(self.writer, (), now_ns)
        if self.phase is Phase.QUARANTINED:
            self.phase, self.since_ns, self._level = Phase.REPLAYING, now_ns, ()
            self._order(Released(self.fence))

    def people_changed(self, now_ns: int, shelf: Shelf) -> None:
        """Tell the site who may come in there: at the begin of each session, and whenever it is another than before. It is
        told in quarantine too: who was removed is removed."""
        self._roster_due, self._roster_wait_ns = True, _AGAIN_NS
        if self.in_session and not self._by_file and not self._unsettled:
            self._say_people(now_ns, shelf)

    def _say_people(self, now_ns: int, shelf: Shelf) -> None:
        self._roster_ns = now_ns
        made = shelf.roster(self.writer)
        if made is None:
            self._roster_due = False
        else:
            self._control.append(RosterOffered(self.fence, *made))

    # -- lanes --------------------------------------------------------------------------------------------------

    def _present(self, said: Present, now_ns: int, shelf: Shelf) -> None:
        key = envelope.public_key(self._key)
        log = Log(self.me.tenant, self.writer, 0)
        if not envelope.vouches(key, said.signature, messages.present_content(log, said)):
            shelf.apart(self.writer, "a present that the site did not sign", said.rows[:4096], now_ns)
            return
        if said.number < self._number:
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
        if said.stream != self._in.stream:
            if said.stream < self._in.stream:
                self._say_rewind(now_ns)
            return
        taken = self._in.take(said.stream, said.offset, said.data)
        if taken.hole:
            self._ack(said.stream, None, resend=True)
            return
        head: LogHead | None = None
        try:
            for group in self._unpacker.feed(taken.data) if taken.data else ():
                if group.log.writer != self.writer:
                    raise stream.StreamProblem("a block of another log stands in this site's stream")
                took = shelf.take(self.writer, self._key, group, now_ns)
                self._look = True
                head = took.head or head
                if took.head is not None:
                    self.acked[took.head.epoch] = took.head.seq
                if took.forked and group.log.epoch >= max(self.logs, default=0):
                    self._hold((_forked(group.log.epoch),), now_ns, shelf)
                    if self._by_file:
                        continue
                    fence = self.fence
                    self._end(now_ns)  # it says hello, and is told to go on in a new epoch
                    self._no_session(fence, now_ns)
                    return
                if took.problem and not took.forked:
                    if took.bad:
                        shelf.apart(self.writer, took.problem, group.blocks[0].events[0][:4096], now_ns)
                    raise stream.StreamProblem(took.problem)
                self._patience.helped()
        except stream.StreamProblem as problem:
            self._begin_again(str(problem)[:_REASON_CHARS_MAX], now_ns, shelf)
            return
        self._ack(said.stream, head)

    def _ack(self, number: int, head: LogHead | None, *, resend: bool = False) -> None:
        """Of many parts in one transaction, the last is answered."""
        last = self._control[-1] if self._control else None
        if isinstance(last, Ack) and (last.fence, last.stream) == (self.fence, number) and last.resend <= resend:
            self._control.pop()
            head = head or last.head
        self._control.append(Ack(self.fence, number, self._in.offset, self.window_bytes, head, resend))

    def _begin_again(self, reason: str, now_ns: int, shelf: Shelf) -> None:
        number = self._in.stream
        self._in.begin(number + 1)
        self._unpacker = stream.Unpacker(self.me.tenant)
        known = shelf.known(self.writer)
        self._rewind = Rewind(self.fence, number, tuple(known.logs) if known else (), reason)
        self._patience.failed(now_ns)
        if self._patience.times == _REWINDS_MAX + 1:
            self._hold((reason,), now_ns, shelf)
        self._say_rewind(now_ns)

    def _say_rewind(self, now_ns: int) -> None:
        """Said again as long as the old stream goes on, for it may be lost."""
        if self._rewind is not None and self._patience.due(now_ns):
            self._control.append(self._rewind)

    def _levelled(self, logs: tuple[LogHead, ...], now_ns: int, shelf: Shelf) -> None:
        """The site repeats this until it is live, so it is where a word that was lost is said again."""
        for head in logs:
            self.logs[head.epoch] = head
        if self.phase is Phase.QUARANTINED:
            self._hold((), now_ns, shelf)
            return
        if self._was_held:
            self._order(Released(self.fence))
        self._level, self._announce = logs, True
        self._offer(now_ns, shelf)

    def _offer(self, now_ns: int, shelf: Shelf) -> None:
        self.receipt_ns, self._fresh = now_ns, False
        made = shelf.receipt(self.writer, self._level, now_ns)  # invariant 4
        if made is not None:
            self._control.append(ReceiptOffered(self.fence, *made))

    def _chunk(self, said: Chunk, now_ns: int, shelf: Shelf) -> None:
        asked = self._wanted.pop(said.window, None)
        if self._by_file:
            asked = _Wanted(said.window, said.sha256, said.offset, len(said.data), now_ns)
        if asked is None or asked.sha256 != said.sha256:
            return
        self._look, self._chunk_ns = True, now_ns
        if said.offset != asked.offset or len(said.data) > asked.size:
            shelf.apart(self.writer, "a chunk is not the one that was asked for", b"", now_ns)
            self._ask_again(said.sha256)
            return
        if any(one.sha256 == said.sha256 for window, one in self._wanted.items() if window < said.window):
            self._ask_again(said.sha256)  # chunks come in the order of the wishes: the one before it is lost
            return
        if said.data:
            self._line.took(asked.asked_ns, len(said.data), now_ns)
            self._line.resize(len(said.data), full=True)
        whole, problem = shelf.chunk(self.writer, said, now_ns)
        if problem:
            shelf.apart(self.writer, problem, b"", now_ns)
        if problem or whole or said.gone:
            self._ask_again(said.sha256)
        elif not said.data:
            self._asked[said.sha256] = _NUMBER_MAX  # the site has nothing to give: not again in this session
        if whole:
            self._fresh = True
            self._control.append(Custody(self.fence, said.sha256))

    def _ask_again(self, sha256: bytes) -> None:
        """From what is here on; what was asked of it before counts no more."""
        self._asked.pop(sha256, None)
        for window in [window for window, one in self._wanted.items() if one.sha256 == sha256]:
            del self._wanted[window]
        self._look = True

    def _want(self, now_ns: int, shelf: Shelf) -> Message | None:
        late_ns = max(_WANT_NS_MAX, 4 * (self._line.rtt_ns or 0))
        for asked in tuple(self._wanted.values()):
            if now_ns - asked.asked_ns > late_ns:
                self._ask_again(asked.sha256)
        room = self._line.window - sum(asked.size for asked in self._wanted.values())
        share = min(max(self._line.window // _WANTS_MAX, PART_BYTES_MIN), _WANT_BYTES_MAX)
        if not self._look or len(self._wanted) >= 2 * _WANTS_MAX or (room < share and self._wanted):
            return None  # wishes as small as the room that just came free would cost more than they carry
        for missing in shelf.wanted(self.writer, _WANTS_MAX + 1):
            offset = max(self._asked.get(missing.sha256, 0), missing.have)
            size = min(missing.size - offset, max(room, share), _WANT_BYTES_MAX)
            if size <= 0:
                continue
            if not self._wanted and now_ns - self._chunk_ns > SECOND:
                self._line.idle()  # a pause; what is asked for one by one is none
            self._window += 1
            self._asked[missing.sha256] = offset + size
            self._wanted[self._window] = _Wanted(self._window, missing.sha256, offset, size, now_ns)
            return Want(self.fence, self._window, missing.sha256, offset, size)
        self._look = False
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
        if self._unsettled:
            return None  # the site may not have the welcome yet
        if self.caps.allows(Lane.LOG, now_ns) and self.phase is not Phase.QUARANTINED:
            self.out.tick(now_ns)
            if self.out.wants:
                grown = shelf.grown(self.writer)
                if grown != self._grown and not self._fill(shelf):
                    self._grown = grown
            part = self.out.due(now_ns)
            if part is not None:
                return Stream(self.fence, self.out.stream, part.offset, part.data)
            if self._announce and self.out.idle:  # what is on its way would be taken for missing
                self._announce, self.heads_ns = False, now_ns
                return Heads(self.fence, shelf.root(self.writer))
        return self._want(now_ns, shelf) if self.caps.allows(Lane.SEGMENTS, now_ns) else None

    def _fill(self, shelf: Shelf) -> bool:
        """Whether there was anything that the site does not have yet."""
        for head, key in shelf.outgoing(self.writer):
            sent = self._sent.get((head.writer, head.epoch), 0)
            if head.seq <= sent:
                continue
            log = Log(self.me.tenant, head.writer, head.epoch)
            blocks = tuple(shelf.blocks(log, sent, self.out.group_bytes))
            if blocks:
                self.out.add(self._packer.pack(stream.Group(log, key, blocks)))
                self._sent[head.writer, head.epoch] = blocks[-1].head.seq
            return bool(blocks)
        return False

    def _restream(self, number: int, heads: Sequence[LogHead]) -> None:
        self.out.begin(number, self.out.granted_bytes)
        self._packer = stream.Packer(stream.LEVEL_HUB)
        self._grown = -1
        self._sent = {(head.writer, head.epoch): head.seq for head in heads}

    def tick(self, now_ns: int, shelf: Shelf) -> None:
        """At least once a second."""
        if now_ns < self._ticked_ns - _CLOCK_BACK_NS:  # what was timed by it means nothing any more
            self._end(now_ns)
        self._ticked_ns = now_ns
        if self.phase is Phase.CHALLENGED and now_ns - self.since_ns > SILENCE_NS:
            self._end(now_ns)
        if not self.in_session:
            return
        silent = now_ns - self.heard_ns
        if silent > SILENCE_NS:
            self._end(now_ns)
        elif silent > PING_NS and now_ns - self._pinged_ns > PING_NS:
            self._pinged_ns = now_ns
            self._control.append(Ping(self.fence, now_ns // MS))
        if self._roster_due and not self._unsettled and now_ns - self._roster_ns > self._roster_wait_ns:
            self._roster_wait_ns = min(2 * self._roster_wait_ns, _ROSTER_NS_MAX)
            self._say_people(now_ns, shelf)
        if self.phase is Phase.QUARANTINED:
            if now_ns - self._held_ns > _HELD_NS:
                self._hold((), now_ns, shelf)
        elif self._level and now_ns - self.receipt_ns > (RECEIPT_NS if self.phase is Phase.LIVE else _AGAIN_NS):
            self._offer_more(now_ns, shelf)
        if self.phase is Phase.LIVE and now_ns - self.heads_ns > _HEADS_NS:
            self._announce = True

    def _offer_more(self, now_ns: int, shelf: Shelf) -> None:
        """A live site gets a receipt over what came since; one that has not answered gets the same again."""
        known = shelf.known(self.writer)
        logs = tuple(known.logs) if known else ()
        self.receipt_ns = now_ns
        if self.phase is not Phase.LIVE or logs != self._level or self._fresh:
            self._level = logs
            self._offer(now_ns, shelf)


class _NewEpoch(NamedTuple):
    reason: str
    common: LogHead | None


def _forked(epoch: int) -> str:
    return f"epoch {epoch} was continued in two ways: this box was cloned or restored"


def _wrong_heads(heads: Iterable[LogHead]) -> str:
    every = tuple(heads)
    if len(every) > _LOGS_MAX:
        return f"{len(every):,} ends of logs are more than there may be"
    good = all(0 <= one.epoch < _NUMBER_MAX and 0 <= one.seq < _NUMBER_MAX and len(one.hash) == 32 for one in every)
    return "" if good else "an end of a log that cannot be"


def _wrong(message: Message) -> str:
    """What no honest site says, whatever its version: numbers that no table could hold."""
    match message:
        case Level(logs=heads) | Rewind(heads=heads):
            return _wrong_heads(heads)
        case RosterHeld(version=version):
            return "" if 0 <= version < _NUMBER_MAX else "a version of people that cannot be"
        case Present(number=number, parts=parts, part=part, at_ns=at_ns):
            good = 0 <= part < parts <= _PARTS_MAX and 0 <= at_ns < _NUMBER_MAX and 0 < number < _NUMBER_MAX
            return "" if good else "a present with numbers that cannot be"
        case _:
            return ""
