"""What Alice at alder and Bob at harbor wrote at once, in memory: the plan of an island, for tests of its page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from fleet import events as facts
from fleet import plan as planning
from fleet.document import Stamped
from fleet.events import Clock
from fleet.limits import HOUR
from fleet.plan import Chosen, Dispute, Place, Sort
from web import plans
from web.ports import Identity, PlanChange, PlanDone, PlanQuery, PlanView, PlanWish, Refused

FIELDS = ("notes", "target_version", "maintenance_window")


class Agenda:
    """`island` is a `tests.web.island.Island`."""

    def __init__(self, island: Any) -> None:
        self.island = island
        self.done: list[PlanDone] = []
        self.disputes: list[Dispute] = []
        self._former: dict[str, list[Dispute]] = {}

    def disagree(self, count: int) -> None:
        """So many fields for a person, one that settles by rule, one that this version does not know."""
        now_ns, ids = self.island.now(), list(self.island.rows)
        here = Stamped(None, "Alice", "01ALDER", 1, 5, now_ns - 3 * HOUR, Clock.FREE_RUNNING)
        there = Stamped(None, "Bob", "01HARBOR", 1, 9, now_ns - HOUR, Clock.SYNCED)

        def put(number: int, pointer: str, theirs: object, ours: object, based: bool) -> None:
            words = tuple(msgspec.structs.replace(one, value=said) for one, said in ((there, theirs), (here, ours)))
            place = Place("node", ids[number % len(ids)], pointer)
            self.disputes.append(Dispute(place, words, "as delivered" if based else None, based))

        for number in range(count):
            put(number, FIELDS[number // len(ids) % 3], f"south {number}", f"north {number}", number % 5 > 0)
        put(0, "tags/scout", True, None, based=False)
        put(1, "wings", 2, 4, based=False)

    def _names(self) -> plans.Names:
        about = {("node", one): (row.name, "survey west") for one, row in self.island.rows.items()}
        where = {"01ALDER": self.island.name, "01HARBOR": "harbor"}
        return plans.Names(about, where.__getitem__, lambda node_id: self.island.name)

    async def look(self, who: Identity, query: PlanQuery) -> PlanView:
        self.island._check()
        if query.peer:
            raise Refused("There is no such site.", 404)
        made, site, done = planning.plan(self.disputes), self.island.name, self.done[::-1]
        return plans.view(made, self._names(), query, now_ns=self.island.now(), site=site, done=done)

    def _chosen(self, wish: PlanWish) -> tuple[Chosen, ...]:
        made = planning.plan(self.disputes)
        if (made.hash, made.state) != (wish.plan, wish.state):
            raise Refused("This plan was made on an older state. What you see now is the plan as it is.")
        more = planning.proposals(made.of(Sort.AUTOMATIC)) if wish.automatic else {}
        found = planning.chosen(made, {**more, **wish.decisions})
        if isinstance(found, str):
            raise Refused(found, 422)
        return found

    async def preview(self, who: Identity, wish: PlanWish) -> Sequence[PlanChange]:
        return plans.changes(self._chosen(wish), self._names())

    async def apply(self, who: Identity, wish: PlanWish) -> int:
        chosen = {one.step.place: one for one in self._chosen(wish)}
        self._former[wish.plan] = self.disputes
        self.disputes = [one for one in self.disputes if one.place not in chosen]
        site, now_ns = self.island.name, self.island.now()
        self.done.append(plans.done(wish.plan, site, now_ns, len(chosen), who.name, wish.why, None))
        for place, (step, choice) in chosen.items():
            left = tuple((word.who, str(word.value)) for index, word in enumerate(step.words) if index != choice)
            taken, former = step.words[choice].value, step.words[0].value
            said = facts.ConflictDecided(*place, taken, former, left, step.rule, wish.plan, who.name, wish.why)
            self.island._fact(place.document, said)
        return len(chosen)

    async def undo(self, who: Identity, plan: str, why: str) -> int:
        if plan not in self._former:
            raise Refused("There is no such plan among the last 200 that were applied here.", 404)
        self.disputes = self._former.pop(plan)
        number = next(index for index, one in enumerate(self.done) if one.plan == plan)
        self.done[number] = msgspec.structs.replace(self.done[number], undone_ns=self.island.now())
        return self.done[number].decisions
