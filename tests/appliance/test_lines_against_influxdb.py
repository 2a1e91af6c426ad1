"""The same lines to Debian's InfluxDB and to us: taken and refused alike, with the same values.

Where we differ on purpose stands in `OURS`, with the reason.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator

import httpx2
import pytest

from appliance.intake import lines
from bench.influx import PROGRAM, influx

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="influxd is not installed (Debian: influxdb)")

LINES = (
    b"m v=1", b"m v=1 1795253400000000000", b"m v=-1.5", b"m v=.5", b"m v=1.", b"m v=1e5", b"m v=1E+5", b"m v=-1.5e-7",
    b"m v=1i", b"m v=-9i", b"m v=9223372036854775807i", b"m v=9223372036854775808i", b"m v=-9223372036854775808i",
    b"m v=1.5i", b"m v=i", b"m v=1ii", b"m v=1e400", b"m v=1e", b"m v=1.2.3", b"m v=NaN", b"m v=+1", b"m v=0x10",
    b"m v=t", b"m v=T", b"m v=true", b"m v=True", b"m v=TRUE", b"m v=f", b"m v=F", b"m v=false", b"m v=False", b"m v=FALSE",
    b"m v=tRUE", b"m v=truex", b"m v=yes", b"m v=\"s\"", b'm v=""', b'm v="a b,c=d"', b'm v="a\\"b"', b'm v="a\\\\b"',
    b'm v="a\nb"', b'm v="open', b'm v="a" 5', b'm v="a\\"', b"m v=1,w=2i,x=t", b"m v=1,", b"m v=1,w", b"m v=1,w=", b"m v=,w=1",
    b"m ,v=1", b"m =1", b"m v", b"m", b"m ", b"m,a=b", b"m,a=b v=1", b"m,a=b,c=d v=1", b"m,a v=1", b"m,a= v=1", b"m,=b v=1",
    b"m, v=1", b"m,,a=b v=1", b",a=b v=1", b"m,a=b=c v=1", b"m\\ x v=1", b"m\\,x v=1", b"m,a\\ b=c\\,d v=1", b"m,a=b\\=c v=1",
    b"m,a\\=b=c v=1", b"m f\\ g=1", b"m f\\,g=1", b"m f\\=g=1", b"m\\x v=1", b"m,a=\\\\b v=1", b"m v=1 5", b"m v=1 -5",
    b"m v=1 x", b"m v=1 5x", b"m v=1 5.0", b"m v=1 9223372036854775807", b"m v=1 9223372036854775808", b"m v=1 5 6", b"m v=1  5",
    b"m v=1 5 ", b"m  v=1", b" m v=1", b"\tm v=1", b"# m v=1", b"", b"   ", b'm,a="x" v=1', b'"m" v=1', b"m=x v=1",
    b"m,a=b  v=1  5",
    "mäs,tåg=vård fält=1,s=\"⚓\"".encode(), b"m v=1,v=2", b'm s="x",v=1i', b"m v=007", b"m v=-0", b"m v=12345678901234567890",
)  # fmt: skip

OURS = {
    b"m v=1i\r": (True, "CR LF ends a line too: senders on Windows"),
    b"m v=1u": (True, "unsigned numbers, as InfluxDB 2 takes them"),
    b"m v=18446744073709551615u": (True, "the same"),
    b"m v=18446744073709551616u": (False, "but not one more"),
    b'm v="a"b': (False, "InfluxDB 1 takes what follows a string for a part of it"),
}


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    with (
        influx(tmp_path_factory.mktemp("influx")) as port,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client,
    ):
        yield client


def theirs(peer: httpx2.Client, body: bytes) -> bool:
    answer = peer.post("/write", params={"db": "site"}, content=body)
    assert answer.status_code in (204, 400), answer.text
    return answer.status_code == 204


def ours(body: bytes) -> bool:
    return not lines.Splitter().split(body).refusals


def as_measurement(line: bytes, name: str) -> bytes:
    """The line under a measurement of its own, so that its types meet no others."""
    stripped = line.lstrip(b" \t")
    return line[: len(line) - len(stripped)] + name.encode() + stripped[1:] if stripped[:1] == b"m" else line


@pytest.mark.parametrize("line", LINES, ids=repr)
def test_a_line_is_taken_or_refused_as_influxdb_does(peer: httpx2.Client, line: bytes) -> None:
    named = as_measurement(line, f"m{LINES.index(line)}_")
    assert ours(named) == theirs(peer, named)


@pytest.mark.parametrize("line", OURS, ids=repr)
def test_where_we_differ_it_is_on_purpose(line: bytes) -> None:
    assert ours(line) is OURS[line][0]


def test_what_is_taken_has_the_same_values(peer: httpx2.Client) -> None:
    """Every number and truth value of the lines above that both take, by its field's name."""
    compared = 0
    for index, line in enumerate(LINES):
        named = as_measurement(line, f"w{index}_")
        if not (named.strip().startswith(b"w") and b"\\" not in named and theirs(peer, named) and ours(named)):
            continue
        name = named.split(b",")[0].split(b" ")[0].strip().decode()
        said = json.loads(peer.get("/query", params={"db": "site", "q": f'SELECT * FROM "{name}"'}).text)
        if "series" not in said["results"][0]:
            continue  # beyond the years that InfluxDB looks at unasked
        (series,) = said["results"][0]["series"]
        held = dict(zip(series["columns"], series["values"][0], strict=True))
        reading = lines.parse(named.strip(), 0)
        for metric, value in reading.metrics.items():
            field = metric.partition(".")[2].partition("{")[0] if "." in metric else metric
            assert float(held[field]) == value, (named, held)
            compared += 1
    assert compared > 30


BEHIND_A_STRING = re.compile(rb'="x y"[^, ]')


def test_made_up_lines_are_taken_and_refused_alike(peer: httpx2.Client) -> None:
    """2,000 lines put together from the pieces that mean something, in one seed."""
    pieces = (b"v=1", b"w=2i", b's="x y"', b",", b" ", b"=", b"t", b"1", b"-", b"\\,", b'"', b"a=b", b".5", b"e3")
    rng = random.Random(5)
    for number in range(2_000):
        head = b"z%d" % number + rng.choice((b"", b",a=b"))
        line = head + b" " + b"".join(rng.choices(pieces, k=rng.randrange(1, 6)))
        if ours(line) != theirs(peer, line):
            assert BEHIND_A_STRING.search(line), line  # see OURS
