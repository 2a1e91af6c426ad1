"""Line protocol: which lines a body holds, and what they say."""

from __future__ import annotations

import pytest

from appliance.intake import lines
from appliance.intake.lines import Reason, Splitter
from appliance.intake.payload import Mark
from fleet import limits
from fleet.reading import Health

NOW_NS = 1_795_253_400_000_000_000


def split(body: bytes, unit: int = 1, **how: bool) -> lines.Split:
    return Splitter().split(body, unit, **how)


# -- bodies -----------------------------------------------------------------------------------------------------------


def test_lines_of_one_sender_are_one_record_as_they_came() -> None:
    body = b"cpu,host=birch v=1 5\ncpu,host=birch v=2i\r\nmem,host=birch used=3u,free=.5 7\n"
    assert split(body).runs == [("birch", body.rstrip(b"\n"))]


def test_senders_that_take_turns_have_a_record_each() -> None:
    body = b"m,host=a v=1\nm,host=b v=2\nm,host=a v=3\nm v=4\n"
    found = split(body)
    assert found.runs == [("a", b"m,host=a v=1\nm,host=a v=3"), ("b", b"m,host=b v=2"), ("", b"m v=4")]
    assert found.points == 4


def test_one_that_speaks_for_itself_only_has_one_record_whatever_its_tags_say() -> None:
    body = b"m,host=a v=1\nm,host=b v=2"
    assert split(body, by_name=False).runs == [("", body)]


def test_every_good_line_is_in_a_record_once_and_no_record_is_long() -> None:
    sent = [b"m,host=h%d v=%d %d" % (n % 7, n, NOW_NS + n) for n in range(5_000)]
    found = split(b"\n".join(sent))
    assert sorted(line for run in found.runs for line in run.raw.split(b"\n")) == sorted(sent)
    assert max(len(run.raw) for run in found.runs) <= limits.lines_run_bytes_max
    for run in found.runs:
        assert {lines.sender(line) for line in run.raw.split(b"\n")} == {run.name}


def test_comments_and_blank_lines_are_nothing() -> None:
    assert split(b"# a comment\n\n  \n\r\nm v=1\n # another\n") == ([("", b"m v=1")], 1, [])
    assert split(b"") == ([], 0, [])


def test_a_line_feed_within_a_string_ends_no_line() -> None:
    body = b'm s="one\ntwo v=1\n",v=2 5\nn v=3'
    assert split(body) == ([("", body)], 2, [])


def test_one_bad_time_among_five_thousand_lines_is_found_and_costs_no_other() -> None:
    sent = [b"m,host=birch v=%d %d" % (n, NOW_NS + n) for n in range(5_000)]
    sent[3_216] = b"m,host=birch v=1 17952534oo000"
    found = split(b"\n".join(sent))
    assert found.points == 4_999
    assert found.refusals == [(3_217, 1, Reason.BAD_TIME, sent[3_216])]


BAD = {
    b",a=b v=1": Reason.NO_MEASUREMENT,
    b"m,a v=1": Reason.BAD_TAGS,
    b"m,a=b=c v=1": Reason.BAD_TAGS,
    b"m": Reason.NO_FIELDS,
    b"m,a=b ": Reason.NO_FIELDS,
    b"m v": Reason.BAD_FIELDS,
    b"m v=": Reason.BAD_FIELDS,
    b"m =1": Reason.BAD_FIELDS,
    b"m v=1,": Reason.BAD_FIELDS,
    b'm v="a"b': Reason.BAD_FIELDS,
    b"m v=1.2.3": Reason.BAD_NUMBER,
    b"m v=NaN": Reason.BAD_NUMBER,
    b"m v=9223372036854775808i": Reason.BAD_NUMBER,
    b"m v=18446744073709551616u": Reason.BAD_NUMBER,
    b"m v=1e999": Reason.BAD_NUMBER,
    b"m v=" + b"1" * 5_000 + b"i": Reason.BAD_NUMBER,
    b"m v=yes": Reason.BAD_BOOLEAN,
    b'm v="open': Reason.OPEN_QUOTE,
    b"m v=1 soon": Reason.BAD_TIME,
    b"m v=1 5.5": Reason.BAD_TIME,
    b"m v=1 5 5": Reason.BAD_TIME,
    b"m v=1 99999999999999999999": Reason.BAD_TIME,
    b"m v=1 9223372036854775807": Reason.TIME_RANGE,
    b'm v="' + b"x" * limits.record_bytes_max + b'"': Reason.TOO_LONG,
}


