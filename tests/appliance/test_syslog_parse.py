"""Syslog as real senders write it, as the RFCs do, and as nobody should; then streams of it."""

from __future__ import annotations

import pytest

from appliance.intake import syslog
from appliance.intake.syslog import Frame, Framer
from fleet import limits
from fleet.reading import Health, Reading

DAY_NS = 1_795_219_200 * limits.SECOND  # 2026-11-21 00:00:00 UTC
SENT_NS = DAY_NS + (5 * 60 + 40) * limits.MINUTE + 26 * limits.SECOND
RECEIVED_NS = SENT_NS + limits.SECOND
RECORD_MAX = limits.record_bytes_max


def read(raw: bytes, received_ns: int = RECEIVED_NS) -> Reading:
    return syslog.parse(raw, received_ns=received_ns)


# -- what real senders send (each line as captured from the sender that names the test) --------------------------------

SENDERS = {
    "logger": (
        b'<132>1 2026-11-21T05:40:26.070822+00:00 vm app1 - - [timeQuality tzKnown="1" isSynced="0"] msg',
        Reading(claimed_ns=SENT_NS + 70_822_000, name="vm", severity=4, text="msg"),
    ),
    "logger --rfc3164": (
        b"<13>Nov 21 05:40:26 vm app1: msg",
        Reading(claimed_ns=SENT_NS, name="vm", severity=5, text="msg"),
    ),
    "rsyslog ForwardFormat": (
        b"<13>2026-11-21T05:40:26.079317+00:00 vm dev9 via rsyslog",
        Reading(claimed_ns=SENT_NS + 79_317_000, name="vm", severity=5, text="dev9 via rsyslog"),
    ),
    "rsyslog SyslogProtocol23": (
        b"<13>1 2026-11-21T05:40:26.079317+00:00 vm dev9 - - - via rsyslog\n",
        Reading(claimed_ns=SENT_NS + 79_317_000, name="vm", severity=5, text="via rsyslog"),
    ),
    "rsyslog TraditionalForwardFormat": (
        b"<13>Nov 21 05:40:26 vm dev9 via rsyslog\n",
        Reading(claimed_ns=SENT_NS, name="vm", severity=5, text="dev9 via rsyslog"),
    ),
    "python SysLogHandler": (
        b"<11>pyapp: multi\nline\x00",
        Reading(severity=3, text="multi\nline"),
    ),
    "syslog-ng syslog()": (
        b"<13>1 2026-11-21T05:40:26+00:00 localhost 1 - - - <13>Nov 21 05:41:32 alder app: inner\n",
        Reading(
            claimed_ns=SENT_NS, name="localhost", severity=5, text="<13>Nov 21 05:41:32 alder app: inner"
        ),
    ),
    "syslog-ng network()": (
        b"<13>Nov 21 05:40:26 localhost 1 2026-11-21T05:41:32 inner\n",
        Reading(claimed_ns=SENT_NS, name="localhost", severity=5, text="1 2026-11-21T05:41:32 inner"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "reading"), SENDERS.values(), ids=SENDERS)
def test_a_real_sender_is_understood(raw: bytes, reading: Reading) -> None:
    assert read(raw) == reading
    assert syslog.sender(raw) == (reading.name or "")


ONE = b"<13>1 2026-11-21T05:40:26+00:00 vm app1 - - - one"
TWO = b"<13>1 2026-11-21T05:40:27+00:00 vm app1 - - - two"


def counted(*raws: bytes) -> bytes:
    return b"".join(b"%d %s" % (len(raw), raw) for raw in raws)


STREAMS = {
    "logger -T": (ONE + b"\n" + TWO + b"\n", ["one", "two"]),
    "logger -T --octet-count": (counted(ONE, TWO), ["one", "two"]),
    "rsyslog octet-counted, its LF counted too": (counted(ONE + b"\n", TWO + b"\n"), ["one", "two"]),
    "rsyslog traditional": (
        b"<13>Nov 21 05:40:26 vm dev9 via rsyslog\n<13>Nov 21 05:40:26 vm dev9 again\n",
        ["dev9 via rsyslog", "dev9 again"],
    ),
    "python SysLogHandler over TCP": (
        b"<11>pyapp: multi\nline\x00<11>pyapp: second\x00",
        ["multi\nline", "second"],
    ),
    "syslog-ng syslog() over TCP": (
        counted(
            b"<13>1 2026-11-21T05:41:32+00:00 localhost 1 - - - <13>Nov 21 05:41:32 alder app: inner\n",
            b"<13>1 2026-11-21T05:41:32+00:00 localhost 1 - - - second\n",
        ),
        ["<13>Nov 21 05:41:32 alder app: inner", "second"],
    ),
    "syslog-ng network() over TCP": (
        b"<13>Nov 21 05:41:32 localhost 1 one\n<13>Nov 21 05:41:32 localhost 1 two\n",
        ["1 one", "1 two"],
    ),
}


@pytest.mark.parametrize(("stream", "texts"), STREAMS.values(), ids=STREAMS)
def test_a_real_stream_is_split_whole(stream: bytes, texts: list[str]) -> None:
    framer = Framer()
    frames = framer.feed(stream)
    assert [read(frame.raw).text for frame in frames] == texts
    assert [frame.marks for frame in frames] == [()] * len(texts)
    assert framer.close() == []


# -- RFC 5424 ----------------------------------------------------------------------------------------------------------


def test_a_message_with_json_is_read() -> None:
    raw = b'<134>1 2026-11-21T05:40:26Z drone-7 agent 4 STATUS - {"battery": 87, "status": "OK"}'
    assert read(raw) == Reading(
        claimed_ns=SENT_NS,
        name="drone-7",
        severity=6,
        text='{"battery": 87, "status": "OK"}',
        metrics={"battery_pct": 87.0},
        health=Health.OK,
    )


def test_structured_data_is_read_with_all_its_escapes() -> None:
    raw = (
        rb'<14>1 - birch agent - - [a@1 note="quote \" slash \\ bracket \] other \n ] unescaped" battery="87"]'
        rb'[b@1][c@1 temp="21.5" version="2.\]4"] done'
    )
    assert read(raw) == Reading(
        name="birch", severity=6, text="done", metrics={"battery_pct": 87.0, "temp_c": 21.5}, version="2.]4"
    )


def test_nil_values_say_nothing() -> None:
    assert read(b"<0>1 - - - - - -") == Reading(severity=0)
    assert read(b"<0>1 - - - - - - ") == Reading(severity=0)
    assert syslog.sender(b"<0>1 - - - - - -") == ""


def test_a_byte_order_mark_is_no_text() -> None:
    assert read(b"<14>1 - birch a - - - \xef\xbb\xbfgr\xc3\xbcezi").text == "grüezi"


def test_a_message_id_may_be_a_heartbeat() -> None:
    assert read(b"<14>1 - birch agent - HEARTBEAT -").heartbeat
    assert not read(b"<14>1 - birch agent - STATUS -").heartbeat


def test_the_name_is_the_devices_and_not_the_relays() -> None:
    raw = b'<14>1 2026-11-21T05:40:26Z drone-7 agent - - - {"device": "relay-1"}'
    assert syslog.sender(raw) == "drone-7"
    assert read(raw).name == "drone-7"


def test_a_body_names_its_sender_only_when_the_header_does_not() -> None:
    assert read(b'<14>1 - - agent - - - {"device": "drone-7"}').name == "drone-7"


@pytest.mark.parametrize(
    "raw",
    [
        b"<13>1 2026-11-21T05:40:26Z vm app - - msg",
        b'<13>1 2026-11-21T05:40:26Z vm app - - [a b="1" msg',
        b"<13>1 2026-11-21T05:40:26Z vm app - - [] msg",
        b"<13>1 2026-11-21T05:40:26Z vm app",
    ],
)
def test_a_broken_header_leaves_the_name_and_the_text(raw: bytes) -> None:
    reading = read(raw)
    assert (reading.name, reading.marks) == ("vm", ("unparsed",))
    assert reading.text == raw.decode()[4:]
    assert syslog.sender(raw) == "vm"


# -- RFC 3164 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "name", "text"),
    [
        (b"<13>Nov 21 05:40:26 alder sshd[412]: hello", "alder", "hello"),
        (b"<13>Nov 21 05:40:26 alder app: hello: world", "alder", "hello: world"),
        (b"<13>Nov 21 05:40:26 app: hello", None, "hello"),
        (b"<13>Nov 21 05:40:26 app[7]: hello", None, "hello"),
        (b"<13>Nov 21 05:40:26 fe80::1 app: hello", "fe80::1", "hello"),
        (b"<13>Nov 21 05:40:26 battery=87 temp=21", None, "battery=87 temp=21"),
        (b'<13>Nov 21 05:40:26 {"battery": 87}', None, '{"battery": 87}'),
        (b"<13>Nov 21 05:40:26 alder", "alder", None),
        (b"<13>Nov 21 05:40:26 ", None, None),
        (b"<13>Nov 21 05:40:26 - hello", None, "hello"),
        (b"<13>Nov 21 05:40:26.5 alder hello", "alder", "hello"),
        (b"<13>Nov 21 2026 05:40:26: alder hello", "alder", "hello"),
        (b"Nov 21 05:40:26 alder app: hello", "alder", "hello"),
        (b"<13>app: hello", None, "hello"),
        (b"<13>hello", None, "hello"),
        (b"<13> hello", None, "hello"),
        (b"<13>http://alder/ is up", None, "http://alder/ is up"),
    ],
)
def test_what_is_left_out_is_not_guessed(raw: bytes, name: str | None, text: str | None) -> None:
    reading = read(raw)
    assert (reading.name, reading.text, reading.marks) == (name, text, ())
    assert syslog.sender(raw) == (name or "")


