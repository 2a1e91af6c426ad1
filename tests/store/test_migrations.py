"""A fresh database, a migrated one and the classes that define them are one schema."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from sqlmodel import SQLModel

from store import folder, migrations, tables
from store.folder import FolderNewer, bring_up


def shape(path: Path) -> dict[str, object]:
    """Everything that SQLite says about each table: columns, keys, indexes, and whether it has row ids."""
    with closing(sqlite3.connect(path)) as db:
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table' ORDER BY name")]
        kinds = {row[1]: row[4] for row in db.execute("PRAGMA table_list")}
        return {
            name: (
                kinds[name],
                db.execute(f"PRAGMA table_info('{name}')").fetchall(),
                sorted(
                    (row[1:], db.execute(f"PRAGMA index_xinfo('{row[1]}')").fetchall())
                    for row in db.execute(f"PRAGMA index_list('{name}')")
                ),
                sorted(row[2:] for row in db.execute(f"PRAGMA foreign_key_list('{name}')")),
            )
            for name in names
        }


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    bring_up(tmp_path / "fresh.db")
    return tmp_path / "fresh.db"


@pytest.fixture
def migrated(tmp_path: Path) -> Path:
    migrations.upgrade(tmp_path / "migrated.db")
    return tmp_path / "migrated.db"


def test_a_fresh_database_is_a_migrated_one(fresh: Path, migrated: Path) -> None:
    assert shape(fresh) == shape(migrated)
    with closing(sqlite3.connect(migrated)) as db:
        assert folder.revision_of(db) == folder.REVISION


def test_both_are_what_the_classes_say(fresh: Path, migrated: Path) -> None:
    for path in (fresh, migrated):
        engine = create_engine(f"sqlite:///{path}")
        with engine.connect() as connection:
            options = {"compare_type": True, "compare_server_default": True}
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, SQLModel.metadata) == []
        engine.dispose()
    wanted = {
        table.name
        for table in SQLModel.metadata.sorted_tables
        if table.dialect_options["sqlite"]["with_rowid"] is False
    }
    assert set(shape(fresh)) - {"alembic_version"} == set(SQLModel.metadata.tables)
    assert _without_rowid(fresh) == wanted


def _without_rowid(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as db:
        return {row[1] for row in db.execute("PRAGMA table_list") if row[4] and not row[1].startswith("sqlite_")}


def test_schema_sql_is_printed_from_the_classes() -> None:
    assert (Path(tables.__file__).parent / "schema.sql").read_text() == tables.ddl()


def test_bringing_up_twice_changes_nothing(fresh: Path) -> None:
    before = shape(fresh)
    bring_up(fresh)
    assert shape(fresh) == before


def test_an_older_database_is_brought_up(tmp_path: Path) -> None:
    """Alembic's table without a revision in it: where every migration begins."""
    path = tmp_path / "older.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    bring_up(path)
    with closing(sqlite3.connect(path)) as db:
        assert folder.revision_of(db) == folder.REVISION


@pytest.mark.parametrize(("box", "role"), [("hub", "OPERATOR_ADMIN"), ("appliance", "ADMIN")])
def test_old_accounts_stay_what_they_could_do(tmp_path: Path, box: str, role: str) -> None:
    path = tmp_path / "older.db"
    migrations.upgrade(path, "0002")
    with closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO meta VALUES ('box', ?)", (box,))
        for name, held in (("alice", "ADMIN"), ("olga", "OPERATOR"), ("bob", "VIEWER")):
            db.execute("INSERT INTO account VALUES (?, 'fleet', ?, 'x', 1, 0)", (name, held))
        db.execute("INSERT INTO token VALUES (x'00', 'fleet', 'ci', 'ADMIN', 1, NULL)")
        db.commit()
    bring_up(path)
    bring_up(path)
    with closing(sqlite3.connect(path)) as db:
        found = dict(db.execute("SELECT name, role FROM account").fetchall())
        assert found == {"alice": role, "olga": "OPERATOR", "bob": "VIEWER"}
        assert db.execute("SELECT role FROM token").fetchone() == ("ADMIN",)
        assert db.execute("SELECT DISTINCT origin, sites FROM account").fetchall() == [(None, None)]


@pytest.mark.parametrize("revision", ["0042", "9999", "*", "../0001"])
def test_a_database_of_a_newer_version_is_left_alone_and_says_who_can_read_it(fresh: Path, revision: str) -> None:
    with closing(sqlite3.connect(fresh, isolation_level=None)) as db:
        db.execute("UPDATE alembic_version SET version_num=?", (revision,))
        db.execute("INSERT INTO meta VALUES ('kept', 'yes')")
    before = shape(fresh)
    with pytest.raises(FolderNewer, match="newer Skerry") as caught:
        bring_up(fresh)
    assert "install that version" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert shape(fresh) == before


def test_the_newest_step_leads_to_the_revision_that_this_program_writes() -> None:
    steps = sorted(path.stem.split("_")[0] for path in (Path(migrations.__file__).parent / "versions").glob("0*.py"))
    assert steps[-1] == folder.REVISION
