"""Bodies of HTTP requests: what is a record, what is refused, what unpacks, who sent it, what it says."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from appliance.intake import http
from appliance.intake.http import BadBody, Reason, Refusal
from fleet import limits
from fleet.reading import Health, Reading

NDJSON = "application/x-ndjson"
JSON = "application/json; charset=utf-8"
RECORD_MAX = limits.record_bytes_max


def sized(size: int) -> bytes:
    return b'{"x":"%s"}' % (b"x" * (size - 8))


# -- records -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["", JSON, "text/plain", NDJSON])
def test_a_record_is_kept_byte_for_byte(kind: str) -> None:
    record = b'{ "battery" : 87.0e0, "battery":87,"note":"gr\xc3\xbcezi \\u00fc" }'
    assert http.split(b" \r\n" + record + b"\n", kind) == ([record], [])
    assert http.split(b"\xef\xbb\xbf" + record, kind) == ([record], [])


@pytest.mark.parametrize("kind", ["", JSON])
def test_an_array_is_one_record_an_element(kind: str) -> None:
    first, second = b'{"a" : 1}', b'{\n"b":[2, {}]}'
    assert http.split(b"[ " + first + b" ,\n" + second + b"]", kind) == ([first, second], [])


@pytest.mark.parametrize("kind", ["", JSON, NDJSON, "Application/JSONL; charset=utf-8"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n", b" \n "])
def test_lines_are_one_record_each(kind: str, end: bytes) -> None:
    assert http.split(b'{"a":1}' + end + b'{"b":2}' + end, kind) == ([b'{"a":1}', b'{"b":2}'], [])


def test_one_object_over_many_lines_is_one_record() -> None:
    body = json.dumps({"device": "drone-7", "gps": {"lat": 59.9}}, indent=2).encode()
    assert http.split(body, JSON) == ([body], [])


BAD = {
    b"battery=87": Reason.NOT_JSON,
    b'{"a":1': Reason.NOT_JSON,
    b'{"a":NaN}': Reason.NOT_JSON,
    b'{"a":1}{"b":2}': Reason.NOT_JSON,
    b'{"a":"\\ud800"}': Reason.NOT_JSON,
    b'{"a":"\xff"}': Reason.BAD_UTF8,
    b"17": Reason.NOT_AN_OBJECT,
    b"[{}]": Reason.NOT_AN_OBJECT,
    b"null": Reason.NOT_AN_OBJECT,
    b'{"a":' * 33 + b"1" + b"}" * 33: Reason.TOO_DEEP,
    b'{"a":' * 10_000 + b"1": Reason.TOO_DEEP,
    b"[" * 10_000: Reason.TOO_DEEP,
    sized(RECORD_MAX + 1): Reason.TOO_LONG,
}


@pytest.mark.parametrize(("bad", "reason"), BAD.items(), ids=lambda value: repr(value)[:24])
def test_a_bad_line_does_not_spoil_the_others(bad: bytes, reason: Reason) -> None:
    expected = ([b'{"a":1}', b'{"b":2}'], [Refusal(reason, bad[:RECORD_MAX], 1)])
    assert http.split(b'{"a":1}\n' + bad + b'\n{"b":2}', NDJSON) == expected
    assert http.split(b'{"a":1}\n' + bad + b'\n{"b":2}', "") == expected


def test_a_bad_first_line_does_not_spoil_the_others_either() -> None:
    records, refusals = http.split(b'{"a":}\n{"b":2}\n', "")
    assert (records, refusals) == ([b'{"b":2}'], [Refusal(Reason.NOT_JSON, b'{"a":}', 0)])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [(one, reason) for one, reason in BAD.items() if reason is not Reason.NOT_JSON and one[-1:] in b"}7l]"],
)
def test_a_bad_element_does_not_spoil_the_others(bad: bytes, reason: Reason) -> None:
    records, refusals = http.split(b'[{"a":1},' + bad + b',{"b":2}]', JSON)
    assert (records, refusals) == ([b'{"a":1}', b'{"b":2}'], [Refusal(reason, bad[:RECORD_MAX], 1)])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", Reason.EMPTY),
        (b" \n\r\n", Reason.EMPTY),
        (b"[]", Reason.EMPTY),
        (b'[{"a":1}', Reason.NOT_JSON),
        (b'[{"a":1},{"b":}]', Reason.NOT_JSON),
        (b"[" * 1_000_000 + b"]" * 1_000_000, Reason.TOO_DEEP),
        (b'{\n  "a": 1,\n  "b":\n}', Reason.NOT_JSON),
        (b"device=drone-7&battery=87", Reason.NOT_JSON),
        (b"17", Reason.NOT_AN_OBJECT),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_body_that_is_bad_as_a_whole_is_one_refusal(body: bytes, reason: Reason) -> None:
    records, refusals = http.split(body, JSON)
    assert (records, [refusal.reason for refusal in refusals]) == ([], [reason])
    assert len(refusals[0].raw) <= RECORD_MAX


@pytest.mark.parametrize("size", [480, 2048, 8192, RECORD_MAX - 1, RECORD_MAX])
def test_a_record_may_be_as_long_as_the_bound(size: int) -> None:
    raw = sized(size)
    for body in (raw, b"[" + raw + b"]", raw + b"\n" + raw):
        records, refusals = http.split(body, "")
        assert set(records) == {raw}
        assert refusals == []


@pytest.mark.parametrize("kind", [JSON, NDJSON])
def test_the_number_of_records_has_an_exact_bound(kind: str) -> None:
    def body(count: int) -> bytes:
        return b"\n".join([b"{}"] * count) if kind == NDJSON else b"[" + b",".join([b"{}"] * count) + b"]"

    assert len(http.split(body(limits.http_records_max), kind)[0]) == limits.http_records_max
    records, refusals = http.split(body(limits.http_records_max + 1), kind)
    assert (records, [refusal.reason for refusal in refusals]) == ([], [Reason.TOO_MANY])


@pytest.mark.parametrize("body", [b"[" + b"1," * 4_000_000 + b"1]", b"{}\n" + b"\n" * 8_000_000 + b"{}"])
def test_a_body_of_nothing_but_separators_is_refused(body: bytes) -> None:
    assert [refusal.reason for refusal in http.split(body, "")[1]] == [Reason.TOO_MANY]


# -- unpacking ---------------------------------------------------------------------------------------------------------


def test_gzip_in_one_or_several_parts_unpacks() -> None:
    assert http.inflate(gzip.compress(b'{"a":1}')) == b'{"a":1}'
    assert http.inflate(gzip.compress(b'{"a":1}\n') + gzip.compress(b'{"b":2}')) == b'{"a":1}\n{"b":2}'
    assert http.inflate(zlib.compress(b"{}")) == b"{}"
    assert http.inflate(gzip.compress(b"")) == b""


def test_the_unpacked_size_has_an_exact_bound() -> None:
    for body in (gzip.compress(bytes(1_000)), gzip.compress(bytes(999)) + gzip.compress(b"x")):
        assert len(http.inflate(body, 1_000)) == 1_000
        with pytest.raises(BadBody) as bad:
            http.inflate(body, 999)
        assert bad.value.status == 413


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    bomb = gzip.compress(bytes(limits.http_inflated_bytes_max * 4))
    with pytest.raises(BadBody) as bad:
        http.inflate(bomb)
    assert bad.value.status == 413


GZIPPED = gzip.compress(b'{"battery": 87}', mtime=0)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", *(GZIPPED[:cut] for cut in range(1, len(GZIPPED))), GZIPPED + b"x", GZIPPED * 17],
    ids=lambda body: str(len(body)),
)
def test_what_does_not_unpack_is_refused_with_words(body: bytes) -> None:
    with pytest.raises(BadBody, match=r"^(the|a) ") as bad:
        http.inflate(body)
    assert bad.value.status == 400


def test_a_flipped_bit_in_gzip_never_passes_for_other_content() -> None:
    for bit in range(len(GZIPPED) * 8):
        damaged = bytearray(GZIPPED)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert http.inflate(bytes(damaged)) == b'{"battery": 87}'  # a time or an OS in the header may differ
        except BadBody:
            continue


# -- who, and what -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (b'{"device": "drone-7"}', "drone-7"),
        (b'{"node": " birch "}', "birch"),
        (b'{"name": "alder"}', "alder"),
        (b'{"id": "a1"}', "a1"),
        (b'{"id": "a1", "name": "alder", "node": "birch", "device": "drone-7"}', "drone-7"),
        (b'{"device": "", "id": "a1"}', "a1"),
        (b'{"device": 7}', ""),
        (b'{"device": {"id": "x"}}', ""),
        (b'{"relay": {"device": "mallory"}}', ""),
        (b'{"note": "\\"device\\": \\"mallory\\""}', ""),
        (b'{"device": "drone-7", "bad"', ""),
        (b'{"device": "a\\u0000b"}', ""),
        (b"[]", ""),
        (b"", ""),
        (b'{"device": ' + b"[" * 10_000, ""),
        (b'{"device": "\xff"}', ""),
    ],
    ids=lambda value: repr(value)[:48],
)
def test_the_sender_is_who_the_record_says(record: bytes, name: str) -> None:
    assert http.sender(record) == name


@pytest.mark.parametrize(
    "record",
    [
        b'{"device": "drone-7", "id": "1"}',
        b'{"id": "a1", "name": "alder"}',
        b'{"node_id": "birch"}',
        b'{"node": {"id": "mallory"}, "name": "alder"}',
        b'{"Device": "mallory", "id": "a1"}',
        b"{}",
    ],
)
def test_sender_and_reading_tell_the_same_name(record: bytes) -> None:
    assert http.sender(record) == (http.parse(record, 0).name or "")


def test_a_record_is_read() -> None:
    record = b'{"device": "drone-7", "ts": 1795262400, "battery": 87, "status": "ok", "msg": "all well"}'
    assert http.parse(record, received_ns=1) == Reading(
        claimed_ns=1_795_262_400 * limits.SECOND,
        name="drone-7",
        text="all well",
        metrics={"battery_pct": 87.0},
        health=Health.OK,
    )


@pytest.mark.parametrize("raw", [*BAD, b"", b"\xff", b"{"], ids=lambda raw: repr(raw)[:24])
def test_what_was_refused_does_not_pass_when_it_is_read_again(raw: bytes) -> None:
    marks = http.parse(raw[:RECORD_MAX], 0).marks
    assert {"unparsed", "bad-utf8", "not-a-number"} & set(marks)
