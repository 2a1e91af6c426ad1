"""What does a site need to find its hub and be believed? One file, made by `skerry hub invite`, taken in by `skerry link join`.

It holds secrets (the credential for the line, the invitation): it is written 0600, and goes from hand to hand.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from store.keys import sync_folder


class LinkProblem(Exception):
    """The file is no invitation that this program can use; str() says why and what to do."""


class LinkFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """`hub_key` (Ed25519) and `sealing_key` (X25519) are the hub's public keys in hexadecimal; `ca` is PEM, empty when
    the line is not by TLS or the certificate is a public one."""

    kind: str = "skerry link"
    version: int = 1
    tenant: str
    site: str
    hub: str
    hub_writer: str
    hub_key: str
    sealing_key: str = ""
    url: str
    link: str
    password: str
    secret: str
    ca: str = ""


def write(path: Path, link: LinkFile) -> None:
    """Durable, for the owner alone."""
    raw = msgspec.json.format(msgspec.json.encode(link), indent=2)
    fresh = path.with_name(path.name + ".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, raw + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    fresh.rename(path)
    sync_folder(path.parent)


def read(path: Path) -> LinkFile:
    """LinkProblem when it is not there, or not what it should be."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise LinkProblem(f"{path} cannot be read: {error.strerror}") from error
    return parse(raw, str(path))


def parse(raw: bytes, name: str = "the file") -> LinkFile:
    try:
        link = msgspec.json.decode(raw, type=LinkFile)
        keys = (bytes.fromhex(link.hub_key), bytes.fromhex(link.sealing_key))
    except (msgspec.MsgspecError, ValueError) as error:
        raise LinkProblem(f"{name} is no link file ({error}); make a new one at the hub: skerry hub invite") from error
    if link.kind != "skerry link" or len(keys[0]) != 32 or len(keys[1]) not in (0, 32):
        raise LinkProblem(f"{name} is no link file; make a new one at the hub: skerry hub invite")
    if link.version > 1:
        raise LinkProblem(f"{name} was made by a newer Skerry; update this site first")
    return link
