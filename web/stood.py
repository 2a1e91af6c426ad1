"""How did nodes stand to what was wanted of them, as of a moment? Values in, values out: what their documents said then
(`fleet.board.Own`), what the history says of them, verdicts and sums.

Rules of the file
  1  Measured values of a moment are asked of one node at a time. Without them a want of one is unknown, and so is a node
     that is not out of spec by anything else.
  2  A sum says over how many of how many nodes it was counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nsmallest

from fleet import drift
from fleet.board import Own, title
from fleet.connectivity import REACH, Mode, Reach
from fleet.document import View
from fleet.drift import Standing, Verdict, Want
from fleet.past import Was
from fleet.present import Present, Told
from web import ports

OUT_SHOWN_MAX = 50
REASONS_MAX = 5


class Wanted:
    """What is wanted of nodes; of each bundle's nodes that say nothing themselves it is worked out once."""

    def __init__(self, bundle: Callable[[str], View | None]) -> None:
        self._bundle = bundle
        self._bundles: dict[str, View | None] = {}
        self._shared: dict[str, tuple[Want, ...]] = {}

    def of(self, own: Own) -> tuple[tuple[Want, ...], str]:
        """The wants, and the bundle that they should be of, where nobody here had it."""
        name = own.bundle
        if name not in self._bundles:
            view = self._bundles[name] = self._bundle(name) if name else None
            said = drift.said(view.values) if view is not None else {}
            self._shared[name] = drift.wants(said, title(view, name) if view is not None else "", {})
        view = self._bundles[name]
        missing = name if name and view is None else ""
        if not own.said:
            return self._shared[name], missing
        said = drift.said(view.values) if view is not None else {}
        return drift.wants(said, title(view, name) if view is not None else "", own.said), missing


def verdict(
    wanted: tuple[Sequence[Want], str],
    row: ports.NodeRow,
    mode: Mode | None,
    since_ns: int | None,
    version: str | None,
    version_ns: int | None = None,
    values: Iterable[ports.Value] = (),
    *,
    heard: bool,
) -> Verdict:
    """Of a node that was in `mode` since then and ran `version` since then."""
    wants, missing = wanted
    found = Present(
        row.id,
        row.name,
        mode=mode,
        since_ns=since_ns,
        seen_ns=since_ns,
        version=version,
        values={one.metric: Told(one.value, one.at_ns, one.source) for one in values},
    )
    return drift.judge(wants, found, heard=heard, missing=missing, version_ns=version_ns)


def sums(
    members: Sequence[ports.NodeRow],
    counted: int,
    owns: Mapping[str, Own],
    wanted: Wanted,
    modes: Mapping[str, Mode | None],
    versions: Mapping[str, Was],
    silent: frozenset[str],
    unread: int,
) -> ports.GroupSums:
    """Of the first `counted` of a group's nodes; `silent` are the sites that have told nothing of the moment."""
    standing, reasons, found = Counter[Standing](), Counter[str](), Counter[str]()
    reach = Counter[Reach]()
    scores: list[int] = []
    out: list[tuple[ports.NodeRow, Verdict]] = []
    for row in members[:counted]:
        heard, mode, ran = row.site not in silent, modes[row.id], versions.get(row.id)
        reach[REACH[mode] if heard else Reach.UNKNOWN] += 1
        found[ran.said if heard and ran is not None else ""] += 1
        own = owns.get(row.id, Own())
        one = verdict(wanted.of(own), row, mode, None, ran.said if ran is not None else None, heard=heard)
        standing[one.standing] += 1
        if one.score is not None:
            scores.append(one.score)
        if one.standing is Standing.OUT:
            out.append((row, one))
            reasons.update(map(drift.reason, one.out))
    worst = nsmallest(OUT_SHOWN_MAX, out, key=lambda each: (-(each[1].score or 0), each[0].name, each[0].id))
    return ports.GroupSums(
        nodes=len(members),
        counted=min(counted, len(members)),
        unread=unread,
        in_line=standing[Standing.IN_LINE],
        out=standing[Standing.OUT],
        unknown=standing[Standing.UNKNOWN],
        free=standing[Standing.FREE],
        score=sum(scores) / len(scores) if scores else None,
        reasons=tuple(reasons.most_common(REASONS_MAX)),
        versions=tuple(found.most_common()),
        reach=tuple((one, reach[one]) for one in Reach),
        worst=tuple(
            ports.Drifter(id=row.id, name=row.name, site=row.site, score=one.score or 0, lines=one.out)
            for row, one in worst
        ),
    )
