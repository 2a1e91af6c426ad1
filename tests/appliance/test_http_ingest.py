"""HTTP ingest through the real server: what is answered with 2xx is on the disk, whatever else is in the body."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from appliance.compose import Appliance
from appliance.intake.http_listener import Room
from fleet import limits
from fleet.people import Refused
from store.faults import Fault, StoreFault
from tests.cast import Site, eventually, island

NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture
async def line(alder: Appliance) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=f"http://{alder.addresses['http']}", trust_env=False, timeout=30) as client:
        yield client


async def post(line: httpx2.AsyncClient, body: bytes | str, **headers: str) -> httpx2.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return await line.post("/v1/ingest", content=body, headers=names)


def kept(alder: Appliance) -> list[bytes]:
    return [record.content for record in alder.history.after(0, 100_000).records]


# -- what is good -------------------------------------------------------------------------------------------------

ONE = '{"name": "kestrel-1", "battery_pct": 71, "note": "fjärd ⚓"}'


@pytest.mark.parametrize(
    ("body", "headers", "records"),
    [
        (ONE, {}, [ONE]),
        (f"  {ONE}\n", {"content_type": "application/json"}, [ONE]),
        (f"[{ONE}, {ONE}]", {}, [ONE, ONE]),
        (f"{ONE}\n\n{ONE}\r\n", {"content_type": "application/x-ndjson"}, [ONE, ONE]),
        (f"{ONE}\n{ONE}\n", {}, [ONE, ONE]),
        (json.dumps(json.loads(ONE), indent=2), {}, [json.dumps(json.loads(ONE), indent=2)]),
        (
            '{"c": 123456789012345678901234567890, "\\u0000": -0.0}',
            {},
            ['{"c": 123456789012345678901234567890, "\\u0000": -0.0}'],
        ),
    ],
    ids=["an object", "with white space", "an array", "NDJSON", "NDJSON unsaid", "over several lines", "odd numbers"],
)
async def test_every_form_is_stored_byte_for_byte(
    alder: Appliance, line: httpx2.AsyncClient, body: str, headers: dict[str, str], records: list[str]
) -> None:
    answer = await post(line, body.encode(), **headers)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"stored": len(records), "first_id": 1, "last_id": len(records)}
    assert kept(alder) == [record.encode() for record in records]


async def test_gzip_is_unpacked(alder: Appliance, line: httpx2.AsyncClient) -> None:
    body = gzip.compress("\n".join(f'{{"name":"kestrel-1","n":{n}}}' for n in range(1_000)).encode())
    answer = await post(line, body, content_encoding="gzip", content_type="application/x-ndjson")
    assert answer.json()["stored"] == 1_000
    assert kept(alder)[-1] == b'{"name":"kestrel-1","n":999}'


async def test_a_record_reaches_its_source_by_its_own_name(alder: Appliance, line: httpx2.AsyncClient) -> None:
    await post(line, ONE.encode())
    await post(line, '{"battery_pct": 3}')
    sources = {record.source for record in alder.history.after(0, 10).records}
    assert sources == {"http/127.0.0.1/kestrel-1", "http/127.0.0.1/"}


async def test_senders_side_by_side_each_hear_their_own_ids(alder: Appliance, line: httpx2.AsyncClient) -> None:
    answers = await asyncio.gather(*(post(line, f'[{{"n":{n}}},{{"n":{n}}}]') for n in range(40)))
    by_id = {record.id: record.content for record in alder.history.after(0, 1_000).records}
    assert len(by_id) == 80
    for number, answer in enumerate(answers):
        said = answer.json()
        assert [by_id[said["first_id"]], by_id[said["last_id"]]] == [b'{"n":%d}' % number] * 2


# -- what is bad --------------------------------------------------------------------------------------------------

DEEP = '{"a":' * 10_000 + "1" + "}" * 10_000

BAD: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, "holds no record"),
    "white space": (b" \n ", 400, "holds no record"),
    "an empty array": (b"[]", 400, "holds no record"),
    "no JSON": (b"battery low", 400, "no valid JSON"),
    "half an object": (b'{"a": ', 400, "no valid JSON"),
    "NaN": (b'{"a": NaN}', 400, "no valid JSON"),
    "a number beyond every float": (b'{"a": 1e400}', 400, "no valid JSON"),
    "half a surrogate pair": (b'{"a": "\\ud800"}', 400, "no valid JSON"),
    "Infinity": (b'{"a": -Infinity}', 400, "no valid JSON"),
    "a number": (b"7", 400, "a record is a JSON object"),
    "invalid UTF-8": (b'{"a": "\xff\xfe"}', 400, "this is not"),
    "10,000 deep": (DEEP.encode(), 400, "at most 32 deep"),
    "10,000 arrays deep": (b"[" * 10_000 + b"]" * 10_000, 400, ""),
    "a record too long": (b'{"a":"' + b"x" * 70_000 + b'"}', 400, "65536 bytes"),
    "too many records": (b"[" + b"{}," * limits.http_records_max + b"{}]", 400, "at most 10000 records"),
    "a zip bomb's name only": (b"PK\x03\x04", 400, "no valid JSON"),
}


@pytest.mark.parametrize("what", BAD)
async def test_what_cannot_be_read_is_answered_counted_and_kept(
    alder: Appliance, line: httpx2.AsyncClient, what: str
) -> None:
    body, status, words = BAD[what]
    answer = await post(line, body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]
    assert sum(alder.gate.tally("http").refused.values()) >= 1
    assert kept(alder) == []
    await alder.quarantine.flush()
    held = await alder.quarantine.items(0, 10, settled=False)
    assert [item.intake for item in held] == ["http"]
    assert held[0].raw == body.strip()[: limits.record_bytes_max]
    assert (await post(line, ONE.encode())).status_code == 200, "the line goes on"


async def test_a_partial_body_stores_the_good_and_names_the_bad(alder: Appliance, line: httpx2.AsyncClient) -> None:
    answer = await post(line, b'{"n":0}\nnonsense\n{"n":2}\n"text"\n{"n":4}', content_type="application/x-ndjson")
    assert answer.status_code == 207
    said = answer.json()
    assert said["stored"] == 3
    assert [one["index"] for one in said["refused"]] == [1, 3]
    assert kept(alder) == [b'{"n":0}', b'{"n":2}', b'{"n":4}']
    await alder.quarantine.flush()
    held = await alder.quarantine.items(0, 10, settled=False)
    assert {item.raw for item in held} == {b"nonsense", b'"text"'}


async def test_a_gzip_bomb_is_refused_at_its_bound(alder: Appliance, line: httpx2.AsyncClient) -> None:
    bomb = gzip.compress(bytes(limits.http_inflated_bytes_max * 4), 9)
    assert len(bomb) < 200_000
    answer = await post(line, bomb, content_encoding="gzip")
    assert answer.status_code == 413
    assert "when unpacked" in answer.json()["error"]
    assert alder.gate.tally("http").refused["too large"] == 1


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [(b"no gzip", "gzip", 400), (gzip.compress(b"{}" * 100, mtime=0)[:-9], "gzip", 400), (b"{}", "br", 415)],
)
async def test_a_broken_or_unknown_encoding_is_refused(
    line: httpx2.AsyncClient, body: bytes, encoding: str, status: int
) -> None:
    assert (await post(line, body, content_encoding=encoding)).status_code == status


async def test_a_body_over_the_bound_is_refused_announced_or_not(alder: Appliance, line: httpx2.AsyncClient) -> None:
    huge = b'{"a":"' + b"x" * limits.http_body_bytes_max + b'"}'
    assert (await post(line, huge)).status_code == 413

    async def unannounced() -> AsyncIterator[bytes]:
        for start in range(0, len(huge), 65_536):
            yield huge[start : start + 65_536]

    answer = await line.post("/v1/ingest", content=unannounced())
    assert answer.status_code == 413
    assert alder.gate.tally("http").refused["too large"] == 2
    assert (await post(line, ONE.encode())).status_code == 200


# -- a full gate, a full disk, no room ----------------------------------------------------------------------------


async def test_a_full_gate_answers_429_and_takes_nothing(alder: Appliance, line: httpx2.AsyncClient) -> None:
    alder.gate.records_max = 0
    answer = await post(line, ONE.encode())
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert "send them again" in answer.json()["error"]
    alder.gate.records_max = limits.gate_records_max
    assert (await post(line, ONE.encode())).status_code == 200
    assert len(kept(alder)) == 1


async def test_a_disk_s_fault_answers_507_with_the_disk_s_sentence(alder: Appliance, line: httpx2.AsyncClient) -> None:
    alder.telemetry.paused = True
    assert (await post(line, ONE.encode())).status_code == 507
    answer = await post(line, ONE.encode())
    assert (answer.status_code, answer.headers["retry-after"]) == (507, "5")
    assert answer.json()["error"] == str(StoreFault(Fault.FULL, "telemetry", ""))
    assert (await line.get("/readyz")).status_code == 503
    assert (await line.get("/healthz")).status_code == 200
    alder.telemetry.paused = False
    await asyncio.to_thread(eventually, lambda: alder.gate.fault is None)
    assert (await post(line, ONE.encode())).status_code == 200


def test_the_room_for_bodies_is_bounded_and_given_back() -> None:
    room = Room(100)
    with room.share() as one:
        one(60)
        with room.share() as other:
            other(40)
            with pytest.raises(Refused) as no:
                other(1)
            assert no.value.status == 429
        one(40)
    assert room.bytes == 0


# -- senders that dawdle or lie -----------------------------------------------------------------------------------


async def raw(alder: Appliance, *parts: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = alder.addresses["http"].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for part in parts:
        writer.write(part)
        await writer.drain()
    return reader, writer


HEAD = b"POST /v1/ingest HTTP/1.1\r\nhost: alder\r\n"


async def test_senders_that_dawdle_do_not_hold_up_the_others(alder: Appliance, line: httpx2.AsyncClient) -> None:
    slow = [await raw(alder, HEAD + b"content-length: 100\r\n\r\n{") for _ in range(50)]
    assert (await asyncio.wait_for(post(line, ONE.encode()), 20)).status_code == 200
    for _, writer in slow:
        writer.close()
    await asyncio.to_thread(eventually, lambda: alder.gate.tally("http").refused["cut off"] == 50)
    assert (await post(line, ONE.encode())).status_code == 200


async def test_a_body_in_small_bites_arrives_whole(alder: Appliance) -> None:
    body = ONE.encode()
    reader, writer = await raw(alder, HEAD + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body))
    for start in range(0, len(body), 7):
        writer.write(body[start : start + 7])
        await writer.drain()
        await asyncio.sleep(0.001)
    assert b" 200 " in (await asyncio.wait_for(reader.read(), 20)).split(b"\r\n")[0]
    writer.close()
    assert kept(alder) == [body]


async def test_a_header_of_60_megabytes_is_refused_and_the_server_lives_on(
    alder: Appliance, line: httpx2.AsyncClient
) -> None:
    reader, writer = await raw(alder, HEAD + b"x-flood: ")
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 60_000_000:
            writer.write(b"x" * 65_536)
            sent += 65_536
            await writer.drain()
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await asyncio.wait_for(reader.read(1_000), 20)
    assert answer == b"" or b" 400 " in answer.split(b"\r\n")[0]
    assert sent < 60_000_000, "it was cut off long before"
    writer.close()
    assert (await post(line, ONE.encode())).status_code == 200


@pytest.mark.parametrize(
    "junk",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"GET\r\n\r\n", b"\x00" * 1_000, HEAD + b"content-length: -1\r\n\r\n"],
    ids=["TLS", "half a request", "zeros", "a negative length"],
)
async def test_what_is_no_http_gets_an_error_and_an_end(
    alder: Appliance, line: httpx2.AsyncClient, junk: bytes
) -> None:
    reader, writer = await raw(alder, junk)
    assert b" 400 " in (await asyncio.wait_for(reader.read(), 20)).split(b"\r\n")[0]
    writer.close()
    assert (await post(line, ONE.encode())).status_code == 200


# -- the power goes -----------------------------------------------------------------------------------------------


def test_what_was_answered_with_2xx_is_there_after_the_power_went(tmp_path: Path) -> None:
    with island(tmp_path / "alder") as site:
        acknowledged = flood_and_kill(site)
    with island(tmp_path / "alder") as site:
        held: set[str] = {json.loads(record["raw"])["n"] for record in site.records()}
        assert acknowledged - held == set()
        assert site.events("appliance.started")[-1]["body"]["clean"] is False


def flood_and_kill(site: Site) -> set[Any]:
    """Post until a 2xx came back for some, then kill -9 at once."""
    acknowledged: set[Any] = set()
    with site.client() as client:
        for number in range(30):
            body = json.dumps([{"name": "kestrel-1", "n": f"{number}-{part}"} for part in range(5)])
            assert client.post("/v1/ingest", content=body).status_code == 200
            acknowledged |= {f"{number}-{part}" for part in range(5)}
        site.kill()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", site.http), 1):
        raise AssertionError("it still listens")
    return acknowledged
