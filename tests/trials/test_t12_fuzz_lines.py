"""T12: no bytes make the reader of line protocol raise; every line is judged as a second, slow reading judges it; and what a
body holds is in a record, in a refusal, or was a comment.

100,000 bodies: lines put together from what means something, and mutated. The seed is printed; `SEED=… pytest
tests/trials/test_t12_fuzz_lines.py` runs the same inputs again.
"""

from __future__ import annotations

import math
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable

import pytest

from appliance.intake import lines
from appliance.intake.payload import Mark
from fleet import limits
from fleet.reading import Reading

INPUTS = 100_000
RECORD_MAX, RUN_MAX = limits.record_bytes_max, limits.lines_run_bytes_max

NAMES = (
    b"m", b"cpu", b"host", b"device", b"a b", b"x,y", b"k=v", b"\\", b"q\\", b'"', b"#", "fjärd ⚓".encode(), b"\xff", b"n" * 150,
    b"\t",
)  # fmt: skip
VALUES = (
    b"1", b"-1", b"0", b"1.", b".5", b"-.5e-7", b"1e5", b"1E+99", b"1e308", b"1e309", b"1e", b"e5", b"-", b"1.2.3", b"007i",
    b"1i", b"1u", b"-1u", b"9223372036854775807i", b"9223372036854775808i", b"-9223372036854775808i", b"18446744073709551615u",
    b"1" * 40, b"1" * 400, b"1" * 40 + b"i", b"NaN", b"inf", b"t", b"T", b"true", b"True", b"TRUE", b"f", b"F", b"false",
    b"FALSE", b"tRUE", b"truex", b"", b'""', b'"s"', b'"a b,c=d"', b'"q\\"u"', b'"b\\\\"', b'"open', b'"l\nf"', b'"x"y',
    "\"⚓\"".encode(), b'"' + b"z" * 300 + b'"', b'"\\',
)  # fmt: skip
TIMES = (
    b"", b" 1795253400000000000", b" 1795253400", b" 1795253400123", b" -5", b" 0", b" 9223372036854775806",
    b" 9223372036854775807", b" -9223372036854775806", b" 99999999999999999999", b" " + b"1" * 60, b" x", b" 5x", b" 5.5",
    b" 5 5", b"  5 ", b" ", b" -", b" 5\r",
)  # fmt: skip
SPICE = (
    b",", b" ", b"=", b"\\", b'"', b"\n", b"\r\n", b"#", b"\x00", b"\xff", b"\t", b"i", b"u", b"e", b"-", b".", b"\\\\", b"\\,",
    b'="', b"\n\n",
)  # fmt: skip


def escaped(rng: random.Random, name: bytes, what: bytes = b",= ") -> bytes:
    if rng.random() < 0.1:
        return name
    return b"".join(b"\\" + bytes([c]) if c in what else bytes([c]) for c in name)


def made(rng: random.Random) -> bytes:
    key = escaped(rng, rng.choice(NAMES), b", ")
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        key += b"," + escaped(rng, rng.choice(NAMES)) + b"=" + escaped(rng, rng.choice((*NAMES, b"birch", b"gull")))
    fields = (escaped(rng, rng.choice(NAMES)) + b"=" + value(rng) for _ in range(rng.choice((1, 1, 1, 2, 4))))
    return key + b" " + b",".join(fields) + (rng.choice(TIMES) if rng.random() < 0.3 else TIMES[1])


def value(rng: random.Random) -> bytes:
    return rng.choice(VALUES) if rng.random() < 0.3 else b"%d.%d" % (rng.randrange(100), rng.randrange(100))


