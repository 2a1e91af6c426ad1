"""The gate: bounded, all or nothing, and who waits for an answer does not wait for a full frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from appliance.intake.gate import Entry, Gate, Outcome
from fleet import limits
from store.faults import Fault, StoreFault
from store.frames import Offer

LONG_S = 60.0  # a linger that a test would notice


def offers(count: int, size: int = 8) -> list[Offer]:
    return [Offer(0, "syslog/10.0.0.7/", b"x" * size)] * count


def in_background(take: Callable[[], list[Entry]]) -> tuple[threading.Thread, list[list[Entry]]]:
    taken: list[list[Entry]] = []
    thread = threading.Thread(target=lambda: taken.append(take()), daemon=True)
    thread.start()
    return thread, taken


def ignore(outcome: Outcome) -> None:
    pass


def counts(batch: Sequence[Entry]) -> list[int]:
    return [len(entry.offers) for entry in batch]


def test_the_gate_takes_up_to_its_bound_and_not_one_more() -> None:
    gate = Gate(records_max=10)
    assert gate.offer("udp", offers(10)) is None
    assert gate.offer("udp", offers(1)) == "gate full"
    assert (gate.records, gate.high_records) == (10, 10)


def test_bytes_are_a_bound_of_their_own() -> None:
    gate = Gate(bytes_max=100)
    assert gate.offer("udp", offers(2, 40)) is None
    assert gate.offer("udp", offers(1, 40)) == "gate full"
    assert gate.offer("udp", offers(1, 20)) is None
    assert gate.bytes == 100


def test_an_offer_is_taken_whole_or_not_at_all() -> None:
    gate = Gate(records_max=10)
    gate.offer("udp", offers(8))
    assert gate.offer("udp", offers(3)) == "gate full"
    assert gate.records == 8
    assert counts(gate.take(0)) == [8]


def test_what_was_taken_out_makes_room() -> None:
    gate = Gate(records_max=4)
    gate.offer("udp", offers(4))
    gate.take(0)
    assert (gate.records, gate.bytes) == (0, 0)
    assert gate.offer("udp", offers(4)) is None
    assert gate.high_records == 4


def test_what_is_refused_is_counted_by_intake_and_reason() -> None:
    gate = Gate(records_max=5)
    gate.offer("udp", offers(5, 10))
    gate.offer("udp", offers(3))
    gate.offer("http", offers(2))
    gate.refuse("udp", "kernel buffer full", 7)
    gate.fault = StoreFault(Fault.FULL, "telemetry", "")
    gate.offer("udp", offers(4))
    assert gate.tally("udp").records == 5
    assert gate.tally("udp").bytes_in == 50
    assert dict(gate.tally("udp").refused) == {"gate full": 3, "kernel buffer full": 7, "full": 4}
    assert dict(gate.tally("http").refused) == {"gate full": 2}


@pytest.mark.parametrize("fault", Fault)
def test_the_disk_s_fault_shuts_the_gate_with_its_own_word(fault: Fault) -> None:
    gate = Gate()
    gate.fault = StoreFault(fault, "telemetry", "")
    assert gate.offer("udp", offers(1)) == fault.value
    gate.fault = None
    assert gate.offer("udp", offers(1)) is None


def test_a_closed_gate_takes_nothing_and_gives_out_what_it_holds() -> None:
    gate = Gate()
    gate.offer("udp", offers(3))
    gate.close()
    assert gate.offer("udp", offers(1)) == "stopping"
    assert counts(gate.take(LONG_S)) == [3]
    assert gate.take(LONG_S) == []


def test_an_entry_somebody_waits_for_is_not_held_back_for_more() -> None:
    gate = Gate()
    thread, taken = in_background(lambda: gate.take(LONG_S))
    gate.offer("udp", offers(1))  # the first entry: the linger begins
    gate.offer("http", offers(1), ignore)
    thread.join(10)
    assert not thread.is_alive(), "an urgent entry waited for the linger"
    assert sum(map(len, taken)) == 2


def test_without_anybody_waiting_the_gate_gathers_until_the_frame_is_full() -> None:
    gate = Gate()
    thread, taken = in_background(lambda: gate.take(LONG_S))
    gate.offer("udp", offers(1))
    time.sleep(0.05)
    assert thread.is_alive(), "one record was not worth a frame"
    gate.offer("udp", offers(limits.batch_records_max))
    thread.join(10)
    assert not thread.is_alive()
    assert counts(taken[0]) == [1], "the first frame ends before the entry that does not fit"
    assert counts(gate.take(0)) == [limits.batch_records_max]


def test_once_the_urgent_entry_is_out_the_gate_gathers_again() -> None:
    gate = Gate()
    gate.offer("http", offers(1), ignore)
    gate.take(0)
    gate.offer("udp", offers(1))
    thread, _ = in_background(lambda: gate.take(LONG_S))
    time.sleep(0.05)
    assert thread.is_alive()
    gate.close()
    thread.join(10)
    assert not thread.is_alive()


def test_a_batch_is_at_most_a_frame_but_never_empty_for_one_large_entry() -> None:
    gate = Gate(bytes_max=10 * limits.frame_bytes_max)
    large = [Offer(0, "http/10.0.0.7/", b"x" * limits.frame_bytes_max)] * 2
    for _ in range(2):
        gate.offer("http", large, ignore)
    gate.offer("udp", offers(1))
    assert counts(gate.take(0)) == [2]
    assert counts(gate.take(0)) == [2]
    assert counts(gate.take(0)) == [1]


def test_many_threads_lose_nothing_between_them() -> None:
    gate = Gate(records_max=1_000)
    taken: list[int] = []

    def drain() -> None:
        while not (gate.closed and not gate.records):
            taken.append(sum(counts(gate.take(0))))

    def send(intake: str) -> None:
        for number in range(500):
            gate.offer(intake, offers(1 + number % 5))

    drainer = threading.Thread(target=drain)
    senders = [threading.Thread(target=send, args=(f"intake {number}",)) for number in range(4)]
    for thread in (drainer, *senders):
        thread.start()
    for thread in senders:
        thread.join(30)
    gate.close()
    drainer.join(30)
    offered = 4 * sum(1 + number % 5 for number in range(500))
    refused = sum(sum(tally.refused.values()) for tally in gate.tallies.values())
    accepted = sum(tally.records for tally in gate.tallies.values())
    assert sum(taken) == accepted
    assert accepted + refused == offered
    assert (gate.records, gate.bytes) == (0, 0)
