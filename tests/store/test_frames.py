"""Frames: what went in comes out, byte for byte, or the frame says that it is damaged."""

from __future__ import annotations

import os
import shutil
import subprocess

import msgspec
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from fleet import limits
from store import frames
from store.faults import Fault, StoreFault
from store.frames import Offer

NOW = 1_795_219_200_000_000_000


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=20), st.booleans())
def test_every_byte_comes_back_as_it_came(messages: list[bytes], sealed: bool) -> None:
    offers = [Offer(NOW + number, "syslog/10.0.0.7/alder", raw) for number, raw in enumerate(messages)]
    frame = frames.encode(frames.records_of(7, offers), sealed=sealed)
    records = frames.decode(frame.data)
    assert [record.content for record in records] == messages
    assert [record.id for record in records] == list(range(7, 7 + len(messages)))
    assert (frame.first_id, frame.last_id, frame.records) == (7, 6 + len(messages), len(messages))
    assert (frame.from_ns, frame.to_ns) == (NOW, NOW + len(messages) - 1)


def test_a_source_that_is_in_a_frame_is_never_denied() -> None:
    sources = [f"syslog/10.0.0.{number}/birch" for number in range(50)]
    frame = frames.encode(frames.records_of(1, [Offer(NOW, source, b"x") for source in sources]))
    assert all(frames.holds(frame.sources, frozenset([frames.source_code(source)])) for source in sources)


def test_a_frame_without_the_source_is_skipped_unread() -> None:
    frame = frames.encode(frames.records_of(1, [Offer(NOW, "syslog/10.0.0.1/alder", b"x")]))
    assert not frames.holds(frame.sources, frozenset([frames.source_code("syslog/10.0.0.2/alder")]))


@pytest.mark.parametrize("place", [8, 40, -6, -1])
def test_a_flipped_bit_is_damage(place: int) -> None:
    data = bytearray(_frame())
    data[place] ^= 1
    with pytest.raises(StoreFault) as caught:
        frames.decode(bytes(data))
    assert caught.value.fault is Fault.DAMAGED


def test_a_frame_cut_short_is_damage_wherever_the_cut_is() -> None:
    data = _frame()
    for length in range(0, len(data), 7):
        with pytest.raises(StoreFault):
            frames.decode(data[:length])


def test_a_frame_that_inflates_without_end_is_refused() -> None:
    bomb = zstd.compress(bytes(limits.frame_inflated_bytes_max + 1))
    with pytest.raises(StoreFault):
        frames.decode(bomb)


def test_chunks_keep_to_both_bounds() -> None:
    records = frames.records_of(1, [Offer(NOW, "http//", bytes(1024 * 1024)) for _ in range(20)])
    found = list(frames.chunks(records))
    assert [record for chunk in found for record in chunk] == records
    assert [len(chunk) for chunk in found] == [8, 8, 4]
    assert [len(chunk) for chunk in frames.chunks(records, 6)] == [6, 6, 6, 2]


@pytest.mark.skipif(not shutil.which("zstdcat"), reason="zstdcat is not installed")
def test_zstdcat_reads_frames_one_after_the_other() -> None:
    both = _frame() + _frame(first_id=101)
    text = subprocess.run(["zstdcat"], input=both, capture_output=True, check=True).stdout
    lines = [msgspec.json.decode(line) for line in text.splitlines()]
    assert [line["id"] for line in lines] == list(range(1, 201))


def _frame(first_id: int = 1) -> bytes:
    offers = [Offer(NOW, "syslog/10.0.0.7/alder", f"<13>alder: line {number}".encode()) for number in range(100)]
    return frames.encode(frames.records_of(first_id, offers)).data


def test_the_records_of_one_source_are_found_among_others_that_quote_it() -> None:
    quoting = b'{"id":1,"at":2,"source":"syslog/10.0.0.7/alder","raw":"no"}\n,"source":"syslog/10.0.0.7/alder","x"'
    offers = [
        frames.Offer(1, "syslog/10.0.0.8/birch", quoting),
        frames.Offer(2, "syslog/10.0.0.7/alder", b"\xff\n\n,"),
        frames.Offer(3, 'syslog/10.0.0.7/al"d\\er', b"odd name"),
        frames.Offer(4, "syslog/10.0.0.7/alder", b"second"),
        frames.Offer(5, "syslog/10.0.0.7/alder2", b"longer name"),
    ]
    data = frames.encode(frames.records_of(1, offers)).data
    assert [one.id for one in frames.decode(data, frozenset({"syslog/10.0.0.7/alder"}))] == [2, 4]
    assert [one.id for one in frames.decode(data, frozenset({'syslog/10.0.0.7/al"d\\er'}))] == [3]
    both = frozenset({"syslog/10.0.0.7/alder", "syslog/10.0.0.8/birch"})
    assert frames.decode(data, both) == [one for one in frames.decode(data) if one.source in both]
    assert frames.decode(data, frozenset()) == []


def test_one_source_is_found_in_lines_of_any_length_wherever_the_pieces_end() -> None:
    sizes = [1, 100_000, 300_000, 5, 262_144, 700_000, 3, 262_000, 40]
    offers = [Offer(NOW, f"syslog/10.0.0.{n % 2}/alder", os.urandom(size)) for n, size in enumerate(sizes)]
    data = frames.encode(frames.records_of(1, offers)).data
    for source in {offer.source for offer in offers}:
        wanted = [one for one in frames.decode(data) if one.source == source]
        assert frames.decode(data, frozenset({source})) == wanted
