"""The agent's queue: what was put is there, whatever ends the process; what is let go is told; what is in doubt waits."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.firmware_hooks.agents import PATH, agent, record, settings


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Any]:
    with contextlib.closing(agent.Queue(settings(tmp_path))) as made:
        yield made


def everything(queue: Any) -> list[dict[str, Any]]:
    """What a site would get, in order."""
    found = []
    while (batch := queue.next("alder")) is not None:
        lines = queue.lines(batch)
        assert len(lines) == batch.last - batch.first + 1, "a batch has no holes"
        found += [json.loads(line) for line in lines]
        queue.done(batch)
    return found


def test_what_was_put_comes_out_in_order_once(queue: Any) -> None:
    numbers = queue.put([record(n) for n in range(1_200)])
    assert numbers == list(range(1, 1_201))
    assert [one["n"] for one in everything(queue)] == list(range(1_200))
    assert queue.next("alder") is None
    assert queue.backlog() | {"stream": ""} == {
        "stream": "", "floor": 1_201, "last": 0, "records": 0, "bytes": 0, "in_doubt": 0,
    }  # fmt: skip


def test_numbers_and_the_stream_outlive_the_process_and_are_never_given_twice(tmp_path: Path) -> None:
    with contextlib.closing(agent.Queue(settings(tmp_path))) as queue:
        queue.put([record(1), record(2)])
        everything(queue)
        stream = queue.stream
    with contextlib.closing(agent.Queue(settings(tmp_path))) as queue:
        assert (queue.stream, queue.put([record(3)])) == (stream, [3])


def test_a_batch_that_was_cut_before_a_restart_is_the_same_afterwards(tmp_path: Path) -> None:
    with contextlib.closing(agent.Queue(settings(tmp_path))) as queue:
        queue.put([record(n) for n in range(10)])
        before = queue.next("alder")
        content = agent.Content(queue, before)
        queue.put([record(n) for n in range(10)])
    with contextlib.closing(agent.Queue(settings(tmp_path))) as queue:
        assert queue.next("alder") == before
        assert agent.Content(queue, before).sha256 == content.sha256


def test_what_was_put_before_kill_9_is_there(tmp_path: Path) -> None:
    """A process puts and says so, until it is killed in the middle."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import agent\n"
        "queue = agent.Queue(agent.Settings(queue=sys.argv[2]))\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1\n"
        "    queue.put([b'{\"n\":%d}' % n] * 3)\n"
        "    print(n, flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(PATH.parent), str(tmp_path / "queue.db")]
    dice, said = random.Random(4), 0
    for _ in range(4):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(dice.randrange(5, 40)):
            assert process.stdout.readline()
            said += 1
        process.kill()
        process.communicate()
    with contextlib.closing(agent.Queue(settings(tmp_path))) as queue:
        assert queue.backlog()["records"] >= said * 3
        assert queue.backlog()["records"] % 3 == 0, "a put is whole or not at all"
        assert sum(len(line) for line in map(bytes, _raws(queue))) == queue.backlog()["bytes"]


def _raws(queue: Any) -> list[bytes]:
    return [bytes(row[0]) for row in queue._db.execute("SELECT raw FROM entry")]


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"no", b'{"a":1}\n{"b":2}', b'{"x":"' + b"y" * 70_000 + b'"}', b"{" * 5_000]
)
def test_what_is_no_record_is_refused_and_nothing_of_its_put_stays(queue: Any, line: bytes) -> None:
    with pytest.raises(ValueError):
        queue.put([record(1), line])
    assert queue.backlog()["records"] == 0


# -- what is let go -----------------------------------------------------------------------------------------------


def test_after_72_hours_of_running_a_record_goes_and_is_told(queue: Any) -> None:
    queue.put([record(1), record(2)])
    queue.tick(40 * 3600)
    queue.put([record(3)])
    queue.tick(33 * 3600)
    found = everything(queue)
    assert found[0] == {"n": 3}
    gap = found[1]
    assert (gap["type"], gap["gap_reason"], gap["gap_first"], gap["gap_last"], gap["gap_records"]) == (
        "gap", "too old", 1, 2, 2,
    )  # fmt: skip
    assert len(found) == 2


