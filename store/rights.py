"""Who may write what is wanted of a node, as far as this box knows? The events of authority (`fleet.authority`), asked for
one document.

Rules of the file
  1  A node with a line of epochs of its own is decided on by itself; any other with its domain.
  2  What was begun and granted is read from the projection, so it is what is committed.
  3  As of a stamp (`at`) it is the same question, of what had been said by then.
"""

from __future__ import annotations

from collections.abc import Callable

from fleet.authority import HUB, MEMBERSHIP, Chain, Names
from fleet.document import View
from fleet.past import STAMP_MAX
from fleet.projections import authority
from fleet.projections.authority import State


class Rights:
    """`here` is `HUB`, or the writer of this site; `place_of` says at which site a node is; `names` what the hub and a
    site are called; `is_hub` whether a log's writer is the hub's."""

    def __init__(
        self,
        state: Callable[[], State],
        here: str,
        place_of: Callable[[str], str],
        names: Callable[[str], Names],
        is_hub: Callable[[str], bool],
        upto: int = STAMP_MAX,
    ) -> None:
        self.here, self.place_of, self.names = here, place_of, names
        self._state, self._is_hub, self._upto = state, is_hub, upto
        self._known: tuple[State, dict[tuple[str, str], Chain]] = (authority.EMPTY, {})

    def at(self, stamp: int) -> Rights:
        """As it was at a moment: the greatest stamp that belongs to it."""
        return Rights(self._state, self.here, self.place_of, self.names, self._is_hub, stamp)

    @property
    def state(self) -> State:
        return self._state()

    def chain(self, subject: str, place: str) -> Chain:
        state, known = self._state(), self._known
        if known[0] is not state:
            known = self._known = (state, {})
        found = known[1].get((subject, place))
        if found is None:
            found = known[1][subject, place] = authority.chain(state, subject, place, self._is_hub, self._upto)
        return found

    def contested(self) -> list[Chain]:
        """Where two believe that they decide."""
        state = self._state()
        chains = [self.chain(*one) for one in sorted({*state.claims, *state.grants})]
        return [one for one in chains if one.contests]

    def of_node(self, node_id: str, plain: View) -> Chain:
        """The line that a node's document is judged by; `plain` is the document as it was merged."""
        place = self.place_of(node_id)
        own = self.chain(node_id, place)
        if own.claims:
            return own
        said = plain.values.get(MEMBERSHIP)
        return self.of_domain(said.value if said is not None else None, place)

    def of_domain(self, domain: object, place: str) -> Chain:
        return self.chain(domain, place) if isinstance(domain, str) and domain else Chain("", place)

    @property
    def at_hub(self) -> bool:
        return self.here == HUB
