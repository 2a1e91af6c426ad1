"""The tables of site.db, as SQLModel classes: the definition from which schema.sql and the migrations follow.

Importing SQLModel takes most of a second, and a second writing connection would break the rule of `store.database`.
So these classes define and the running appliance speaks SQL: a fresh database is made from `schema.sql`, an older
one is brought up by Alembic (`store.migrations`), and a test holds the three equal. `python -m store.tables` prints
schema.sql. See docs/decisions/0002.
"""

from __future__ import annotations

import sys

from sqlalchemy import Column, ForeignKey, Index, LargeBinary
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlmodel import Field, SQLModel


class Log(SQLModel, table=True):
    __tablename__ = "log"
    __table_args__ = (Index("log_identity", "tenant", "writer", "epoch", unique=True),)
    id: int = Field(primary_key=True)
    tenant: str
    writer: str
    epoch: int
    public_key: bytes
    started_ns: int


class Block(SQLModel, table=True):
    __tablename__ = "block"
    __table_args__ = {"sqlite_with_rowid": False}
    log_id: int = Field(sa_column=Column(ForeignKey("log.id"), primary_key=True))
    first_seq: int = Field(primary_key=True)
    last_seq: int
    previous: bytes
    hash: bytes
    signature: bytes


class Event(SQLModel, table=True):
    __tablename__ = "event"
    __table_args__ = (Index("event_seq", "log_id", "seq", unique=True),)
    position: int = Field(primary_key=True)
    log_id: int = Field(foreign_key="log.id")
    seq: int
    kind: str
    subject: str
    wall_ns: int
    raw: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class Mention(SQLModel, table=True):
    """Between which positions a block has events about `subject`, or of the kind that it names: the way to a node's timeline,
    and to what happens seldom (`journal.mentions`)."""

    __tablename__ = "mention"
    __table_args__ = {"sqlite_with_rowid": False}
    subject: str = Field(primary_key=True)
    first_position: int = Field(primary_key=True)
    last_position: int


class Meta(SQLModel, table=True):
    __tablename__ = "meta"
    __table_args__ = {"sqlite_with_rowid": False}
    key: str = Field(primary_key=True)
    value: str


class Node(SQLModel, table=True):
    """What people said of a node, as JSON of `fleet.node.Node`; what the node says of itself is in `snapshot`."""

    __tablename__ = "node"
    id: str = Field(primary_key=True)
    tenant: str = Field(index=True)
    name: str
    document: bytes


class Source(SQLModel, table=True):
    __tablename__ = "source"
    __table_args__ = {"sqlite_with_rowid": False}
    key: str = Field(primary_key=True)
    tenant: str
    node_id: str | None = Field(default=None, foreign_key="node.id")
    first_ns: int
    last_ns: int
    records: int
    last_record: int
    sample: bytes = b""


class Snapshot(SQLModel, table=True):
    __tablename__ = "snapshot"
    __table_args__ = {"sqlite_with_rowid": False}
    node_id: str = Field(primary_key=True)
    body: bytes


class View(SQLModel, table=True):
    """A projection's state up to `position`, so that a start need not fold the whole log."""

    __tablename__ = "view"
    __table_args__ = {"sqlite_with_rowid": False}
    name: str = Field(primary_key=True)
    version: int
    position: int
    state: bytes


class Segment(SQLModel, table=True):
    __tablename__ = "segment"
    first_id: int = Field(primary_key=True)
    last_id: int
    sha256: bytes
    records: int
    from_ns: int
    to_ns: int
    bytes_stored: int
    sealed_ns: int
    dropped_ns: int | None = None


class SegmentFrame(SQLModel, table=True):
    """Where in a segment's file each frame stands, so that one frame can be read without the others."""

    __tablename__ = "segment_frame"
    first_id: int = Field(primary_key=True)
    last_id: int
    segment_id: int = Field(foreign_key="segment.first_id", index=True)
    offset: int
    length: int
    records: int
    from_ns: int
    to_ns: int
    sources: bytes