def test_a_clock_that_jumps_lets_nothing_go(queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.put([record(1)])
    monkeypatch.setattr(agent.time, "time", lambda: 4_000_000_000.0)
    queue.tick(1.0)
    assert queue.backlog()["records"] == 1


def test_a_full_queue_lets_the_oldest_go_and_says_how_much(tmp_path: Path) -> None:
    small = settings(tmp_path, keep_mib=0.01)
    with contextlib.closing(agent.Queue(small)) as queue:
        for n in range(100):
            queue.put([record(n, pad="x" * 480)])
        assert queue.backlog()["bytes"] <= 0.01 * 1024 * 1024
        found = everything(queue)
    kept = [one["n"] for one in found if "n" in one]
    (gap,) = [one for one in found if one.get("type") == "gap"]
    assert kept == list(range(100 - len(kept), 100))
    assert (gap["gap_reason"], gap["gap_records"], gap["gap_first"]) == ("queue full", 100 - len(kept), 1)


def test_what_is_under_way_is_not_let_go(tmp_path: Path) -> None:
    with contextlib.closing(agent.Queue(settings(tmp_path, keep_mib=0.001))) as queue:
        queue.put([record(1)])
        batch = queue.doubted(queue.next("alder"), "alder")
        queue.tick(100 * 3600)
        for n in range(10):
            queue.put([record(n, pad="x" * 400)])
        assert queue.lines(batch) == [record(1)]


def test_what_no_site_will_ever_take_is_told_as_a_gap_and_holds_nothing_up(queue: Any) -> None:
    queue.put([record(1)])
    queue.refused(queue.next("alder"), "it is no record")
    queue.put([record(2)])
    found = everything(queue)
    assert found[0] == {"n": 2}
    assert (found[1]["gap_reason"], found[1]["gap_records"]) == ("refused: it is no record", 1)


# -- in doubt -----------------------------------------------------------------------------------------------------


def test_a_batch_in_doubt_waits_for_its_site_and_the_rest_does_not_wait_for_it(queue: Any) -> None:
    queue.put([record(1)])
    batch = queue.doubted(queue.next("alder"), "alder")
    queue.put([record(2)])
    assert queue.lines(queue.next("birch")) == [record(2)]
    assert queue.next("alder") == batch, "at its own site it comes first"


def test_after_so_long_it_goes_elsewhere_and_says_so(queue: Any) -> None:
    queue.put([record(1)])
    queue.doubted(queue.next("alder"), "alder")
    queue.tick(899)
    assert queue.next("birch") is None
    queue.tick(1)
    batch = queue.next("birch")
    assert (batch.site, batch.doubt) == ("", ("alder",))


def test_a_batch_that_its_site_does_not_hold_may_go_anywhere(queue: Any) -> None:
    queue.put([record(1)])
    batch = queue.sure(queue.doubted(queue.next("alder"), "alder"))
    assert queue.next("birch") == batch


def test_the_floor_is_the_lowest_number_that_may_still_come(queue: Any) -> None:
    queue.put([record(n) for n in range(600)])
    first = queue.doubted(queue.next("alder"), "alder")
    second = queue.next("birch")
    queue.done(second)
    assert (first.first, second.first, queue.backlog()["floor"]) == (1, 501, 1)
    queue.done(first)
    assert queue.backlog()["floor"] == 601


# -- which site ---------------------------------------------------------------------------------------------------


def peer(name: str, rtt_s: float) -> Any:
    made = agent.Peer(agent.Address("http", name, 80, name))
    made.answered(name, rtt_s)
    return made


def test_the_nearest_is_chosen_and_kept_while_another_is_only_a_little_nearer() -> None:
    alder, birch = peer("alder", 0.020), peer("birch", 0.030)
    assert agent.choose(None, [alder, birch]) is alder
    birch.answered("birch", 0.001)
    birch.rtt_s = 0.016
    for _ in range(10):
        assert agent.choose(alder, [alder, birch]) is alder


def test_one_that_is_clearly_nearer_for_a_while_takes_over() -> None:
    alder, birch = peer("alder", 0.050), peer("birch", 0.010)
    chosen = [agent.choose(alder, [alder, birch]) for _ in range(3)]
    assert chosen == [alder, alder, birch]


def test_a_single_quick_answer_changes_nothing() -> None:
    alder, birch = peer("alder", 0.050), peer("birch", 0.010)
    agent.choose(alder, [alder, birch])
    birch.rtt_s = 0.049
    agent.choose(alder, [alder, birch])
    birch.rtt_s = 0.010
    assert agent.choose(alder, [alder, birch]) is alder


def test_a_site_that_is_silent_is_left_at_once_and_kept_when_there_is_no_other() -> None:
    alder, birch = peer("alder", 0.010), peer("birch", 0.500)
    alder.missed()
    assert agent.choose(alder, [alder, birch]) is alder, "once is no silence"
    alder.missed()
    assert agent.choose(alder, [alder, birch]) is birch
    birch.silent = 9
    assert agent.choose(alder, [alder, birch]) is alder


def test_pauses_double_up_to_a_bound_and_are_not_the_same_for_all() -> None:
    one, two = agent.Backoff(random.Random(1)), agent.Backoff(random.Random(2))
    steps = [(one.wait_s(), two.wait_s()) for _ in range(12)]
    assert all(first != second for first, second in steps)
    assert 0.25 <= steps[0][0] <= 0.5
    assert all(30 <= first <= 60 for first, _ in steps[-3:])
    assert one.wait_s(100.0) == 100.0, "what the site asks for counts"
    one.reset()
    assert one.wait_s() <= 0.5


# -- discovery ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [b"", b"\x00" * 12, b"\x00\x00\x84\x00\xff\xff" * 40, b"\xc0\x0c" * 200])
def test_what_is_no_answer_of_a_site_is_none(raw: bytes) -> None:
    assert agent.sites_in(raw) == []


def test_a_discovered_site_without_tls_never_hears_the_token(tmp_path: Path) -> None:
    credentials = agent.Credentials(settings(tmp_path))
    assert not credentials.trusts(agent.Address("http", "127.0.0.1", 80, "alder", discovered=True))
    with pytest.raises(OSError, match="without TLS"):
        credentials.connect(agent.Address("http", "127.0.0.1", 80, "alder", discovered=True), 1.0)


# -- the command line ---------------------------------------------------------------------------------------------


def run(*words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, str(PATH), *words], input=given, capture_output=True, check=False)


def test_put_and_status_and_mistakes_at_the_command_line(tmp_path: Path) -> None:
    config = tmp_path / "agent.json"
    config.write_text(json.dumps({"queue": str(tmp_path / "queue.db")}))
    assert run("put", "--config", str(config), '{"a":1}').returncode == 0
    assert run("put", "--config", str(config), given=b'{"a":2}\n\n{"a":3}\n').returncode == 0
    bad = run("put", "--config", str(config), "no")
    assert (bad.returncode, b"Traceback" in bad.stderr) == (2, False)
    assert json.loads(run("status", "--config", str(config)).stdout)["records"] == 3
    config.write_text('{"queue":"x","sitse":[]}')
    wrong = run("status", "--config", str(config))
    assert wrong.returncode != 0
    assert b"sitse" in wrong.stderr
