"""Chunked uploads over real HTTP, to a whole appliance: in pieces, cut anywhere, repeated, wrong, foreign, too much."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from backports import zstd

from appliance.compose import Appliance
from fleet import limits
from fleet.devices import CredentialKind, EnrolWish
from fleet.limits import SECOND
from fleet.people import Identity, Role
from store import streams
from store.frames import Offer, Record
from tests.appliance.doors import Door
from tests.appliance.uploading import Sender, announcement, chunk_headers, digest, lines
from tests.cast import eventually, eventually_async
from tests.conftest import ALDER

DRONE, MALLORY = {"authorization": "Bearer token-D3"}, {"authorization": "Bearer token-M"}


class Alder(Appliance):
    def _wire_sensors(self) -> None:
        real, self.door = self.doorkeeper, Door()
        self.doorkeeper = self.door  # type: ignore[assignment]
        super()._wire_sensors()
        self.doorkeeper = real


@pytest.fixture
async def alder(tmp_path: Path) -> AsyncIterator[Alder]:
    box = Alder(tmp_path / "alder", ALDER)
    await box.start()
    yield box
    await box.stop()


def client(box: Appliance, headers: dict[str, str] = DRONE) -> httpx2.Client:
    return httpx2.Client(base_url=f"http://{box.addresses['http']}", headers=headers, trust_env=False, timeout=30)


@pytest.fixture
def line(alder: Alder) -> Iterator[httpx2.Client]:
    with client(alder) as made:
        yield made


def kept(box: Appliance, intake: str = "sensor/") -> list[Record]:
    return [record for record in box.history.after(0, 100_000).records if record.source.startswith(intake)]


def numbers(box: Appliance) -> list[int]:
    return [json.loads(record.content)["n"] for record in kept(box)]


async def sent(sender: Sender) -> dict[str, Any]:
    return await asyncio.to_thread(sender.all)


# -- the good way -------------------------------------------------------------------------------------------------


async def test_records_arrive_with_their_numbers_under_the_device_that_showed_the_token(
    alder: Alder, line: httpx2.Client
) -> None:
    answer = await sent(Sender(line, lines(1, 3), first=1, last=3))
    assert answer["done"] == {"first": 1, "last": 3, "stored": 3}
    records = kept(alder)
    assert [record.source for record in records] == ["sensor/@D3/"] * 3
    assert [record.marks for record in records] == [("seq=q1:1",), ("seq=q1:2",), ("seq=q1:3",)]
    assert [record.content for record in records] == lines(1, 3).splitlines()
    assert list(alder.folder.uploads.iterdir()) == []


@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd"])
async def test_a_large_one_comes_in_chunks_and_windows(alder: Alder, line: httpx2.Client, encoding: str) -> None:
    plain = lines(1, 5_000, hash=hashlib.sha256(os.urandom(8)).hexdigest())
    pack = {"identity": bytes, "gzip": gzip.compress, "zstd": zstd.compress}[encoding]
    answer = await sent(Sender(line, pack(plain), first=1, last=5_000, encoding=encoding))
    assert answer["done"]["stored"] == 5_000
    assert numbers(alder) == list(range(1, 5_001))


async def test_curl_can_do_it(alder: Alder, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed here")
    content = lines(1, 2)
    (tmp_path / "batch").write_bytes(content)
    base = f"http://{alder.addresses['http']}/v1/uploads"
    said = announcement(content, first=1, last=2)
    fixed = ["curl", "-sS", "--noproxy", "*", "-H", "Authorization: Bearer token-D3"]

    def curl(*words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(subprocess.run([*fixed, *words], check=True, capture_output=True).stdout)
        return found

    first = await asyncio.to_thread(curl, "-d", json.dumps(said), base)
    patch = ["-X", "PATCH", "--data-binary", f"@{tmp_path / 'batch'}", "-H", f"Content-Digest: {digest(content)}"]
    where = ["-H", "Upload-Offset: 0", "-H", "Upload-Window: 1", f"{base}/{first['id']}"]
    second = await asyncio.to_thread(curl, *patch, *where)
    assert second["state"] == "whole"
    third = await asyncio.to_thread(curl, "-X", "POST", f"{base}/{first['id']}/finish")
    assert third["state"] == "done"
    assert numbers(alder) == [1, 2]


async def test_an_opaque_file_is_kept_and_a_record_names_its_hash(alder: Alder, line: httpx2.Client) -> None:
    content = os.urandom(100_000)
    answer = await sent(Sender(line, content, form="file", name="photo.jpg", stream=""))
    assert answer["state"] == "done"
    (record,) = kept(alder)
    said = json.loads(record.content)
    assert said == {"file": "photo.jpg", "file_sha256": hashlib.sha256(content).hexdigest(), "file_bytes": 100_000}
    assert (alder.folder.files / said["file_sha256"]).read_bytes() == content
    again = await sent(Sender(line, content, form="file", name="photo.jpg", stream=""))
    assert again["state"] == "done"
    assert len(kept(alder)) == 1


async def test_a_device_without_a_credential_is_a_source_that_nobody_claims(alder: Alder) -> None:
    with client(alder, {"skerry-device": "kestrel/1"}) as line:
        await sent(Sender(line, lines(1, 1)))
    assert [record.source for record in kept(alder)] == ["sensor/127.0.0.1/kestrel/1"]


async def test_what_comes_after_a_hole_is_taken_and_the_hole_filled_later(alder: Alder, line: httpx2.Client) -> None:
    await sent(Sender(line, lines(1, 3), first=1, last=3))
    await sent(Sender(line, lines(7, 9), first=7, last=9))
    held = (await asyncio.to_thread(line.get, "/v1/streams/q1")).json()
    assert (held["held"], held["site"]) == ([[1, 3], [7, 9]], alder.identity.log.writer)
    await sent(Sender(line, lines(3, 7), first=3, last=7))
    assert numbers(alder) == [1, 2, 3, 7, 8, 9, 4, 5, 6], "each number once"
    await sent(Sender(line, lines(12, 12), first=12, last=12, floor=12))
    held = (await asyncio.to_thread(line.get, "/v1/streams/q1")).json()
    assert (held["held"], held["floor"]) == ([[1, 12]], 13), "below the floor nothing comes any more"


# -- cut, and repeated --------------------------------------------------------------------------------------------


async def test_it_goes_on_where_it_was_cut_at_every_chunk(alder: Alder, line: httpx2.Client) -> None:
    content = lines(1, 1_500, pad="x" * 50)
    sender = Sender(line, content, first=1, last=1_500)
    total = -(-len(content) // 16_384)
    for done in range(total):
        with client(alder) as fresh:  # the line was cut: a new one, and the same announcement
            sender.client = fresh
            answer = await asyncio.to_thread(sender.announce)
            assert len(answer["ask"]["hints"]["missing"]) == total - done
            offset = answer["ask"]["hints"]["missing"][0]
            assert (await asyncio.to_thread(sender.chunk, offset)).status_code == 200
    sender.client = line
    assert (await sent(sender))["done"]["stored"] == 1_500
    assert numbers(alder) == list(range(1, 1_501))


async def test_a_repeated_chunk_and_a_repeated_whole_change_nothing(alder: Alder, line: httpx2.Client) -> None:
    sender = Sender(line, lines(1, 600, pad="y" * 40), first=1, last=600)
    await asyncio.to_thread(sender.announce)
    for _ in range(3):
        assert (await asyncio.to_thread(sender.chunk, 0)).status_code == 200
    for _ in range(3):
        assert (await sent(sender))["state"] == "done"
    assert (await asyncio.to_thread(sender.finish)).status_code == 404, (
        "it is over, and the announcement says how it went"
    )
    assert numbers(alder) == list(range(1, 601))


async def test_a_finish_that_is_asked_for_ten_times_at_once_stores_once(alder: Alder, line: httpx2.Client) -> None:
    sender = Sender(line, lines(1, 500), first=1, last=500)
    for _ in await asyncio.to_thread(lambda: list(sender.chunks(sender.announce()))):
        pass
    answers = await asyncio.gather(*(asyncio.to_thread(sender.finish) for _ in range(10)))
    assert {answer.status_code for answer in answers} <= {200, 404}
    assert numbers(alder) == list(range(1, 501))


async def test_many_senders_of_one_upload_at_once(alder: Alder) -> None:
    content = lines(1, 3_000, pad="z" * 60)

    def work() -> None:
        with client(alder) as line:
            Sender(line, content, first=1, last=3_000).all()

    results = await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4)), return_exceptions=True)
    assert any(result is None for result in results)
    await asyncio.to_thread(eventually, lambda: len(kept(alder)) == 3_000)
    assert sorted(numbers(alder)) == list(range(1, 3_001))


async def test_another_run_goes_on_from_what_is_durable(tmp_path: Path) -> None:
    box = Alder(tmp_path / "alder", ALDER)
    await box.start()
    content = lines(1, 1_000, pad="w" * 50)
    with client(box) as line:
        sender = Sender(line, content, first=1, last=1_000)
        missing = (await asyncio.to_thread(sender.announce))["ask"]["hints"]["missing"]
        for offset in missing[1:3]:
            await asyncio.to_thread(sender.chunk, offset)
    await box.stop()
    again = Alder(tmp_path / "alder", ALDER)
    await again.start()
    try:
        with client(again) as line:
            sender.client = line
            answer = await asyncio.to_thread(sender.announce)
            assert answer["ask"]["hints"]["missing"] == [missing[0], *missing[3:]]
            assert (await sent(sender))["done"]["stored"] == 1_000
        assert numbers(again) == list(range(1, 1_001))
    finally:
        await again.stop()


async def test_a_store_that_was_cut_off_half_way_stores_the_rest_and_no_more(tmp_path: Path) -> None:
    """As after kill -9 between the records and the range: the note stands, and some records do."""
    box = Alder(tmp_path / "alder", ALDER)
    await box.start()
    content = lines(1, 4_000)
    with client(box) as line:
        sender = Sender(line, content, first=1, last=4_000)
        for _ in await asyncio.to_thread(lambda: list(sender.chunks(sender.announce()))):
            pass
    held = box.uploads.open_uploads[sender.id]
    await box.site.write(lambda db: streams.begin(db, "default", sender.id, box.telemetry.next_id - 1, 1))
    offers = box.uploads._delivering._offer  # the first batch alone reaches the disk
    batch = [
        Offer(1, "sensor/@D3/", raw, streams.marks("q1", n)) for n, raw in enumerate(content.splitlines()[:2_000], 1)
    ]
    await offers(batch)
    assert held.upload.state == "whole"
    await box.stop()
    again = Alder(tmp_path / "alder", ALDER)
    await again.start()
    try:
        await asyncio.to_thread(eventually, lambda: len(kept(again)) == 4_000)
        await asyncio.to_thread(eventually, lambda: not list(again.folder.uploads.iterdir()))
        assert numbers(again) == list(range(1, 4_001))
        with client(again) as line:
            sender.client = line
            assert (await sent(sender))["state"] == "done"
        assert len(kept(again)) == 4_000
    finally:
        await again.stop()


# -- what is wrong ------------------------------------------------------------------------------------------------


async def test_a_chunk_with_a_wrong_hash_is_refused_alone(alder: Alder, line: httpx2.Client) -> None:
    content = lines(1, 600, pad="v" * 50)
    sender = Sender(line, content, first=1, last=600)
    await asyncio.to_thread(sender.announce)
    chunk = content[:16_384]
    bent = bytes([chunk[0] ^ 1]) + chunk[1:]
    answer = await asyncio.to_thread(
        lambda: line.patch(f"/v1/uploads/{sender.id}", content=bent, headers=chunk_headers(0, 1, chunk))
    )
    assert answer.status_code == 422
    assert "send that chunk again" in answer.json()["error"]
    assert alder.gate.tally("sensor").refused["wrong hash"] == 1
    assert (await sent(sender))["done"]["stored"] == 600


async def test_a_whole_with_another_hash_than_announced_begins_anew(alder: Alder, line: httpx2.Client) -> None:
    sender = Sender(line, lines(1, 3), first=1, last=3, sha256="00" * 32)
    await asyncio.to_thread(lambda: list(sender.chunks(sender.announce())))
    answer = await asyncio.to_thread(sender.finish)
    assert (answer.status_code, kept(alder)) == (422, [])
    assert (await asyncio.to_thread(sender.announce))["ack"]["bytes_durable"] == 0
    await alder.quarantine.flush()
    assert await alder.quarantine.count() == 1


@pytest.mark.parametrize(
    ("content", "more", "words"),
    [
        (lines(1, 3), {"first": 1, "last": 4}, "holds 3 lines"),
        (lines(1, 3), {"encoding": "gzip"}, "no gzip"),
        (lines(1, 3), {"encoding": "zstd"}, "no zstd"),
        (gzip.compress(lines(1, 3), mtime=0)[:-9], {"encoding": "gzip"}, "ends too early"),
        (zstd.compress(lines(1, 3))[:-3], {"encoding": "zstd"}, "ends too early"),
    ],
)
async def test_a_file_that_is_not_what_was_said_stores_nothing(
    alder: Alder, line: httpx2.Client, content: bytes, more: dict[str, Any], words: str
) -> None:
    sender = Sender(line, content, **more)
    await asyncio.to_thread(lambda: list(sender.chunks(sender.announce())))
    answer = await asyncio.to_thread(sender.finish)
    assert answer.status_code == 422
    assert words in answer.json()["error"]
    assert kept(alder) == []


async def test_a_bomb_is_not_unpacked(alder: Alder, line: httpx2.Client) -> None:
    bomb = gzip.compress(bytes(limits.upload_inflated_bytes_max // 16)) * 17
    sender = Sender(line, bomb, encoding="gzip", chunk_bytes=limits.upload_chunk_bytes_max)
    await asyncio.to_thread(lambda: list(sender.chunks(sender.announce())))
    answer = await asyncio.to_thread(sender.finish)
    assert answer.status_code == 422
    assert "when unpacked" in answer.json()["error"]


async def test_a_bad_line_among_good_ones_is_quarantined_and_its_number_settled(
    alder: Alder, line: httpx2.Client
) -> None:
    content = b'{"n":1}\nno json\n[3]\n\n{"n":5}\n{"n":"' + b"x" * limits.record_bytes_max + b'"}\n{"n":7}'
    answer = await sent(Sender(line, content, first=1, last=7))
    assert (answer["done"]["stored"], answer["done"]["refused"]) == (3, 4)
    assert [one["number"] for one in answer["done"]["lines"]] == [2, 3, 4, 6]
    assert numbers(alder) == [1, 5, 7]
    held = (await asyncio.to_thread(line.get, "/v1/streams/q1")).json()
    assert held["held"] == [[1, 7]]


# -- who ----------------------------------------------------------------------------------------------------------


async def test_another_device_s_upload_is_not_to_be_touched(alder: Alder, line: httpx2.Client) -> None:
    sender = Sender(line, lines(1, 3), first=1, last=3)
    await asyncio.to_thread(sender.announce)
    with client(alder, MALLORY) as foreign:
        sender.client = foreign
        for answer in await asyncio.to_thread(
            lambda: (
                foreign.get(f"/v1/uploads/{sender.id}"),
                sender.chunk(0),
                sender.finish(),
                foreign.delete(f"/v1/uploads/{sender.id}"),
            )
        ):
            assert answer.status_code == 403
        assert (await asyncio.to_thread(foreign.get, "/v1/streams/q1")).json()["held"] == []
    sender.client = line
    assert (await sent(sender))["done"]["stored"] == 3


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer"}, {"authorization": "Basic eDp5"}],
)
async def test_who_shows_nothing_or_something_unknown_stays_outside(alder: Alder, headers: dict[str, str]) -> None:
    with client(alder, headers) as line:
        answer = await asyncio.to_thread(lambda: line.post("/v1/uploads", json=announcement(b"{}\n")))
    assert answer.status_code == 401
    assert "token" in answer.json()["error"]


async def test_a_revoked_token_opens_nothing_from_then_on(alder: Alder, line: httpx2.Client) -> None:
    sender = Sender(line, lines(1, 3))
    await asyncio.to_thread(sender.announce)
    door = alder.door
    door.revoke("D3")
    assert (await asyncio.to_thread(sender.chunk, 0)).status_code == 401


async def test_a_flood_is_told_how_long_to_wait(alder: Alder, line: httpx2.Client) -> None:
    door = alder.door
    door.wait_s = 7.0
    answer = await asyncio.to_thread(lambda: line.post("/v1/uploads", json=announcement(b"{}\n")))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")


async def test_an_enrolled_device_uploads_into_its_node_until_it_is_revoked(tmp_path: Path) -> None:
    """With the real registry: the token that an operator made."""
    box = Appliance(tmp_path / "alder", ALDER)
    await box.start()
    try:
        devices = box.box.devices
        assert devices is not None
        alice = Identity(name="alice", role=Role.ADMIN, address="10.0.0.2")
        issued = await devices.enrol(alice, EnrolWish(name="kestrel", credential=CredentialKind.TOKEN), "a test")
        with client(box, {"authorization": f"Bearer {issued.secret}"}) as line:
            await sent(Sender(line, lines(1, 3, battery_pct=77), first=1, last=3))
            view = await eventually_async(
                lambda: box.box.node(alice, issued.node_id), lambda one: bool(one and one.values)
            )
            assert view is not None
            assert {value.metric: value.value for value in view.values}["battery_pct"] == 77.0
            sender = Sender(line, lines(4, 4), first=4, last=4)
            await asyncio.to_thread(sender.announce)
            await devices.revoke(alice, issued.credential, "lost")
            assert (await asyncio.to_thread(sender.chunk, 0)).status_code == 401
    finally:
        await box.stop()


# -- bounds -------------------------------------------------------------------------------------------------------


async def test_256_megabytes_announced_and_never_sent_cost_nothing_and_are_forgotten(
    alder: Alder, line: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder.uploads._bounds = lambda: alder.keeper.bounds._replace(budget_bytes=4 * limits.upload_bytes_max)
    said = announcement(b"x") | {"bytes": limits.upload_bytes_max}
    ids = []
    for number in range(limits.uploads_per_device_max):
        answer = await asyncio.to_thread(lambda n=number: line.post("/v1/uploads", json={**said, "first": n + 1}))
        ids.append(answer.json()["id"])
    assert list(alder.folder.uploads.iterdir()) == []
    answer = await asyncio.to_thread(lambda: line.post("/v1/uploads", json={**said, "first": 99}))
    assert answer.status_code == 429
    later = alder.clock.now_ns() + 11 * 60 * SECOND
    monkeypatch.setattr(alder.uploads, "_now_ns", lambda: later)
    monkeypatch.setattr("appliance.intake.upload_listener._SWEEP_S", 0.01)
    sweeping = asyncio.create_task(alder.uploads.run())
    await asyncio.to_thread(eventually, lambda: not alder.uploads.open_uploads)
    sweeping.cancel()
    assert alder.gate.tally("sensor").refused["expired"] == 4


async def test_one_that_was_left_behind_makes_room_for_the_device_s_next(
    alder: Alder, line: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    senders = [Sender(line, lines(n, n), first=n, last=n) for n in range(1, limits.uploads_per_device_max + 2)]
    for sender in senders[:-1]:
        await asyncio.to_thread(sender.announce)
    later = alder.clock.now_ns() + 2 * 60 * SECOND
    monkeypatch.setattr(alder.uploads, "_now_ns", lambda: later)
    await asyncio.to_thread(senders[-1].announce)
    assert len(alder.uploads.open_uploads) == limits.uploads_per_device_max
    assert senders[0].id not in alder.uploads.open_uploads


async def test_when_the_room_is_gone_it_answers_507_and_the_oldest_idle_one_goes(
    alder: Alder, line: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = lines(1, 600, pad="u" * 50)
    sender = Sender(line, content, first=1, last=600)
    await asyncio.to_thread(sender.announce)
    await asyncio.to_thread(sender.chunk, 0)
    monkeypatch.setattr(alder.uploads, "_space", lambda: -1)
    assert (await asyncio.to_thread(sender.chunk, 16_384)).status_code == 507
    answer = await asyncio.to_thread(lambda: line.post("/v1/uploads", json=announcement(b"{}\n")))
    assert (answer.status_code, answer.headers["retry-after"]) == (507, "30")
    monkeypatch.setattr("appliance.intake.upload_listener._SWEEP_S", 0.01)
    sweeping = asyncio.create_task(alder.uploads.run())
    await asyncio.to_thread(eventually, lambda: not list(alder.folder.uploads.iterdir()))
    sweeping.cancel()
    monkeypatch.undo()
    assert (await sent(sender))["done"]["stored"] == 600, "nothing that was acknowledged as stored is gone"


async def test_a_body_larger_than_its_chunk_is_refused(alder: Alder, line: httpx2.Client) -> None:
    sender = Sender(line, lines(1, 3))
    await asyncio.to_thread(sender.announce)
    headers = chunk_headers(0, 1, b"x")
    answer = await asyncio.to_thread(
        lambda: line.patch(f"/v1/uploads/{sender.id}", content=b"x" * 1_000_000, headers=headers)
    )
    assert answer.status_code == 400


async def test_too_many_holes_in_a_stream_are_refused_until_its_floor_is_told(
    alder: Alder, line: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "stream_ranges_max", 3)
    for number in (1, 3, 5, 7):
        await sent(Sender(line, lines(number, number), first=number, last=number))
    nine = announcement(lines(9, 9), first=9, last=9)
    answer = await asyncio.to_thread(lambda: line.post("/v1/uploads", json=nine))
    assert answer.status_code == 409
    assert "floor" in answer.json()["error"]


async def test_a_full_gate_is_waited_for_and_then_all_is_stored_once(alder: Alder, line: httpx2.Client) -> None:
    alder.gate.records_max = 0
    sender = Sender(line, lines(1, 50), first=1, last=50)
    await asyncio.to_thread(lambda: list(sender.chunks(sender.announce())))
    finishing = asyncio.create_task(asyncio.to_thread(sender.finish))
    await asyncio.to_thread(eventually, lambda: alder.gate.tally("sensor").refused["gate full"] > 0)
    alder.gate.records_max = limits.gate_records_max
    assert (await finishing).status_code == 200
    assert Counter(numbers(alder)) == Counter(range(1, 51))


async def test_a_disk_that_refuses_for_a_while_stores_all_once(alder: Alder, line: httpx2.Client) -> None:
    alder.telemetry.paused = True
    sender = Sender(line, lines(1, 50), first=1, last=50)
    await asyncio.to_thread(lambda: list(sender.chunks(sender.announce())))
    finishing = asyncio.create_task(asyncio.to_thread(sender.finish))
    await asyncio.to_thread(eventually, lambda: alder.gate.fault is not None)
    alder.telemetry.paused = False
    assert (await finishing).status_code == 200
    assert Counter(numbers(alder)) == Counter(range(1, 51))


async def test_streams_of_one_device_are_bounded_and_the_oldest_is_forgotten(
    alder: Alder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "streams_per_device_max", 3)
    for number in range(5):
        name = f"q{number}"
        await alder.site.write(
            lambda db, name=name, n=number: streams.settle(db, "default", "@D3", name, "", 1, 5, 0, n)  # type: ignore[misc]
        )
    rows = await alder.reader.fetch("SELECT stream FROM stream ORDER BY stream")
    assert [row[0] for row in rows] == ["q2", "q3", "q4"]
