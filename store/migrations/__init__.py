"""Migrations of site.db, by Alembic. Only an older database pays for importing it."""

from __future__ import annotations

from pathlib import Path


def upgrade(path: Path, revision: str = "head") -> None:
    """Bring the database in `path` to `revision`, in one transaction per step."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{path}")
    command.upgrade(config, revision)
