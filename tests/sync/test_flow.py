"""`sync.flow`: how much is under way on a line that is simulated byte by byte, and what is sent again."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.limits import MS, SECOND
from sync.flow import PART_BYTES_MIN, QUEUE_NS, WINDOW_BYTES_MIN, Inflow, Outflow, Part, Patience


class Line:
    """One way carries `bytes_per_s`, either way takes `delay_ns`; what waits for its turn is the queue."""

    def __init__(self, bytes_per_s: int, delay_ns: int, lost: Callable[[int], bool] = lambda number: False) -> None:
        self.bytes_per_s, self.delay_ns, self.lost = bytes_per_s, delay_ns, lost
        self.free_ns = self.number = 0
        self.queue_ns_max = self.resent = 0

    def carry(self, part: Part, now_ns: int) -> int | None:
        self.number += 1
        self.resent += part.again
        start = max(self.free_ns, now_ns)
        self.queue_ns_max = max(self.queue_ns_max, start - now_ns)
        self.free_ns = start + len(part.data) * SECOND // self.bytes_per_s
        return None if self.lost(self.number) else self.free_ns + self.delay_ns


def send(line: Line, data: bytes, seconds: int = 600) -> tuple[bytes, int]:
    """Everything that arrived in order, and how long it took."""
    out, inflow = Outflow(), Inflow()
    out.begin(1, 1 << 30)
    inflow.begin(1)
    out.add(data)
    got: list[bytes] = []
    there: deque[tuple[int, Part]] = deque()
    back: deque[tuple[int, int, bool]] = deque()
    for now_ns in range(0, seconds * SECOND, 10 * MS):
        while there and there[0][0] <= now_ns:
            at, part = there.popleft()
            taken = inflow.take(1, part.offset, part.data)
            got.append(taken.data)
            back.append((at + line.delay_ns, inflow.offset, taken.hole))
        while back and back[0][0] <= now_ns:
            _, offset, hole = back.popleft()
            out.acked(1, offset, 1 << 30, now_ns)
            if hole:
                out.asked_again(now_ns)
        out.tick(now_ns)
        while (part_due := out.due(now_ns)) is not None:
            arrives = line.carry(part_due, now_ns)
            if arrives is not None:
                there.append((arrives, part_due))
        if out.idle:
            return b"".join(got), now_ns
    raise AssertionError(f"{out.acked_offset:,} of {len(data):,} bytes in {seconds} s")


def test_bulk_never_queues_more_than_half_a_second_on_a_slow_satellite_line() -> None:
    line, data = Line(21_000, 300 * MS), random.Random(1).randbytes(600_000)
    got, took_ns = send(line, data)
    assert got == data
    assert line.queue_ns_max <= QUEUE_NS
    assert took_ns < 1.4 * len(data) / line.bytes_per_s * SECOND  # and the line is kept busy


def test_however_long_a_replay_lasts_it_never_takes_its_own_queue_for_the_line() -> None:
    line, data = Line(21_000, 300 * MS), random.Random(1).randbytes(6_000_000)
    _, took_ns = send(line, data)
    assert line.queue_ns_max <= QUEUE_NS
    assert took_ns < 1.1 * len(data) / line.bytes_per_s * SECOND


def test_the_window_grows_until_a_fat_line_is_full() -> None:
    line, data = Line(2_000_000, 300 * MS), random.Random(1).randbytes(20_000_000)
    got, took_ns = send(line, data)
    assert got == data
    assert took_ns < 3 * len(data) / line.bytes_per_s * SECOND


def test_the_window_shrinks_when_delay_shows() -> None:
    out = Outflow()
    out.begin(1, 1 << 30)
    now_ns = SECOND
    for rtt_ns in (50 * MS,) * 12 + (3 * SECOND,) * 4:
        out.add(bytes(out.window))
        while out.due(now_ns) is not None:
            pass
        wide = out.window
        now_ns += rtt_ns
        out.acked(1, out.offset, 1 << 30, now_ns)
        if rtt_ns == 50 * MS:
            widest = out.window
    assert widest > 16 * WINDOW_BYTES_MIN
    assert out.window <= wide < widest


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_what_is_lost_is_sent_again_and_comes_in_order(share: float) -> None:
    chance, data = random.Random(7), random.Random(8).randbytes(200_000)
    got, _ = send(Line(100_000, 300 * MS, lambda number: chance.random() < share), data, 3_000)
    assert got == data


def test_a_hole_that_is_reported_for_every_part_behind_it_is_filled_once_in_a_round_trip() -> None:
    line, data = Line(1_000_000, 300 * MS, lambda number: number == 40), random.Random(3).randbytes(1_000_000)
    got, _ = send(line, data)
    assert got == data
    assert line.resent < line.number // 2


def test_parts_that_are_sent_again_go_out_before_those_behind_them() -> None:
    out = Outflow()
    out.begin(1, 1 << 30)
    out.add(bytes(WINDOW_BYTES_MIN))
    first, second = out.due(0), out.due(0)
    assert first is not None
    assert second is not None
    out.asked_again(2 * SECOND)
    assert out.due(2 * SECOND) == first._replace(sent_ns=2 * SECOND, again=True)
    out.asked_again(5 * SECOND)  # while the second still waits for its turn
    again = [out.due(5 * SECOND), out.due(5 * SECOND)]
    assert [part.offset if part else None for part in again] == [first.offset, second.offset]


def test_an_answer_to_a_part_that_was_sent_twice_tells_no_round_trip() -> None:
    out = Outflow()
    out.begin(1, 1 << 30)
    out.add(bytes(PART_BYTES_MIN))
    out.due(0)
    out.tick(10 * SECOND)
    assert out.due(10 * SECOND) is not None
    out.acked(1, PART_BYTES_MIN, 1 << 30, 10 * SECOND + MS)
    assert out.rate.rtt_ns is None


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2_000_000), st.integers(-5, 1 << 40)), max_size=30))
def test_no_acknowledgement_whatever_it_says_moves_the_window_backwards(said: list[tuple[int, int, int]]) -> None:
    out = Outflow()
    out.begin(2, 1 << 20)
    out.add(bytes(1_000_000))
    before = 0
    for now_ns, (stream, offset, granted) in enumerate(said):
        out.due(now_ns)
        out.acked(stream, offset, granted, now_ns)
        assert before <= out.acked_offset <= out.offset
        assert out.window >= WINDOW_BYTES_MIN
        before = out.acked_offset


@given(st.lists(st.tuples(st.integers(0, 120), st.integers(0, 40)), max_size=60))
def test_parts_in_any_order_give_a_prefix_of_what_was_sent(parts: list[tuple[int, int]]) -> None:
    data = bytes(range(160))
    inflow, got = Inflow(), b""
    inflow.begin(1)
    for offset, size in parts:
        taken = inflow.take(1, offset, data[offset : offset + size])
        got += taken.data
        assert got == data[: len(got)]
        assert taken.hole == (offset > len(got))


def test_a_clock_that_was_set_in_between_tells_no_round_trip() -> None:
    out, now_ns = Outflow(), 10 * SECOND
    out.begin(1, 1 << 30)
    for jump_ns in (365 * 86_400 * SECOND, -5 * SECOND):
        out.add(bytes(PART_BYTES_MIN))
        assert out.due(now_ns) is not None
        now_ns += jump_ns
        out.acked(1, out.offset, 1 << 30, now_ns)
        assert out.rate.rtt_ns is None


def test_a_new_beginning_is_asked_for_at_once_and_then_ever_later() -> None:
    patience, now_ns, waits = Patience(), 0, []
    assert not patience.due(now_ns)
    for _ in range(12):
        patience.failed(now_ns)
        began = now_ns
        while not patience.due(now_ns):
            now_ns += SECOND // 4
        waits.append((now_ns - began) // SECOND)
    assert waits == [0, 0, 0, 2, 4, 8, 16, 32, 64, 64, 64, 64]
    assert not patience.due(now_ns)
    assert patience.due(now_ns + SECOND)  # the word may be lost
