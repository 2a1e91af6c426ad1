"""How does a document learn what people said of what needs them? By one edit, said in the log that reaches the other end."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping

from fleet.document import Id, Value
from fleet.people import Refused
from store import document
from store.database import Writer
from store.disputes import Route
from store.shared import Shared


class Marks:
    """`route` says in which logs an edit of a document is said; it may refuse."""

    def __init__(
        self, writer: Writer, shared: Shared, tenant: str, route: Callable[[sqlite3.Connection, Id], Route]
    ) -> None:
        self._writer, self._shared, self._tenant, self._route = writer, shared, tenant, route

    async def write(self, actor: str, kind: str, subject: str, values: Mapping[str, Value]) -> None:
        place = Id(self._tenant, kind, subject)

        def job(db: sqlite3.Connection) -> None:
            log, also = self._route(db, place)
            made = self._shared.edit(db, place, values, actor, log, also)
            if isinstance(made, document.Refused):
                raise Refused(made.reason, 422)

        await self._writer.write(job)
