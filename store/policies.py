"""Policy bundles and domains: a person's wish becomes a change of a common document, said to every site.

What cannot be done raises `Refused` with the sentence for the person, and nothing is half done. A document's id is a ULID
made with it; people see the name.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence

from fleet.document import Id, Value, View
from fleet.document import Kind as DocumentKind
from fleet.envelope import Log
from fleet.people import Refused
from store import document, node_words
from store.clock import WallClock
from store.database import Writer
from store.keys import new_ulid
from store.shared import Shared

COMMON_MAX = 1_000  # bundles, and domains, of a tenant

CALLED = {DocumentKind.BUNDLE: "policy bundle", DocumentKind.DOMAIN: "domain"}


class Policies:
    """`towards` are the logs in which a hub says it again to its sites; a site has none."""

    def __init__(
        self,
        writer: Writer,
        shared: Shared,
        clock: WallClock,
        tenant: str,
        towards: Callable[[sqlite3.Connection], Sequence[Log]] = lambda db: (),
    ) -> None:
        self._writer, self._shared, self._clock, self._tenant = writer, shared, clock, tenant
        self._towards = towards

    async def create(self, actor: str, kind: DocumentKind, name: str) -> str:
        """The id of a new one called `name`."""
        values = node_words.common_values(kind, {"name": name})

        def job(db: sqlite3.Connection) -> str:
            held = names(db, self._tenant, kind)
            if name.strip() in held.values():
                raise Refused(f"there is a {CALLED[kind]} {name.strip()} already; choose another name")
            if len(held) >= COMMON_MAX:
                raise Refused(f"there are {COMMON_MAX:,} of them already; change one that nobody uses")
            made = new_ulid(self._clock.now_ns())
            self._edit(db, kind, made, values, actor)
            return made

        return await self._writer.write(job)

    async def change(self, actor: str, kind: DocumentKind, name: str, fields: Mapping[str, str]) -> None:
        """Write what a form says into the document `name`; a field that is empty is taken away."""
        values = node_words.common_values(kind, fields)

        def job(db: sqlite3.Connection) -> None:
            self._view(db, kind, name)
            self._edit(db, kind, name, values, actor)

        await self._writer.write(job)

    async def take(self, actor: str, kind: DocumentKind, name: str, pointer: str, choice: int) -> None:
        """Of words written at once, take one: 0 is the one that holds, the others follow as they are shown."""

        def job(db: sqlite3.Connection) -> None:
            self._edit(db, kind, name, {pointer: chosen(self._view(db, kind, name), pointer, choice)}, actor)

        await self._writer.write(job)

    def _view(self, db: sqlite3.Connection, kind: DocumentKind, name: str) -> View:
        view = document.look(db, Id(self._tenant, kind, name))
        if not view.values:
            raise Refused(f"there is no such {CALLED[kind]}", 404)
        return view

    def _edit(
        self, db: sqlite3.Connection, kind: DocumentKind, name: str, values: Mapping[str, Value], actor: str
    ) -> None:
        place = Id(self._tenant, kind, name)
        made = self._shared.edit(db, place, values, actor, also=self._towards(db))
        if isinstance(made, document.Refused):
            raise Refused(made.reason, 422)


def chosen(view: View, pointer: str, choice: int) -> Value:
    """The value that a person clicked, of a conflict as it was shown."""
    conflict = next((one for one in view.conflicts if one.pointer == pointer), None)
    if conflict is None:
        raise Refused("there is nothing to choose there any more; somebody has")
    choices = (conflict.effective, *conflict.others)
    if not 0 <= choice < len(choices):
        raise Refused("there is no such choice; look again", 422)
    value: Value = choices[choice].value
    return value


def names(db: sqlite3.Connection, tenant: str, kind: DocumentKind) -> dict[str, str]:
    """What every document of a kind is called, by id."""
    rows = db.execute("SELECT DISTINCT id FROM document WHERE tenant=? AND kind=?", (tenant, kind)).fetchall()
    found: dict[str, str] = {}
    for (name,) in rows:
        said = document.look(db, Id(tenant, kind, name)).values.get("name")
        found[name] = str(said.value or "") if said else ""
    return found