@pytest.mark.parametrize("line", BAD, ids=lambda line: repr(line[:40]))
def test_what_is_no_point_is_told_why_and_where(line: bytes) -> None:
    found = split(b"good v=1\n" + line + b"\ngood v=2")
    assert found.points == 2
    assert found.refusals == [(2, 1, BAD[line], line[: limits.record_bytes_max])]


def test_bad_lines_in_a_row_are_one_refusal_as_long_as_a_record() -> None:
    found = split(b"bad\n" * 5_000 + b"m v=1\n")
    assert (found.points, found.refused) == (1, 5_000)
    assert len(found.refusals) == 5
    assert b"\n".join(refusal.raw for refusal in found.refusals) == b"\n".join([b"bad"] * 5_000)
    assert [refusal.line for refusal in found.refusals[:2]] == [1, 1 + found.refusals[0].lines]


@pytest.mark.parametrize(
    ("unit", "last", "beyond"),
    [
        ("us", b"9223372036854775", b"9223372036854776"),
        ("ms", b"9223372036854", b"9223372036855"),
        ("s", b"9223372036", b"9223372037"),
        ("m", b"153722867", b"153722868"),
        ("h", b"2562047", b"2562048"),
        ("ns", b"-9223372036854775806", b"-9223372036854775807"),
    ],
)
def test_times_reach_as_far_as_nanoseconds_do(unit: str, last: bytes, beyond: bytes) -> None:
    found = split(b"m v=1 " + last + b"\nm v=1 " + beyond, lines.UNITS[unit])
    assert found.points == 1
    assert found.refusals == [(2, 1, Reason.TIME_RANGE, b"m v=1 " + beyond)]


def test_a_line_may_be_as_long_as_a_record_and_no_longer() -> None:
    longest = b'm v="' + b"x" * (limits.record_bytes_max - 6) + b'"'
    assert len(longest) == limits.record_bytes_max
    assert split(longest + b"\r\n").runs == [("", longest)]
    assert split(longest.replace(b"x", b"xx", 1)).refused == 1


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"m,host=birch v=1", "birch"),
        (b"m,cpu=cpu0,host=birch v=1", "birch"),
        (b"m,device=d7,host=birch v=1", "birch"),
        (b"m,device=d7 v=1", "d7"),
        (b"m,host=my\\ boat\\,two v=1", "my boat,two"),
        (b"m,hosts=birch v=1", ""),
        (b"m v=1", ""),
        ("m,host=fjärd v=1".encode(), "fjärd"),
        (b"no line", ""),
    ],
)
def test_a_tag_names_the_node(line: bytes, name: str) -> None:
    assert lines.sender(line) == name
    assert [run.name for run in split(line).runs] == ([name] if b"=1" in line else [])


def test_which_tags_name_the_node_may_be_configured() -> None:
    assert Splitter(["boat", "host"]).split(b"m,boat=gull,host=birch v=1").runs[0].name == "gull"


# -- readings ---------------------------------------------------------------------------------------------------------