def mutated(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, kind = rng.randrange(len(changed) + 1), rng.randrange(4)
        if kind == 0:
            del changed[at : at + rng.randrange(1, 9)]
        elif kind == 1:
            changed[at:at] = rng.choice(SPICE)
        elif kind == 2 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        else:
            changed[at:at] = changed[at : at + rng.randrange(1, 20)]
    return bytes(changed)


def body_of(rng: random.Random) -> bytes:
    made_lines = [made(rng) for _ in range(rng.choice((1, 1, 1, 2, 5)))]
    if rng.random() < 0.1:
        made_lines.insert(
            rng.randrange(len(made_lines) + 1), rng.choice((b"", b"# comment", b" \t", b"  # x=1 2", b"\r"))
        )
    body = rng.choice((b"\n", b"\n", b"\r\n")).join(made_lines)
    return mutated(rng, body) if rng.random() < 0.4 else body


# -- the second reading: one character at a time, after InfluxDB's own (models/points.go), for a line without a line feed -----

NUMBER = re.compile(rb"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
WHOLE = re.compile(rb"(-?[0-9]+)([iu])")
TRUTHS = frozenset((b"t", b"T", b"true", b"True", b"TRUE", b"f", b"F", b"false", b"False", b"FALSE"))


def is_point(line: bytes, unit: int = 1) -> bool:
    line = line.removesuffix(b"\r").strip(b" \t") if b"\r" not in line[:-1] else b"\r"
    at = behind(line, 0, b" ")  # the key ends at a space with no backslash before it
    key, rest = line[:at], line[at:].lstrip(b" \t")
    if not is_key(key) or not rest:
        return False
    at = 0
    while True:
        end = field_end(rest, at)
        if end is None or not is_field(rest[at:end]):
            return False
        if end == len(rest) or rest[end : end + 1] in b" \t":
            break
        at = end + 1
    moment = rest[end:].strip(b" \t")
    if not moment:
        return True
    if not re.fullmatch(rb"-?[0-9]+", moment):
        return False
    return -(1 << 63) + 2 <= int(moment) * unit <= (1 << 63) - 2


def behind(text: bytes, at: int, stops: bytes) -> int:
    """Where one of `stops` stands that no backslash stands right before; the end when nowhere."""
    while at < len(text) and not (text[at] in stops and (at == 0 or text[at - 1] != 0x5C)):
        at += 1
    return at


def is_key(key: bytes) -> bool:
    at = behind(key, 0, b",")
    if at == 0 or any(c in key for c in b"\r"):
        return False
    while at < len(key):
        equals = behind(key, at + 1, b"=,")
        end = behind(key, equals + 1, b"=,")
        if key[equals : equals + 1] != b"=" or equals == at + 1 or end == equals + 1 or key[end : end + 1] == b"=":
            return False
        at = end
    return True


def field_end(text: bytes, at: int) -> int | None:
    """Where a field ends: at a comma or blank outside of a string. A backslash takes the next one with it."""
    quoted = begun = False
    while at < len(text):
        c = text[at : at + 1]
        if c == b"\\":
            at += 2
            continue
        if c == b'"' and begun:
            quoted = not quoted
        elif c == b"=" and not quoted:
            begun = True
        elif c in b", \t" and not quoted and (c != b"\t" or begun):
            return at
        at += 1
    return None if quoted else min(at, len(text))


def is_field(field: bytes) -> bool:
    at = 0
    while at < len(field) and field[at : at + 1] != b"=":
        at += 2 if field[at : at + 1] == b"\\" else 1
    name, said = field[:at], field[at + 1 :]
    if not name or at >= len(field):
        return False
    if said[:1] == b'"':
        return re.fullmatch(rb'"(?:[^"\\]|\\.)*"', said, re.DOTALL) is not None
    if whole := WHOLE.fullmatch(said):
        bounds = range(-(1 << 63), 1 << 63) if whole[2] == b"i" else range(1 << 64)
        return int(whole[1]) in bounds
    if NUMBER.fullmatch(said):
        return math.isfinite(float(said))
    return said in TRUTHS


# -- what must hold -----------------------------------------------------------------------------------------------------


def mind(reading: Reading) -> None:
    assert len(reading.metrics) <= limits.metrics_per_node_max
    for metrics in (reading.metrics, *reading.samples):
        assert all(math.isfinite(number) and type(number) is float for number in metrics.values())
        assert all(len(name) <= limits.name_chars_max for name in metrics)
    assert reading.name is None or 0 < len(reading.name) <= limits.name_chars_max
    assert set(reading.marks) <= set(Mark)
    if reading.claimed_ns is not None:
        assert limits.claimed_ns_min <= reading.claimed_ns <= limits.claimed_ns_max


def check(splitter: lines.Splitter, body: bytes, unit: int) -> lines.Split:
    found = splitter.split(body, unit)
    physical = Counter(line.rstrip(b"\r") for line in body.split(b"\n"))
    said = Counter(line.rstrip(b"\r") for one in (*found.runs, *found.refusals) for line in one.raw.split(b"\n"))
    assert said <= physical, said - physical
    for line in physical - said:
        assert re.fullmatch(rb"[ \t\x00\r]*(?:#.*)?", line, re.DOTALL), line
    for run in found.runs:
        assert len(run.raw) <= RECORD_MAX
        assert splitter.split(run.raw, unit).runs == [run]
        assert lines.sender(run.raw) == run.name
        reading = lines.parse(run.raw, 0)
        mind(reading)
        assert Mark.UNPARSED not in reading.marks
    alone = splitter.split(body, unit, by_name=False)
    assert (alone.points, alone.refusals) == (found.points, found.refusals)
    for refusal in found.refusals:
        mind(lines.parse(refusal.raw, 0))
        lines.sender(refusal.raw)
    return found


@pytest.mark.trial
def test_no_body_makes_the_reader_raise_and_every_line_is_judged_alike(
    record_property: Callable[[str, object], None],
) -> None:
    seed = int(os.environ.get("SEED") or time.time_ns())
    record_property("seed", seed)
    sys.stdout.write(f"T12 lines: SEED={seed}, {INPUTS} inputs\n")
    splitter, rng, units = lines.Splitter(), random.Random(), tuple(lines.UNITS.values())
    good = bad = 0
    for number in range(INPUTS):
        rng.seed(seed + number)
        body, unit = body_of(rng), rng.choice(units)
        try:
            found = check(splitter, body, unit)
            if b"\n" not in body and not re.fullmatch(rb"[ \t\x00\r]*(?:#.*)?", body, re.DOTALL):
                assert found.points == is_point(body, unit or 1), found
            good, bad = good + found.points, bad + found.refused
        except Exception as error:
            error.add_note(f"T12 lines: SEED={seed}, input {number}, unit {unit}: {body[:2000]!r}")
            raise
    sys.stdout.write(f"T12 lines: {good} points, {bad} refused\n")
    assert min(good, bad) > INPUTS // 10  # the inputs are of both kinds, about a fifth points


@pytest.mark.trial
@pytest.mark.parametrize("size", [RUN_MAX - 1, RUN_MAX, RUN_MAX + 1, RECORD_MAX - 1, RECORD_MAX, RECORD_MAX + 1])
@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"], ids=["none", "LF", "CR LF"])
def test_sizes_are_exact(size: int, ending: bytes) -> None:
    line, next_line = b'm s="' + b"x" * (size - 6) + b'"', b"m v=1"
    found = lines.Splitter().split(line + ending + (next_line if ending else b""))
    stored = b"\n".join(run.raw for run in found.runs).split(b"\n")
    if size > RECORD_MAX:
        assert found.refusals == [(1, 1, lines.Reason.TOO_LONG, line[:RECORD_MAX])]
        assert stored == [next_line if ending else b""]
    else:
        assert found.refusals == []
        assert stored == [line, next_line] if ending else [line]


LONG = 1 << 20
HARD = {
    "quotes that open": b'm s="\n', "quotes that never close": b"m s=1\n" * 9 + b'm s="', "quotes": b'"', "backslashes": b"\\",
    "escaped quotes": b'm s="\\"\n', "equals": b"=", "commas": b"m,a=b,", "spaces": b"m ", "digits": b"9", "minus": b"-",
    "names": b"m,a=b,a=b ", "bad lines": b"m v=x\n", "comments": b"#\n", "key after key": b"m\\ ", "values": b"m v=1,v=1,",
    "opening and escaping": b'm s="\\\n', "blank": b" \t\x00\r", "exponents": b"m v=1e9e", "letters": b"mtTfF",
}  # fmt: skip


@pytest.mark.trial
@pytest.mark.parametrize("what", HARD)
def test_a_megabyte_of_what_is_hard_takes_no_longer_than_its_length(what: str) -> None:
    """None of these may be quadratic: then it would take minutes, and the suite would be ended."""
    piece = HARD[what]
    for body in (
        piece * (LONG // len(piece)),
        b"m v=" + piece * (LONG // len(piece)),
        b"m v=1 " + piece * (LONG // len(piece)),
    ):
        found = lines.Splitter().split(body)
        for run in found.runs[:50]:
            mind(lines.parse(run.raw, 0))
        for refusal in found.refusals[:50]:
            mind(lines.parse(refusal.raw, 0))
