"""T12, the sensor pipeline: what reads announcements, headers, chunks, control messages and discovery, fed with rubbish.

100,000 inputs and more, each grown from good ones; nothing raises, nothing hangs, what is taken is within its bounds.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.intake import control
from appliance.intake.upload import (
    Announcement,
    Bad,
    State,
    Upload,
    announced,
    digest_of,
    number_of,
    upload_id,
)
from fleet import limits
from store import uploads
from store.uploads import Chunk
from tests.firmware_hooks.agents import agent

pytestmark = pytest.mark.trial

SHA = "ab" * 32
ANNOUNCEMENTS = [
    json.dumps({"bytes": 140, "sha256": SHA, "stream": "q1", "first": 1, "last": 5, "chunk_bytes": 16384}).encode(),
    json.dumps({"bytes": 1 << 28, "sha256": SHA, "form": "file", "name": "photo.jpg", "doubt": ["birch"]}).encode(),
    json.dumps({"bytes": 5, "sha256": SHA, "encoding": "zstd", "floor": 1, "window_id": 9}).encode(),
]
MESSAGES = [
    b'{"type":"hello","stream":"q1","floor":1,"last":3,"records":3,"bytes":30}',
    b'{"type":"backlog","stream":"q1","floor":4,"last":3,"records":0,"bytes":0,"in_doubt":1}',
    b'{"type":"command.response","id":"7","status":"done","detail":"x"}',
]
DIGEST = b"sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"
NUMBERS = [
    b"0",
    b"-1",
    b"1e400",
    b"18446744073709551616",
    b"9223372036854775807",
    b"null",
    b"true",
    b"[]",
    b'"x"',
    b"{}",
    b"1.5",
]


def bent(raw: bytes, dice: random.Random) -> bytes:
    """Something near to `raw`."""
    made = bytearray(raw)
    for _ in range(dice.randrange(1, 4)):
        place, kind = dice.randrange(len(made) + 1), dice.randrange(6)
        if kind == 0:
            made[place : place + dice.randrange(8)] = b""
        elif kind == 1:
            made[place:place] = dice.randbytes(dice.randrange(1, 6))
        elif kind == 2 and made:
            made[place % len(made)] ^= 1 << dice.randrange(8)
        elif kind == 3:
            made[place:] = made[place:] * 2
        elif kind == 4:
            made[place:place] = dice.choice(NUMBERS)
        else:
            start = made.find(b":", place)
            end = min((one for one in (made.find(b",", start), made.find(b"}", start)) if one > 0), default=len(made))
            if start > 0:
                made[start + 1 : end] = dice.choice(NUMBERS)
    return bytes(made)


def fuzzed(seeds: list[bytes], count: int, seed: int, look: Callable[[bytes], None]) -> None:
    dice = random.Random(seed)
    for number in range(count):
        raw = bent(dice.choice(seeds), dice)
        began = time.perf_counter()
        try:
            look(raw)
        except BaseException:
            print(f"seed {seed}, input {number}: {raw!r}")
            raise
        assert time.perf_counter() - began < 5.0, raw


def test_announcements() -> None:
    taken = 0

    def look(raw: bytes) -> None:
        nonlocal taken
        said = announced(raw)
        if isinstance(said, Bad):
            assert 400 <= said.status < 500
            assert said.words
            return
        taken += 1
        assert isinstance(said, Announcement)
        assert 0 < said.bytes <= limits.upload_bytes_max
        assert said.last - said.first < limits.upload_records_max
        one = Upload("@d", said, 0)
        assert len(upload_id("@d", said)) == 32
        assert one.chunks <= limits.upload_bytes_max // limits.upload_chunk_bytes_min
        assert one.ask() is not None

    fuzzed(ANNOUNCEMENTS, 50_000, 1, look)
    assert taken > 1_000, "many are good enough to go on"


def test_headers() -> None:
    def look(raw: bytes) -> None:
        text = raw.decode("latin-1")
        found = digest_of(text)
        assert found is None or len(found) == 32
        number = number_of(text)
        assert number is None or 0 <= number < 10**18

    fuzzed([DIGEST, b"16384", b"1", b"0"], 20_000, 2, look)


def test_chunks_in_any_place_and_order() -> None:
    """Whatever is claimed of chunks: those that have a place end in a whole, and none counts twice."""
    dice = random.Random(3)
    for _ in range(2_000):
        said = announced(
            json.dumps({"bytes": dice.randrange(1, 300_000), "sha256": SHA, "chunk_bytes": 16_384}).encode()
        )
        assert isinstance(said, Announcement)
        one = Upload("@d", said, 0)
        for _ in range(20):
            offset = dice.choice([None, dice.randrange(400_000), dice.randrange(20) * 16_384])
            place = one.place(offset, dice.choice([16_384, dice.randrange(20_000)]), dice.choice([None, 0, 1, 2]))
            if isinstance(place, int):
                one.took(place, 1)
        while (ask := one.ask()) is not None:
            missing = ask.hints["missing"]
            assert isinstance(missing, list)
            for offset in missing:
                place = one.place(offset, one.size_of(offset // 16_384), ask.window_id)
                assert isinstance(place, int)
                one.took(place, 1)
        assert (one.state, one.bytes_durable) == (State.WHOLE, said.bytes)


def test_control_messages() -> None:
    decider = control.Control("alder")
    decider.opened(1, "@d", 0)
    now_ns = 0

    def look(raw: bytes) -> None:
        nonlocal now_ns
        now_ns += limits.SECOND
        said = control.heard(raw)
        if isinstance(said, control.Hello | control.Backlog):
            for _, message in decider.backlog(1, said, "d", 0, now_ns):
                assert message is None or control.encode(message)

    fuzzed(MESSAGES, 40_000, 4, look)


def test_answers_to_the_question_who_is_there() -> None:
    head = b"\x00\x00\x84\x00\x00\x00\x00\x03\x00\x00\x00\x00"
    name = b"\x05alder\x07_skerry\x04_tcp\x05local\x00"
    answer = head + name + b"\x00\x21\x00\x01\x00\x00\x00\x78\x00\x0d\x00\x00\x00\x00\x1f\x90\x05alder\x00"
    answer += b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x78\x00\x09\x05ca=ab\x02x="
    answer += b"\x05alder\x00\x00\x01\x00\x01\x00\x00\x00\x78\x00\x04\x7f\x00\x00\x01"
    assert agent.sites_in(answer)[0][1].host == "127.0.0.1"
    fuzzed([answer], 20_000, 5, agent.sites_in)


def test_files_that_come_as_an_upload(tmp_path: Path) -> None:
    import gzip

    from backports import zstd

    plain = b'{"n":1}\n' * 400
    path = tmp_path / "file"

    def look_as(encoding: str) -> Callable[[bytes], None]:
        def look(raw: bytes) -> None:
            path.write_bytes(raw)
            try:
                for line in uploads.lines(path, encoding, 1 << 20, 1_000):
                    assert len(line) <= 1_001
            except uploads.Unreadable as bad:
                assert str(bad)

        return look

    fuzzed([gzip.compress(plain), gzip.compress(plain) * 2], 2_000, 6, look_as("gzip"))
    fuzzed([zstd.compress(plain), zstd.compress(plain) * 2], 2_000, 7, look_as("zstd"))
    fuzzed([plain], 500, 8, look_as("identity"))


def test_logs_of_uploads_that_a_disk_gave_back_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "uploads"
    folder.mkdir()
    part = uploads.Part(folder, "a", b"{}")
    part.write(0, [b"x" * 100])
    part.sync([Chunk(0, 100, bytes(32)), Chunk(1, 100, bytes(32))])
    part.close()
    good = (folder / "a.log").read_bytes()

    def look(raw: bytes) -> None:
        (folder / "a.log").write_bytes(raw)
        (folder / "a.part").write_bytes(b"x")
        for one in uploads.found(folder):
            assert len(one.chunks) <= len(raw) // 44
            assert uploads.found(folder)[0] == one, "and it is the same the next time"

    fuzzed([good], 1_500, 9, look)