class Quarantine(SQLModel, table=True):
    """What comes again is counted, not kept again: the index finds it among ten thousand while a flood comes in."""

    __tablename__ = "quarantine"
    __table_args__ = (Index("quarantine_same", "tenant", "intake", "source", "reason", "raw"),)
    id: int = Field(primary_key=True)
    tenant: str
    at_ns: int
    intake: str
    source: str
    reason: str
    raw: bytes
    times: int
    settled_ns: int | None = None
    decision: str | None = None
    first_ns: int | None = None  # None: of before this was kept; then `at_ns` is the best that is known


class Account(SQLModel, table=True):
    __tablename__ = "account"
    __table_args__ = {"sqlite_with_rowid": False}
    name: str = Field(primary_key=True)
    tenant: str
    role: str
    password_hash: str
    created_ns: int
    disabled: bool = False
    origin: str | None = None  # at a site: the hub that it came from; None: made here
    sites: str | None = None  # at a hub: the sites it is for (`store.roster.Bound`, JSON); None: this hub alone
    changed_by: str | None = None


class Session(SQLModel, table=True):
    __tablename__ = "session"
    __table_args__ = {"sqlite_with_rowid": False}
    secret_hash: bytes = Field(primary_key=True)
    account: str = Field(foreign_key="account.name", index=True)
    created_ns: int
    expires_ns: int
    address: str


class Token(SQLModel, table=True):
    __tablename__ = "token"
    __table_args__ = {"sqlite_with_rowid": False}
    secret_hash: bytes = Field(primary_key=True)
    tenant: str
    name: str
    role: str
    created_ns: int
    revoked_ns: int | None = None


class Peer(SQLModel, table=True):
    """The other end of a link: at a hub one row a site, at a site one row, its hub. `token` and `former` are what the
    next session's ratchet may be made from; `log_writer` and `log_epoch` name the log that is written towards it."""

    __tablename__ = "peer"
    __table_args__ = {"sqlite_with_rowid": False}
    writer: str = Field(primary_key=True)
    tenant: str
    name: str
    public_key: bytes
    sealing_key: bytes
    fence: int
    token: bytes
    former: bytes
    log_writer: str
    log_epoch: int
    quarantine: str
    since_ns: int
    seen_ns: int
    told: bytes


class Invitation(SQLModel, table=True):
    """A site that may come: the SHA-256 of the secret that it shows the first time, and its credential for the line."""

    __tablename__ = "invitation"
    __table_args__ = {"sqlite_with_rowid": False}
    name: str = Field(primary_key=True)
    tenant: str
    secret_hash: bytes
    writer: str
    made_ns: int
    link: str
    password: str


class PresentRow(SQLModel, table=True):
    """The present of a node as its site last told it (`fleet.present`)."""

    __tablename__ = "present"
    __table_args__ = {"sqlite_with_rowid": False}
    node_id: str = Field(primary_key=True)
    site: str = Field(primary_key=True)
    told_ns: int
    received_ns: int
    body: bytes


class Custody(SQLModel, table=True):
    """Segments of sites: at the hub what has come of each, at a site which receipt covers it."""

    __tablename__ = "custody"
    __table_args__ = {"sqlite_with_rowid": False}
    site: str = Field(primary_key=True)
    sha256: bytes = Field(primary_key=True)
    first_id: int
    last_id: int
    records: int
    bytes_stored: int
    from_ns: int
    to_ns: int
    state: str
    reason: str
    at_ns: int


class ReceiptRow(SQLModel, table=True):
    __tablename__ = "receipt"
    __table_args__ = {"sqlite_with_rowid": False}
    site: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    content: bytes
    hub_signature: bytes
    site_signature: bytes
    at_ns: int


class Branch(SQLModel, table=True):
    """Blocks of a log that was continued in two ways: the way that is not in the journal, kept as it came."""

    __tablename__ = "branch"
    __table_args__ = {"sqlite_with_rowid": False}
    log_id: int = Field(sa_column=Column(ForeignKey("log.id"), primary_key=True))
    first_seq: int = Field(primary_key=True)
    hash: bytes = Field(primary_key=True)
    last_seq: int
    raw: bytes
    at_ns: int


