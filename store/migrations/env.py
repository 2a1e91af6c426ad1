"""Alembic's entry: run the steps on the database that `upgrade` names."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine
from sqlmodel import SQLModel

from store import tables

url = context.config.get_main_option("sqlalchemy.url")
assert url is not None
assert tables.Log.metadata is SQLModel.metadata
engine = create_engine(url)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
