"""Alembic's entry: run the steps on the database that `upgrade` names, in one transaction.

SQLite can undo a change of tables like any other, but Python's driver would begin a transaction only for rows, and Alembic
believes that there is none. So the connection is the one of `store.database`, which begins nothing by itself, and the
transaction is begun here.
"""

from __future__ import annotations

import sqlite3

from alembic import context
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import NullPool
from sqlmodel import SQLModel

from store import tables
from store.database import connect

assert tables.Log.metadata is SQLModel.metadata


def _opened() -> sqlite3.Connection:
    db = connect(context.config.attributes["path"])
    db.execute("PRAGMA foreign_keys=0")  # a table that is made anew is dropped first, and its rows are meant to stay
    return db


engine = create_engine("sqlite://", creator=_opened, poolclass=NullPool)


@event.listens_for(engine, "begin")
def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


with engine.connect() as connection:
    context.configure(
        connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True, transactional_ddl=True
    )
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
