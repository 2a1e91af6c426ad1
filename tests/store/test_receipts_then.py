"""The receipt of a moment: the newest that both had signed, whatever came after it."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from store import peers
from store.peers import Receipt
from tests.store.alder import Alder


def test_the_receipt_of_a_moment_is_the_newest_of_before_that_both_signed(alder: Alder) -> None:
    numbers = (1, 2, 3, 5, 8, 9)  # some were replaced before anybody counted them

    def job(db: sqlite3.Connection) -> None:
        for number in numbers:
            signature = b"" if number in (3, 9) else b"s"
            peers.save_receipt(db, Receipt("W", number, b"", b"h", signature, number * 100))

    alder.site.submit(job).result()
    with closing(sqlite3.connect(alder.folder.site_db)) as db:
        for moment_ns in range(0, 1_100, 50):
            wanted = max((one for one in (1, 2, 5, 8) if one * 100 <= moment_ns), default=None)
            found = peers.receipt_as_of(db, "W", moment_ns)
            assert (found.number if found else None) == wanted, moment_ns
        assert peers.receipt_as_of(db, "nobody", 500) is None
