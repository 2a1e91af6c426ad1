"""What a run must have kept: producers write down what they sent, the auditor compares it with what is there.

Rules of the file
  1  A ledger lives outside the system that is tried: it sees only what was sent and what was answered.
  2  The letters are those of the trials' table. A every acknowledged id is there exactly once, byte for byte, or stands
     in a gap that a signed event owns up to · B nothing is there that nobody sent · C no log has a hole, and nothing in
     it changed since it was last looked at · D `skerry journal verify` finds it good · G what was not acknowledged is
     there once or not at all.
  3  Every finding is a sentence; an audit without one is a passed audit.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import cast

from appliance.archive import verify
from fleet import events
from store import journal
from store.database import connect_reader
from store.folder import Folder
from store.telemetry import History

OWN_SOURCE = "skerry//"  # what the box writes about itself among the records
_ID = re.compile(rb'"mid": ?"([^"]+)"')
_SHOWN_MAX = 5
_PAGE_RECORDS = 100_000
_PAGE_SECONDS = 60.0


def digest(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()


class Seen(NamedTuple):
    """A record as it was found: the id that the box gave it, its source, the SHA-256 of its content."""

    id: int
    source: str
    content: bytes
    mid: str


class Gap(NamedTuple):
    first_id: int
    last_id: int
    reason: str


class Found(NamedTuple):
    records: list[Seen]
    gaps: list[Gap]


class Ledger:
    """What the producers of a run sent. Safe across threads. Each message carries `"mid": "…"`, an id of its own."""

    def __init__(self) -> None:
        self.sent: dict[str, bytes] = {}  # → the SHA-256
        self.acknowledged: dict[str, int] = {}  # → the record id as answered; 0 where the answer named none
        self._lock = threading.Lock()

    def sending(self, mid: str, raw: bytes) -> None:
        """Written down before the first byte leaves."""
        with self._lock:
            assert mid not in self.sent
            self.sent[mid] = digest(raw)

    def acknowledge(self, mid: str, record_id: int = 0) -> None:
        with self._lock:
            self.acknowledged[mid] = record_id

    def answered(self) -> dict[str, int]:
        """What is acknowledged by now."""
        with self._lock:
            return dict(self.acknowledged)


# -- looking ------------------------------------------------------------------------------------------------------


def mid_of(raw: bytes) -> str:
    match = _ID.search(raw)
    return match[1].decode() if match else ""


def on_disk(data: Path) -> Found:
    """Every record of a data folder, read as the appliance reads it. Pages must not overlap."""
    history, found, gaps, after = History(Folder(data)), list[Seen](), dict[int, Gap](), 0
    while True:
        page = history.after(after, _PAGE_RECORDS, seconds=_PAGE_SECONDS)
        found += [Seen(one.id, one.source, digest(one.content), mid_of(one.content)) for one in page.records]
        gaps |= {gap.first_id: Gap(*gap) for gap in page.gaps}
        if page.scanned == after:
            return Found(found, sorted(gaps.values()))
        after = page.scanned


class Collector:
    """A program that pulls `/api/v1/telemetry` with a cursor, as docs/api.md says, and keeps what it got."""

    def __init__(self) -> None:
        self.after = 0
        self.found = Found([], [])

    def pull(self, site: cast.Site, *, pages: int = 1_000_000) -> None:
        """Everything that is new, or at most so many pages. NotRunning or Refusal as the control socket has it."""
        for _ in range(pages):
            page = site.call("GET", f"/api/v1/telemetry?after={self.after}&limit=5000")
            self.found.records.extend(map(_of_the_api, page["records"]))
            self.found.gaps.extend(Gap(gap["first_id"], gap["last_id"], gap["reason"]) for gap in page["gaps"])
            if page["next"] == self.after:
                return
            self.after = page["next"]


def _of_the_api(record: dict[str, Any]) -> Seen:
    raw = record["raw"].encode() if record["raw"] is not None else base64.b64decode(record["raw_b64"])
    return Seen(record["id"], record["source"], digest(raw), mid_of(raw))


# -- comparing ----------------------------------------------------------------------------------------------------


def records(ledger: Ledger, found: Found, acknowledged: Mapping[str, int] | None = None) -> list[str]:
    """A, B and G. `acknowledged`: what was so before anybody looked, where producers are still at work."""
    return [*in_order(found), *contents(ledger, found, acknowledged)]


def contents(ledger: Ledger, found: Found, acknowledged: Mapping[str, int] | None = None) -> list[str]:
    """As `records`, for a part of what was found: nothing is said about the ids between."""
    return [
        *_some(_foreign(ledger, found), "B"),
        *_some(_twice(found), "A/G"),
        *_some(_missing(ledger.acknowledged if acknowledged is None else acknowledged, found), "A"),
    ]


def in_order(found: Found) -> Iterator[str]:
    """Ids ascend, and each one that is not there stands in a gap."""
    before, gaps = 0, iter([*found.gaps, Gap(1 << 62, 1 << 62, "")])
    gap = next(gaps)
    for record in found.records:
        if record.id <= before:
            yield f"A/G: record {record.id} comes after {before}"
        while record.id > before + 1 and gap.first_id <= before + 1:
            before, gap = max(before, gap.last_id), next(gaps)
        if record.id > before + 1:
            yield f"A: ids {before + 1} to {record.id - 1} are missing, and no gap names them"
        before = record.id


def _foreign(ledger: Ledger, found: Found) -> Iterator[str]:
    for record in found.records:
        sent = ledger.sent.get(record.mid)
        if sent is None:
            if record.source != OWN_SOURCE:
                yield f"record {record.id} of {record.source} ({record.mid!r}) was never sent"
        elif record.content != sent:
            yield f"record {record.id} ({record.mid}) is not what was sent"


def _twice(found: Found) -> Iterator[str]:
    places = defaultdict(list)
    for record in found.records:
        places[record.mid].append(record.id)
    yield from (f"{mid} stands at {ids}" for mid, ids in places.items() if mid and len(ids) > 1)


def _missing(acknowledged: Mapping[str, int], found: Found) -> Iterator[str]:
    here = {record.mid: record.id for record in found.records}
    for mid, record_id in acknowledged.items():
        place = here.get(mid)
        if place is None and not any(gap.first_id <= record_id <= gap.last_id for gap in found.gaps):
            yield f"{mid} (record {record_id}) was acknowledged and is not there"
        elif place is not None and record_id and place != record_id:
            yield f"{mid} was acknowledged as record {record_id} and is record {place}"


def _some(problems: Iterable[str], letter: str) -> list[str]:
    found = list(problems)
    return [f"{letter}: {words}" for words in found[:_SHOWN_MAX]] + (
        [f"{letter}: {len(found) - _SHOWN_MAX} more"] if len(found) > _SHOWN_MAX else []
    )


# -- the journal --------------------------------------------------------------------------------------------------


class JournalWatch:
    """C and D of one folder, at every look since the first: what once stood in the log stands there for good."""

    def __init__(self) -> None:
        self.blocks: dict[tuple[int, int], bytes] = {}

    def look(self, data: Path) -> list[str]:
        problems = []
        with closing(connect_reader(Folder(data).site_db)) as db:
            for log_id, count, first, last in db.execute(
                "SELECT log_id, count(*), min(seq), max(seq) FROM event GROUP BY log_id"
            ):
                if (count, first) != (last, 1):
                    problems.append(f"C: log {log_id} holds {count} events numbered {first} to {last}")
            rows = db.execute("SELECT log_id, last_seq, hash FROM block").fetchall()
        here = {(log_id, seq): hash_ for log_id, seq, hash_ in rows}
        changed = [place for place, hash_ in self.blocks.items() if here.get(place) != hash_]
        self.blocks = here
        problems += [f"C: block {place} is not what it was" for place in changed[:_SHOWN_MAX]]
        good, words = verify(data, lambda done, total: None)
        return problems if good else [*problems, f"D: {words}"]


def cli_verifies(data: Path) -> list[str]:
    """D by the command that a person would type."""
    said = cast.skerry("journal", "verify", str(data), timeout_s=240)
    return [] if said.returncode == 0 else [f"D: {said.stdout}{said.stderr}"]


def every_event(data: Path) -> list[events.Recorded]:
    with closing(connect_reader(Folder(data).site_db)) as db:
        return [event for batch in journal.read(db) for event in batch]


def names_told(told: Iterable[events.Recorded]) -> list[tuple[str, str, str]]:
    """(node id, kind, name) of every event that named a node."""
    found = []
    for event in told:
        if isinstance(event.body, events.NodeAdopted):
            found.append((event.subject, event.kind, event.body.name))
        elif isinstance(event.body, events.NodeChanged) and event.body.field == "name":
            found.append((event.subject, event.kind, event.body.value))
    return found


def gaps_are_owned_up_to(data: Path, found: Found) -> list[str]:
    """Each gap is covered by events that say what was let go, or what was damaged."""
    told: list[events.TelemetryDropped | events.TelemetryDamaged] = [
        event.body
        for event in every_event(data)
        if isinstance(event.body, events.TelemetryDropped | events.TelemetryDamaged)
    ]
    return [
        f"A: the gap {gap} stands in no event"
        for gap in found.gaps
        if not _covered(gap, sorted((one.first_id, one.last_id) for one in told))
    ]


def _covered(gap: Gap, ranges: Sequence[tuple[int, int]]) -> bool:
    upto = gap.first_id - 1
    for first_id, last_id in ranges:
        if first_id <= upto + 1:
            upto = max(upto, last_id)
    return upto >= gap.last_id


def examined(ledger: Ledger, data: Path, watch: JournalWatch) -> list[str]:
    """A to D and G on a folder, whether an appliance runs on it or not."""
    if any(data.glob("telemetry/*-journal")):  # cut off while a partition was made; the next start rolls that back
        return watch.look(data)
    acknowledged = ledger.answered()
    found = on_disk(data)
    return [*records(ledger, found, acknowledged), *watch.look(data), *gaps_are_owned_up_to(data, found)]