def test_a_tag_with_key_values_is_read() -> None:
    raw = b"<13>Nov 21 05:40:26 drone-7 agent[412]: battery=87% temp=21.5 status=degraded"
    assert read(raw).metrics == {"battery_pct": 87.0, "temp_c": 21.5}
    assert read(raw).health is Health.DEGRADED


@pytest.mark.parametrize(
    ("date", "received", "claimed"),
    [
        ("Nov 21 05:40:26", SENT_NS, SENT_NS),
        ("Nov  1 00:00:00", SENT_NS, DAY_NS - 20 * limits.DAY),
        ("Nov 1 00:00:00", SENT_NS, DAY_NS - 20 * limits.DAY),
        ("Nov 28 23:59:59", SENT_NS, DAY_NS + 8 * limits.DAY - limits.SECOND),  # a clock that is ahead
        ("Nov 29 00:00:00", SENT_NS, DAY_NS - 357 * limits.DAY),  # last year's
        ("Feb 10 00:00:00", SENT_NS, DAY_NS - 284 * limits.DAY),  # from before a long silence
        ("Dec 31 23:59:59", DAY_NS + 41 * limits.DAY, DAY_NS + 41 * limits.DAY - limits.SECOND),
        ("Jan  1 00:00:01", DAY_NS + 41 * limits.DAY - 1, DAY_NS + 41 * limits.DAY + limits.SECOND),
        ("Nov 21 2024 05:40:26.25", SENT_NS, SENT_NS - 730 * limits.DAY + 250 * limits.MS),
    ],
)
def test_the_year_is_the_one_that_fits_the_receipt(date: str, received: int, claimed: int) -> None:
    reading = read(f"<13>{date} alder app: x".encode(), received)
    assert (reading.claimed_ns, reading.marks) == (claimed, ())


