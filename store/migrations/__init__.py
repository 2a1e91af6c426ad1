"""Migrations of site.db, by Alembic. Only an older database pays for importing it.

All steps that a database needs are one transaction: whoever is killed on the way, or finds the disk full, leaves it as
the older program wrote it, and that program may go on with it.
"""

from __future__ import annotations

from pathlib import Path

from store.faults import Fault, StoreFault, fault_of


def upgrade(path: Path, revision: str = "head") -> None:
    """Bring the database in `path` to `revision`. StoreFault when the disk refuses; then it is as it was."""
    from alembic import command
    from alembic.config import Config
    from sqlalchemy.exc import DBAPIError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))  # what a % means to it
    config.attributes["path"] = path
    try:
        command.upgrade(config, revision)
    except DBAPIError as error:
        found = error.orig if isinstance(error.orig, Exception) else error
        raise StoreFault(fault_of(found) or Fault.IO, path.name, str(found)) from error
