"""A file on a stick, read and written beside a running box: batches of parcels for its transactions, files for people."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from sync.bundle import Reader
from sync.link import Parcel

_BATCH_BYTES = 4 * 1024 * 1024
_PIECE_BYTES = 256 * 1024
FILE_BYTES_MAX = 64 * 1024 * 1024 * 1024


async def batches(reader: Reader) -> AsyncIterator[Sequence[Parcel]]:
    """The parcels of a file, about four mebibytes at a time; read on a thread."""
    found = reader.parcels()
    while batch := await asyncio.to_thread(_batch, found):
        yield batch


def _batch(found: Iterator[Parcel]) -> list[Parcel]:
    batch: list[Parcel] = []
    size = 0
    for parcel in found:
        batch.append(parcel)
        size += len(parcel.data)
        if size >= _BATCH_BYTES:
            break
    return batch


@contextlib.asynccontextmanager
async def received(folder: Path, chunks: AsyncIterator[bytes]) -> AsyncIterator[Path]:
    """An upload as a file, gone afterwards."""
    await asyncio.to_thread(folder.mkdir, 0o700, True, True)
    path = folder / f"in-{secrets.token_hex(8)}"
    try:
        with path.open("wb") as file:
            async for chunk in chunks:
                await asyncio.to_thread(file.write, chunk)
        yield path
    finally:
        path.unlink(missing_ok=True)


async def sent(folder: Path, write: Callable[[Path], Awaitable[Sequence[Path]]]) -> AsyncIterator[bytes]:
    """Files that `write` makes in a folder of their own, as bytes for a download; gone afterwards."""
    place = folder / f"out-{secrets.token_hex(8)}"
    await asyncio.to_thread(place.mkdir, 0o700, True, True)
    try:
        for path in await write(place):
            with path.open("rb") as file:
                while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
                    yield piece
    finally:
        for path in place.iterdir():
            path.unlink(missing_ok=True)
        place.rmdir()