def test_a_leap_day_is_of_a_leap_year() -> None:
    in_2028 = 1_835_481_600 * limits.SECOND  # 2028-03-01
    assert read(b"<13>Feb 29 12:00:00 alder x", in_2028).claimed_ns == in_2028 - limits.DAY // 2
    assert read(b"<13>Feb 29 12:00:00 alder x").marks == ("clock-implausible",)


@pytest.mark.parametrize(
    "stamp",
    [
        "1 1970-01-01T00:00:07Z",
        "1 2090-01-01T00:00:00Z",
        "1 2026-13-45T05:40:26Z",
        "1 yesterday",
        "1970-01-01T00:00:07Z",
        "Jan  1 1970 00:00:07",
        "Nov 31 05:40:26",
        "Nov 21 25:40:26",
        "Nov 21 0000 05:40:26",
    ],
)
def test_an_implausible_clock_is_marked_and_not_believed(stamp: str) -> None:
    reading = read(f"<13>{stamp} alder app - - - x".encode())
    assert (reading.claimed_ns, reading.name, reading.marks) == (None, "alder", ("clock-implausible",))


def test_a_site_whose_own_clock_is_at_1970_does_not_invent_a_year() -> None:
    reading = read(b"<13>Nov 21 05:40:26 alder x", received_ns=7 * limits.SECOND)
    assert (reading.claimed_ns, reading.marks) == (None, ("clock-implausible",))


