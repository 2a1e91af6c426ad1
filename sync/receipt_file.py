"""Does a completeness receipt hold? Checked offline, against the receipt alone or either side's own data folder."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from fleet import envelope
from fleet.envelope import Log
from store import journal, link_file, peers
from store.database import connect_reader
from store.faults import StoreFault
from store.folder import Folder
from sync import receipt
from sync.receipt import Signed, Verdict


class ReceiptFile(msgspec.Struct, frozen=True):
    """A receipt with what is needed to check it: signatures and public keys (Ed25519), as bytes in base64."""

    kind: str
    content: bytes
    hub_signature: bytes
    site_signature: bytes
    hub_key: bytes
    site_key: bytes


KIND = "skerry receipt"


def export(data: Path, number: int | None, site: str | None) -> bytes:
    """The newest receipt of a folder (or that of a number, of a site), as a file. ValueError when there is none."""
    with closing(connect_reader(Folder(data).site_db)) as db:
        identity = journal.read_identity(db)
        if identity is None:
            raise ValueError(f"{data} holds no box")
        found = [
            one
            for one in db.execute("SELECT * FROM receipt ORDER BY at_ns DESC").fetchall()
            if (number is None or one[1] == number)
            and (site is None or site in (one[0], receipt.read(one[2]).site_name))
        ]
        if not found:
            raise ValueError("there is no such receipt here yet; it is made when a site has caught up with its hub")
        held = peers.Receipt(*found[0])
        made = receipt.read(held.content)
        keys = {peer.writer: peer.public_key for peer in peers.every(db, identity.log.tenant)}
        if (way := Folder(data).link_file).exists():  # a site may have met its hub by stick alone
            link = link_file.read(way)
            keys.setdefault(link.hub_writer, bytes.fromhex(link.hub_key))
        keys[identity.log.writer] = journal.public_key(db, identity.log) or b""
    file = ReceiptFile(
        KIND,
        held.content,
        held.hub_signature,
        held.site_signature,
        keys.get(made.hub, b""),
        keys.get(made.site, b""),
    )
    return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"


def verify(path: Path, data: Path | None) -> tuple[bool, str]:
    """A receipt file, by itself and (with `data`) against what a site or hub has in its folder."""
    try:
        file = msgspec.json.decode(path.read_bytes(), type=ReceiptFile)
        made = receipt.read(file.content)
        hub, site = envelope.public_key(file.hub_key), envelope.public_key(file.site_key)
    except OSError as error:
        return False, f"{path} cannot be read: {error.strerror}"
    except (msgspec.MsgspecError, ValueError) as error:
        return False, f"{path} is no receipt of Skerry: {error}"
    verdict = receipt.check(Signed(file.content, file.hub_signature, file.site_signature), hub, site)
    if verdict is not Verdict.GOOD:
        return False, f"{path}: {verdict}"
    said = words(made)
    if data is None:
        return True, f"{path}: both signatures hold\n{said}\n  checked against no data; name a folder with --data"
    try:
        against, verdict = _against(data, made, file)
    except StoreFault as fault:
        return False, str(fault)
    if verdict is not Verdict.GOOD:
        return False, f"{path}: both signatures hold, but {verdict} ({data})"
    return True, f"{path}: both signatures hold, and {against}\n{said}"


def _against(data: Path, made: receipt.Receipt, file: ReceiptFile) -> tuple[str, Verdict]:
    with closing(connect_reader(Folder(data).site_db)) as db:
        identity = journal.read_identity(db)
        logs = [Log(made.tenant, made.site, span.epoch) for span in made.logs]
        for log in logs:
            held = journal.public_key(db, log)
            if held is not None and held != file.site_key:
                return "", Verdict.SITE
        hashes = {
            (span.epoch, span.seq): peers.hash_at(db, log, span.seq) for span, log in zip(made.logs, logs, strict=True)
        }
        at_hub = identity is not None and identity.log.writer == made.hub
        root = _held(db, made) if at_hub else None
    verdict = receipt.agrees(made, hashes, root)
    verified = ""
    if verdict is Verdict.GOOD:
        verified = f"the log in {data} is the same, event by event, up to its end"
    return verified, verdict


def _held(db: sqlite3.Connection, made: receipt.Receipt) -> bytes:
    """The root over what this hub holds of all that the receipts up to this one list."""
    rows = db.execute("SELECT content FROM receipt WHERE site=? AND number<=?", (made.site, made.number))
    listed = {sha256 for (content,) in rows for sha256 in receipt.read(content).segments}
    held = peers.segments(db, made.site, peers.HERE)
    return receipt.segments_root([one.sha256 for one in held if one.sha256 in listed])


def words(made: receipt.Receipt) -> str:
    """A receipt for people."""
    lines = [f"  receipt {made.number} of {made.hub_name} for {made.site_name}"]
    lines += [f"  epoch {span.epoch}: events 1 to {span.seq:,}, head {span.hash.hex()[:16]}" for span in made.logs]
    lanes = made.lanes
    lines.append(f"  {lanes.events:,} events; {lanes.segments:,} segments with {lanes.records:,} records")
    if made.segments_missing:
        lines.append(f"  {made.segments_missing:,} segments are still on their way")
    lines += [f"  let go on purpose: {drop.count:,} {drop.what} ({drop.reason})" for drop in made.drops[-10:]]
    lines += [f"  missing: {gap.count:,} records of a {gap.what} ({gap.reason})" for gap in made.gaps[-10:]]
    lines.append(f"  root {made.root.hex()}")
    return "\n".join(lines)
