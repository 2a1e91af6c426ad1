"""Older versions: their programs, out of the repository's own history, and folders with the tables that they had.

Rules of the file
  1  A program is what stood in the commit, run by this interpreter; without that history a test skips and says so.
  2  A folder is narrowed to a revision by its real migrations: tables and columns are only ever added, so what an older
     program would have written is what its tables have room for.
"""

from __future__ import annotations

import io
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from bench.island import ROOT
from store import migrations

# By the revision of their tables: the last commit before the next one.
COMMITS = {
    "0001": "4760a3734cf52e1b7d414606dbccd037d1c54174",
    "0002": "458eb6337b54bdcf9b442fb8a57ea28912096f56",
    "0004": "754acafeec0036a19341fef46ad8fef15aec7336",
    "0007": "d9c00b598185bd710605af1e272e77ab885d02e4",
    "0008": "e11ce4877f6926591d268e55e97b9bf2627d0a61",
    "0009": "426845d0589d0cda2ecbbc2962bd4f33c76fac82",
}
_PARTS = ("skerry.py", "fleet", "store", "sync", "web", "hub", "appliance", "firmware-hooks")


def program(revision: str, into: Path) -> Path:
    """The command line of the program whose tables are of `revision`, made in `into` if it is not there yet."""
    front, commit = into / revision / "skerry.py", COMMITS[revision]
    if front.exists():
        return front
    git = shutil.which("git")
    if git is None:
        pytest.skip("needs git, to bring an older program out of the history")
    in_history = subprocess.run([git, "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True)
    if in_history.returncode:
        pytest.skip(f"needs commit {commit[:12]}, which is not in this checkout (a shallow clone, or no clone at all)")
    listed = subprocess.run([git, "-C", str(ROOT), "ls-tree", "--name-only", commit], capture_output=True, text=True)
    parts = sorted({*_PARTS} & {*listed.stdout.split()})
    made = subprocess.run([git, "-C", str(ROOT), "archive", commit, *parts], capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
        archive.extractall(into / revision, filter="data")
    return front


def run(front: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """One run of that command line."""
    return subprocess.run([sys.executable, str(front), *args], capture_output=True, text=True, timeout=120, check=False)


def narrow(path: Path, revision: str) -> None:
    """site.db of a box at rest, with the tables of `revision` and what they have room for."""
    older = path.with_name("narrow.db")
    migrations.upgrade(older, revision)
    with closing(sqlite3.connect(older, isolation_level=None)) as db:
        db.execute("ATTACH ? AS newer", (str(path),))
        db.execute("BEGIN")
        for table in tables(db):
            shared = ", ".join(column for column in columns(db, table) if column in columns(db, table, "newer"))
            db.execute(f"INSERT INTO main.{table} ({shared}) SELECT {shared} FROM newer.{table}")
        if revision < "0003":  # before there were operators of several tenants
            db.execute("UPDATE account SET role='ADMIN' WHERE role='OPERATOR_ADMIN'")
        db.execute("COMMIT")
        db.execute("DETACH newer")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for one in path.parent.glob(f"{path.name}*"):
        one.unlink()
    older.rename(path)


def tables(db: sqlite3.Connection) -> list[str]:
    rows = db.execute("SELECT name FROM main.sqlite_master WHERE type='table' ORDER BY name").fetchall()
    return [name for (name,) in rows if name != "alembic_version" and not name.startswith("sqlite_")]


def columns(db: sqlite3.Connection, table: str, schema: str = "main") -> list[str]:
    return [row[1] for row in db.execute(f"PRAGMA {schema}.table_info('{table}')")]