def test_a_time_of_the_body_stands_above_that_of_the_header() -> None:
    raw = b'<13>1 2026-11-21T05:40:26Z alder app - - - {"ts": %d}' % (DAY_NS // limits.SECOND)
    assert read(raw).claimed_ns == DAY_NS


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pri", range(192))
def test_every_priority_has_its_severity(pri: int) -> None:
    assert read(b"<%d>Nov 21 05:40:26 alder x" % pri).severity == pri % 8


@pytest.mark.parametrize("pri", [b"192", b"999", b"013", b"00", b"1234567890123"])
@pytest.mark.parametrize("rest", [b"1 2026-11-21T05:40:26Z alder app - - - x", b"Nov 21 05:40:26 alder x"])
def test_a_bad_priority_is_marked_and_the_rest_read(pri: bytes, rest: bytes) -> None:
    reading = read(b"<%s>%s" % (pri, rest))
    assert reading == Reading(claimed_ns=SENT_NS, name="alder", text="x", marks=("bad-pri",))
    assert syslog.sender(b"<%s>%s" % (pri, rest)) == "alder"


@pytest.mark.parametrize("raw", [b"", b"\n", b"\x00", b"hello", b"<>x", b"<13", b"<abc>x", b"\xff\xfe", b"battery=87"])
def test_what_is_no_syslog_is_kept_as_text(raw: bytes) -> None:
    reading = read(raw)
    assert "unparsed" in reading.marks
    assert (reading.text or "") == raw.rstrip(b"\x00\n").decode(errors="replace")


def test_bytes_that_are_no_utf8_are_replaced_and_marked() -> None:
    reading = read(b"<13>Nov 21 05:40:26 alder caf\xe9 battery=87")
    assert (reading.text, reading.marks) == ("caf\ufffd battery=87", ("bad-utf8",))
    assert reading.metrics == {"battery_pct": 87.0}


def test_a_name_of_bad_bytes_is_the_same_in_both() -> None:
    raw = b"<13>Nov 21 05:40:26 al\xffder x"
    assert read(raw).name == syslog.sender(raw) == "al\ufffdder"


def test_a_name_is_cut_to_its_bound_in_both() -> None:
    fits, over = "n" * limits.name_chars_max, "n" * (limits.name_chars_max + 1)
    assert read(f"<13>1 - {fits} a - - - x".encode()).marks == ()
    reading = read(f"<13>1 - {over} a - - - x".encode())
    assert (reading.name, reading.marks) == (fits, ("long-name",))
    assert syslog.sender(f"<13>1 - {over} a - - - x".encode()) == fits


@pytest.mark.parametrize("size", [480, 2048, 8192, RECORD_MAX - 1, RECORD_MAX])
def test_every_size_that_the_rfcs_name_is_read_whole(size: int) -> None:
    head = b"<13>1 2026-11-21T05:40:26Z alder app - - - "
    reading = read(head.ljust(size, b"x"))
    assert (reading.text, reading.marks) == ("x" * (size - len(head)), ())


def test_one_byte_more_is_cut_and_marked() -> None:
    head = b"<13>1 2026-11-21T05:40:26Z alder app - - - "
    reading = read(head.ljust(RECORD_MAX + 1, b"x"))
    assert reading.text is not None
    assert (len(reading.text), reading.marks) == (RECORD_MAX - len(head), ("oversize",))


# -- streams -----------------------------------------------------------------------------------------------------------


def whole(stream: bytes) -> tuple[list[bytes], list[Frame]]:
    framer = Framer()
    return [frame.raw for frame in framer.feed(stream)], framer.close()


MIXED_FRAMES = [b"<1>a", b"<2>b", b"<3>c", b"<4>d", b"<5>multi\r\nline", b"<6>e", b"<7>f"]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 11])
def test_however_a_stream_is_cut_up_the_frames_are_the_same(step: int) -> None:
    lines = b"".join(raw.replace(b"\r\n", b" ") + b"\n" for raw in MIXED_FRAMES)
    nuls = b"".join(raw + b"\x00" for raw in MIXED_FRAMES)
    for stream in (counted(*MIXED_FRAMES), lines):
        framer = Framer()
        frames = [f for at in range(0, len(stream), step) for f in framer.feed(stream[at : at + step])]
        assert [frame.raw for frame in frames + framer.close()] == whole(stream)[0]
    framer = Framer()
    framer.feed(b"<0>first\x00")
    frames = [f for at in range(0, len(nuls), step) for f in framer.feed(nuls[at : at + step])]
    assert [frame.raw for frame in frames] == MIXED_FRAMES