class DocumentRow(SQLModel, table=True):
    """A document as saved (`store.document`); `heads` is sorted 32-byte hashes, one after the other."""

    __tablename__ = "document"
    __table_args__ = (Index("document_disputed", "tenant", "disputed"),)
    tenant: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    generation: int = Field(primary_key=True)
    heads: bytes
    changes: int
    saved: bytes
    disputed: bool | None = None  # words stand against each other in a field of it


class DocumentWaiting(SQLModel, table=True):
    """Changes whose dependencies have not come yet."""

    __tablename__ = "document_waiting"
    __table_args__ = {"sqlite_with_rowid": False}
    tenant: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    generation: int = Field(primary_key=True)
    hash: bytes = Field(primary_key=True)
    raw: bytes
    since_ns: int


class DocumentDouble(SQLModel, table=True):
    """Changes that a second copy of their author wrote: no document can hold them."""

    __tablename__ = "document_double"
    __table_args__ = {"sqlite_with_rowid": False}
    tenant: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    generation: int = Field(primary_key=True)
    hash: bytes = Field(primary_key=True)


class Device(SQLModel, table=True):
    """A node that proves at the ways in who it is; with what, stands in `credential`."""

    __tablename__ = "device"
    __table_args__ = {"sqlite_with_rowid": False}
    node_id: str = Field(primary_key=True, foreign_key="node.id")
    tenant: str
    gateway: bool  # may speak for others
    enrolled_ns: int
    enrolled_by: str


class Credential(SQLModel, table=True):
    """What a device shows. `lookup` is what it is found by: the SHA-256 of a token or of a certificate, the user name of a
    password; `proof` is the hash of a password. A secret never stands here."""

    __tablename__ = "credential"
    __table_args__ = (Index("credential_lookup", "kind", "lookup"), {"sqlite_with_rowid": False})
    id: str = Field(primary_key=True)
    tenant: str
    node_id: str = Field(foreign_key="device.node_id", index=True)
    kind: str
    lookup: bytes
    proof: str
    label: str  # by which people tell it from others: user name, serial number, the first characters of the id
    made_ns: int
    made_by: str
    expires_ns: int | None = None
    revoked_ns: int | None = None
    used_ns: int | None = None
    used_from: str = ""
    former: str = ""  # the credential whose place it took


class ActivationCode(SQLModel, table=True):
    """What an operator gives to a device that is to come: it is traded for a credential."""

    __tablename__ = "activation_code"
    __table_args__ = {"sqlite_with_rowid": False}
    id: str = Field(primary_key=True)
    tenant: str
    secret_hash: bytes = Field(unique=True)
    name: str  # of the node that it is for; empty: whichever the device names
    node_kind: str
    gateway: bool
    uses: int
    used: int
    made_ns: int
    made_by: str
    expires_ns: int
    revoked_ns: int | None = None


class Stream(SQLModel, table=True):
    """What this site holds of a stream that a device numbers (`store.streams`). `held` is MessagePack: pairs of first and
    last number, ascending, above `floor`; all numbers below `floor` are settled."""

    __tablename__ = "stream"
    __table_args__ = {"sqlite_with_rowid": False}
    tenant: str = Field(primary_key=True)
    device: str = Field(primary_key=True)
    stream: str = Field(primary_key=True)
    floor: int
    held: bytes
    told_ns: int


class Delivery(SQLModel, table=True):
    """An upload whose records are being stored: begun behind the record `after_id`, and gone once its stream holds it."""

    __tablename__ = "delivery"
    __table_args__ = {"sqlite_with_rowid": False}
    upload: str = Field(primary_key=True)
    tenant: str
    after_id: int
    began_ns: int


def ddl() -> str:
    """The whole of schema.sql, in a fixed order."""
    dialect = sqlite.dialect()
    statements: list[str] = []
    for table in SQLModel.metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=dialect)).strip() + ";")
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements += [str(CreateIndex(index).compile(dialect=dialect)).strip() + ";" for index in indexes]
    return (
        "-- Made by `python -m store.tables`; change the classes there, not this file.\n" + "\n".join(statements) + "\n"
    )


if __name__ == "__main__":
    sys.stdout.write(ddl())
