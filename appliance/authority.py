"""What does a site decide by itself, and since when? It accepts what the hub grants, takes over when its lease has run out,
and hands back (`fleet.authority.step`); each is an event in its own log.

Rules of the file
  1  A lease is renewed by a word of the hub in session, and by a grant, by whatever way it comes. It runs by the steady
     clock: the wall clock may jump as it likes.
  2  A restart makes no lease longer than the time for which the box was off: what was used up is kept on the disk, and
     each start counts for at least `_KEPT_NS`.
  3  The epoch and what it had seen are one transaction.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable

import msgspec

from fleet import authority
from fleet.authority import Chain, Step
from fleet.events import AuthorityBegan, Clock, decode_any
from fleet.limits import SECOND
from fleet.people import Refused
from fleet.projections.authority import subjects
from store.clock import WallClock
from store.database import Writer
from store.faults import StoreFault
from store.ground import SET_META
from store.journal import Journal
from store.rights import Rights
from sync.protocol import State
from sync.site import Site

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_KEPT_NS = 10 * SECOND  # how exactly the disk knows how much of a lease is used up
_AGAIN_NS = 30 * SECOND  # and how old that may be
_META = "authority_silence"
_HEADS = (
    "SELECT log.writer, log.epoch, event.seq, event.raw FROM log JOIN event ON event.log_id = log.id"
    " WHERE log.tenant=? AND log.writer<>? AND event.seq = (SELECT max(seq) FROM event WHERE log_id = log.id)"
)


class _Kept(msgspec.Struct, frozen=True):
    """For how long the hub was not heard, as of a wall time; `believed` says whether that clock was."""

    silent_ns: int
    wall_ns: int
    believed: bool


class Lease:
    """For how long nothing was heard of the hub."""

    def __init__(self, clock: WallClock, steady_ns: Callable[[], int]) -> None:
        self._clock, self._steady_ns = clock, steady_ns
        self._since_ns = steady_ns()  # on the steady clock; before the start where the silence is older
        self._kept_ns, self._kept_at_ns = 0, steady_ns()

    def load(self, db: sqlite3.Connection) -> None:
        row = db.execute("SELECT value FROM meta WHERE key=?", (_META,)).fetchone()
        if row is None:
            return
        kept = msgspec.json.decode(row[0], type=_Kept)
        off_ns = self._clock.now_ns() - kept.wall_ns if kept.believed and self._believed() else 0
        self._since_ns = self._steady_ns() - kept.silent_ns - max(off_ns, _KEPT_NS)
        self._kept_at_ns -= _AGAIN_NS  # this start is written down at the first look

    def _believed(self) -> bool:
        return self._clock.confidence() is not Clock.NOT_TRUSTED

    @property
    def silent_ns(self) -> int:
        return self._steady_ns() - self._since_ns

    def renew(self) -> None:
        self._since_ns = self._steady_ns()

    def is_due(self) -> bool:
        """Whether what is on the disk is too far off."""
        late = self._steady_ns() - self._kept_at_ns >= _AGAIN_NS
        return late or abs(self.silent_ns - self._kept_ns) >= _KEPT_NS

    def keep(self, db: sqlite3.Connection) -> None:
        self._kept_ns, self._kept_at_ns = self.silent_ns, self._steady_ns()
        kept = _Kept(self._kept_ns, self._clock.now_ns(), self._believed())
        db.execute(SET_META, (_META, msgspec.json.encode(kept).decode()))


class Autonomy:
    """`site` gives the decider of the link: whether the hub is in session, and when it was heard."""

    def __init__(
        self,
        journal: Journal,
        writer: Writer,
        rights: Rights,
        lease: Lease,
        site: Callable[[], Site],
        stale: Callable[[str], None],
    ) -> None:
        self.lease, self.rights = lease, rights
        self._journal, self._writer, self._site, self._stale = journal, writer, site, stale
        self._heard_ns: int | None = None

    async def run(self) -> None:
        """Supervised, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """One look at the line and the lease; begins what is to begin."""
        site = self._site()
        if site.in_session and site.heard_ns != self._heard_ns:
            self._heard_ns = site.heard_ns
            self.lease.renew()
        live, silent_ns, place = site.state is State.LIVE, self.lease.silent_ns, self.rights.here
        mine = subjects(self.rights.state, place)
        for subject in mine:
            chain = self.rights.chain(subject, place)
            wish = authority.step(chain, silent_ns=silent_ns, live=live)
            if wish is not None:
                await self._begin(chain, wish, silent_ns)
        if mine and self.lease.is_due():
            await self._write(self.lease.keep)

    async def hand_back(self, actor: str, subject: str, why: str) -> None:
        """A person gives back what the site took. Refused when it took nothing."""
        chain = self.rights.chain(subject, self.rights.here)
        wish = authority.handed_back(chain)
        if wish is None:
            raise Refused("there is nothing to hand back: this site did not take it")
        await self._begin(chain, wish, 0, actor, why)

    async def _begin(self, chain: Chain, wish: Step, silent_ns: int, actor: str = "", why: str = "") -> None:
        taken = wish.cause is authority.Cause.TAKEN

        def job(db: sqlite3.Connection) -> None:
            terms = wish.terms
            self._journal.stage(
                chain.subject,
                AuthorityBegan(
                    wish.epoch,
                    wish.cause,
                    terms.master,
                    terms.controllers,
                    terms.lease_ns,
                    terms.on_expiry,
                    terms.on_return,
                    self._seen(db),
                    wish.grant,
                    silent_ns if taken else 0,
                    actor,
                    why,
                ),
            )

        if await self._write(job):
            if wish.cause is authority.Cause.ACCEPTED:
                self.lease.renew()
            self._stale("site")
            self._stale(f"authority:{chain.subject}")

    async def _write(self, job: Callable[[sqlite3.Connection], object]) -> bool:
        try:
            await self._writer.write(job)
        except StoreFault as fault:
            log.warning("authority waits: %s", fault)
            return False
        return True

    def _seen(self, db: sqlite3.Connection) -> tuple[tuple[str, int, int], ...]:
        """How far each log is known here, this site's own included: up to this very transaction."""
        own = self._journal.log
        heads: dict[str, tuple[int, int]] = {}
        for writer, epoch, seq, raw in db.execute(_HEADS, (own.tenant, own.writer)):
            hlc = decode_any(raw, writer=writer, epoch=epoch, seq=seq).hlc
            heads[writer] = max(heads.get(writer, (0, 0)), (epoch, hlc))
        heads[own.writer] = (own.epoch, self._journal.stamp())
        return tuple((writer, epoch, hlc) for writer, (epoch, hlc) in sorted(heads.items()))