def test_each_frame_is_judged_by_its_own_first_byte() -> None:
    assert whole(b"<1>a\n5 <2>b\n<3>c\n\n4 <4>d<5>e\n") == ([b"<1>a", b"<2>b", b"<3>c", b"<4>d", b"<5>e"], [])


def test_a_counted_frame_may_hold_anything() -> None:
    assert whole(b"9 <1>a\n\x00b\nc5 <2>xy") == ([b"<1>a\n\x00b\nc", b"<2>xy"], [])


def test_after_a_nul_a_message_may_hold_lines() -> None:
    framer = Framer()
    assert [f.raw for f in framer.feed(b"<1>one\x00<2>two\n")] == [b"<1>one"]
    assert [f.raw for f in framer.feed(b"and more\x00")] == [b"<2>two\nand more"]


def test_a_stray_nul_does_not_glue_lines_together() -> None:
    framer = Framer()
    assert [f.raw for f in framer.feed(b"<1>a\x00\n<2>b\n<3>c\n")] == [b"<1>a", b"<2>b", b"<3>c"]
    assert [f.raw for f in framer.feed(b"<4>d\n")] == [b"<4>d"]


def test_a_line_that_waited_under_the_nul_rule_is_whole_at_the_end() -> None:
    framer = Framer()
    assert [f.raw for f in framer.feed(b"<1>a\x00<2>b\n")] == [b"<1>a"]
    assert framer.close() == [Frame(b"<2>b")]


@pytest.mark.parametrize("stream", [b"1234567890 <1>a\n", b"12x4 <1>a\n", b"1<2>a\n", b"0 <1>a\n", b"hello\n"])
def test_a_count_that_is_none_is_the_beginning_of_a_line(stream: bytes) -> None:
    assert whole(stream) == ([stream[:-1]], [])


