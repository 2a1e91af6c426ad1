"""What does a site need to find its hub and be believed? One file, made by `skerry hub invite`, taken in by `skerry link join`.

It holds secrets (the credential for the line, the invitation): it is written 0600, and goes from hand to hand.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from store.keys import sync_folder

URLS_MAX = 8
SCHEMES = ("nats", "tls", "ws", "wss")


class LinkProblem(Exception):
    """The file is no invitation that this program can use; str() says why and what to do."""


class LinkFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """`hub_key` (Ed25519) and `sealing_key` (X25519) are the hub's public keys in hexadecimal; `ca` is PEM, empty when
    the line is not by TLS or the certificate is a public one. `url` is one address only in files of version 1."""

    kind: str = "skerry link"
    version: int = 2
    tenant: str
    site: str
    hub: str
    hub_writer: str
    hub_key: str
    sealing_key: str = ""
    url: str | tuple[str, ...]
    link: str
    password: str
    secret: str
    ca: str = ""

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the hub is, in the order in which a site tries."""
        return (self.url,) if isinstance(self.url, str) else self.url


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
    if link.version > 2:
        raise LinkProblem(f"{name} was made by a newer Skerry; update this site first")
    if not 0 < len(link.urls) <= URLS_MAX:
        raise LinkProblem(f"{name} names {len(link.urls)} addresses of the hub; it must be 1 to {URLS_MAX}")
    for url in link.urls:
        if wrong := wrong_with(url):
            raise LinkProblem(f"{name}: {wrong}")
    return link


def wrong_with(url: str) -> str:
    """Why this cannot be the address of a line; empty when it can. It never repeats a password that stands in it."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.username is not None or parts.password is not None:
        return "an address of a line holds no name or password; they are said apart from it"
    if parts.scheme not in SCHEMES or not host:
        return f"{url[:200]!r} is no address of a line; write tls://HOST:PORT or wss://HOST:PORT"
    return ""