def test_a_collectors_lines_come_under_the_fleets_names_where_that_is_certain() -> None:
    reading = lines.parse(
        b"cpu,cpu=cpu-total,host=birch usage_idle=88.5,usage_user=4 1795253400000000000\n"
        b"cpu,cpu=cpu0,host=birch usage_idle=70 1795253400000000000\n"
        b"mem,host=birch used_percent=41.5,free=1024i\n"
        b"disk,device=sda1,fstype=ext4,host=birch,path=/ used_percent=12\n"
        b"disk,device=sdb1,fstype=ext4,host=birch,path=/data used_percent=97\n"
        b'system,host=birch load1=0.5,uptime=86400i,uptime_format="1 day"\n',
        NOW_NS,
    )
    assert reading.name == "birch"
    assert reading.claimed_ns == NOW_NS
    assert reading.samples == ()
    assert reading.uptime_s == 86_400
    assert reading.metrics == {
        "cpu.usage_idle{cpu=cpu-total}": 88.5,
        "cpu.usage_user{cpu=cpu-total}": 4.0,
        "cpu_pct": 11.5,
        "cpu.usage_idle{cpu=cpu0}": 70.0,
        "mem.used_percent": 41.5,
        "ram_pct": 41.5,
        "mem.free": 1024.0,
        "disk.used_percent{device=sda1,fstype=ext4,path=/}": 12.0,
        "disk_pct": 12.0,
        "disk.used_percent{device=sdb1,fstype=ext4,path=/data}": 97.0,
        "system.load1": 0.5,
        "system.uptime": 86_400.0,
        "uptime_s": 86_400.0,
    }


def test_a_device_says_of_itself_what_it_may_say_in_json() -> None:
    reading = lines.parse(b'status,device=drone-03 battery=87.5,health="DEGRADED",armed=true,lat=58.3,lon=11.2', NOW_NS)
    assert reading.metrics == {"battery_pct": 87.5, "lat_deg": 58.3, "lon_deg": 11.2}
    assert (reading.health, reading.armed) == (Health.DEGRADED, True)
    assert reading.position is not None


def test_tags_are_never_merged_away() -> None:
    reading = lines.parse(
        b"sensors,host=a,at=roof temp=3\nsensors,host=a,at=hold temp=9\nsensors,host=a temp=5", NOW_NS
    )
    assert reading.metrics == {"sensors.temp{at=roof}": 3.0, "sensors.temp{at=hold}": 9.0, "temp_c": 5.0}


def test_a_metric_told_twice_keeps_both_for_the_charts() -> None:
    reading = lines.parse(b"m,host=a v=1,w=5 1795253400\nm,host=a v=2 1795253401\nm,host=a v=3 1795253399", NOW_NS)
    assert reading.metrics == {"m.v": 3.0, "m.w": 5.0}
    assert reading.samples == ({"m.v": 1.0, "m.w": 5.0}, {"m.v": 2.0}, {"m.v": 3.0})
    assert reading.claimed_ns == 1_795_253_401 * limits.SECOND


@pytest.mark.parametrize(
    "time", [b"1795253400000000000", b"1795253400000000", b"1795253400000", b"1795253400", b"29920890"]
)
def test_the_size_of_a_time_tells_its_unit(time: bytes) -> None:
    assert lines.parse(b"m v=1 " + time, 0).claimed_ns == NOW_NS


def test_a_time_that_nobody_believes_is_a_mark() -> None:
    reading = lines.parse(b"m v=1 5", NOW_NS)
    assert (reading.claimed_ns, reading.marks) == (None, (Mark.CLOCK_IMPLAUSIBLE,))


def test_what_is_no_line_is_marked_and_the_rest_is_read() -> None:
    reading = lines.parse(b"m v=1\nbad\nm w=2", NOW_NS)
    assert (reading.metrics, reading.marks) == ({"m.v": 1.0, "m.w": 2.0}, (Mark.UNPARSED,))
    assert lines.parse(b"", NOW_NS).marks == (Mark.UNPARSED,)


def test_a_record_tells_at_most_as_many_metrics_as_a_node_has() -> None:
    fields = b",".join(b"f%d=1" % number for number in range(200))
    reading = lines.parse(b"a " + fields + b"\nb " + fields, NOW_NS)
    assert len(reading.metrics) == limits.metrics_per_node_max
    assert Mark.TOO_MANY_METRICS in reading.marks