@pytest.mark.parametrize(
    ("stream", "rest"),
    [
        (b"<1>half", b"<1>half"),
        (b"10 <1>half", b"<1>half"),
        (b"12", b"12"),
        (b"<0>a\n<1>half\r", b"<1>half"),
    ],
)
def test_half_a_frame_at_the_end_is_kept_and_marked(stream: bytes, rest: bytes) -> None:
    assert whole(stream)[1] == [Frame(rest, ("cut",))]


def test_nothing_left_is_nothing_returned() -> None:
    assert whole(b"") == ([], [])
    assert whole(b"\n\x00\r\n\n") == ([], [])
    assert whole(b"12 ") == ([], [])
    assert whole(b"2 \n\n") == ([], [])


@pytest.mark.parametrize("size", [1, 480, 2048, 8192, RECORD_MAX - 1, RECORD_MAX])
def test_every_size_up_to_the_bound_passes_whole(size: int) -> None:
    raw = b"x" * size
    for stream in (b"%d %s" % (size, raw), b"%d %s\n" % (size + 1, raw), raw + b"\n", raw + b"\r\n"):
        framer = Framer()
        assert framer.feed(stream + b"<1>next\n") == [Frame(raw), Frame(b"<1>next")]


@pytest.mark.parametrize("size", [RECORD_MAX + 1, RECORD_MAX + 2, RECORD_MAX + 3, 3 * RECORD_MAX])
@pytest.mark.parametrize("step", [1_000, 65_536, 1_000_000])
def test_a_longer_frame_is_cut_and_marked_and_the_stream_goes_on(size: int, step: int) -> None:
    raw = b"x" * size
    for stream in (b"%d %s" % (size, raw), raw + b"\n"):
        framer, frames = Framer(), []
        for at in range(0, len(stream), step):
            frames += framer.feed(stream[at : at + step])
            assert len(framer._held) <= RECORD_MAX + 32
        frames += framer.feed(b"<1>next\n")
        assert frames == [Frame(b"x" * RECORD_MAX, ("oversize",)), Frame(b"<1>next")]


def test_a_long_message_of_many_lines_is_skipped_to_its_nul() -> None:
    framer = Framer()
    framer.feed(b"<0>first\x00")
    long = b"<1>" + b"line\n" * RECORD_MAX
    frames = [f for at in range(0, len(long), 999) for f in framer.feed(long[at : at + 999])]
    frames += framer.feed(b"end\x00<2>next\x00")
    assert [(len(frame.raw), frame.marks) for frame in frames] == [(RECORD_MAX, ("oversize",)), (7, ())]


@pytest.mark.parametrize("step", [1, 2, 3, 70_000])
def test_a_line_behind_what_was_skipped_is_found_however_it_arrives(step: int) -> None:
    framer = Framer()
    framer.feed(b"<0>first\x00<1>" + b"x" * (RECORD_MAX + 10))
    rest = b"xx\nxx\n<2>next\x00"
    assert [f for at in range(0, len(rest), step) for f in framer.feed(rest[at : at + step])] == [Frame(b"<2>next")]


def test_an_end_in_the_middle_of_what_was_cut_adds_nothing() -> None:
    for stream in (b"x" * (RECORD_MAX + 10), b"99999999 " + b"x" * (RECORD_MAX + 10)):
        framer = Framer()
        assert len(framer.feed(stream)) == 1
        assert framer.close() == []


@pytest.mark.parametrize(
    "stream",
    [b"\n" * 100_000, b"a\n" * 50_000, b"1" * 100_000, b"x\x00y\n<1z\n" + b"a\n" * 200_000, b"9 <\n" * 30_000],
    ids=lambda stream: repr(stream[:8]),
)
def test_a_stream_of_one_kind_is_split_all_the_same(stream: bytes) -> None:
    framer = Framer()
    framer.feed(stream)  # quadratic work would show here as a test that takes minutes
    framer.close()
