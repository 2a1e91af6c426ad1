"""The command line: every command explains itself, and every mistake gets one sentence that says what to do."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry import parser
from tests import cast
from tests.cast import FRONT, Site, eventually, island, send_udp, skerry

QUICK = {"SKERRY_PING_ENABLED": "false", "SKERRY_BUDGET_TOTAL_MIB": "512", "SKERRY_BUDGET_RESERVE_MIB": "1"}
OFF = ("--http", "127.0.0.1:0", "--syslog-udp", "", "--syslog-tcp", "", "--mqtt", "")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with island(tmp_path / "alder", environment=QUICK) as made:
        yield made


@pytest.fixture(scope="session")
def used_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("used") / "birch"
    with island(data, environment=QUICK) as made:
        send_udp(made.udp, b"<13>1 2026-11-21T05:40:26Z kestrel-1 fc - - - battery_pct=90")
        (source,) = eventually(lambda: made.call("GET", "/api/v1/sources")["sources"])
        made.adopt(source["key"], "kestrel-1")
    return data


@pytest.fixture
def used(used_once: Path, tmp_path: Path) -> Path:
    """A data folder that an appliance used and left in order."""
    return shutil.copytree(used_once, tmp_path / "birch")


def one_sentence(stderr: str) -> str:
    """What a person reads of a failure: one line, no traceback."""
    lines = [line for line in stderr.splitlines() if line.startswith("skerry: ")]
    assert "Traceback" not in stderr, stderr
    assert len(lines) == 1, stderr
    return lines[0].removeprefix("skerry: ")


def run(data: Path, *flags: str, **environment: str) -> tuple[int, str]:
    """`appliance run` that cannot start: its status and sentence."""
    ended = skerry("appliance", "run", "--data", str(data), *(flags or OFF), env={**os.environ, **QUICK, **environment})
    return ended.returncode, one_sentence(ended.stderr)


# -- help ---------------------------------------------------------------------------------------------------------


def commands(made: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    yield path, made.format_help()
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from commands(child, (*path, name))


HELP = dict(commands(parser()))


@pytest.mark.parametrize("path", [path for path in HELP if path], ids=" ".join)
def test_every_command_shows_an_example_that_is_a_command(path: tuple[str, ...]) -> None:
    example = re.search(r"example:\n  skerry (.*)", HELP[path])
    assert example, HELP[path]
    words = example[1].split(" | ")[0].split()
    assert tuple(words[: len(path)]) == path
    if "--help" not in words and words[:2] != ["sim", "devices"]:
        parser().parse_args(words)


def test_help_is_the_first_thing_a_stranger_gets() -> None:
    shown = skerry("--help")
    assert shown.returncode == 0
    assert "skerry demo" in shown.stdout
    for name in ("appliance", "doctor", "config", "journal", "token", "backup", "restore", "sim"):
        assert name in shown.stdout
    wrong = skerry("aplliance")
    assert wrong.returncode == 2
    assert "invalid choice" in wrong.stderr


def test_the_simulator_explains_itself_through_the_same_door() -> None:
    shown = skerry("sim", "devices", "--help")
    assert shown.returncode == 0
    assert "--devices" in shown.stdout


# -- configuration ------------------------------------------------------------------------------------------------


def test_config_check_prints_what_is_in_force_and_that_is_a_config(tmp_path: Path) -> None:
    first = skerry("config", "check", env={**os.environ, "SKERRY_SITE_NAME": "alder"})
    assert first.returncode == 0
    assert 'name = "alder"' in first.stdout
    (tmp_path / "said.toml").write_text(first.stdout)
    again = skerry("config", "check", "--config", str(tmp_path / "said.toml"))
    assert again.stdout == first.stdout


def test_an_unknown_key_is_explained_with_a_suggestion(tmp_path: Path) -> None:
    (tmp_path / "skerry.toml").write_text('[syslog]\nupd = "127.0.0.1:5514"\n')
    for command in (("config", "check"), ("appliance", "run", "--data", str(tmp_path / "alder"))):
        ended = skerry(*command, "--config", str(tmp_path / "skerry.toml"))
        assert ended.returncode == 2
        assert "did you mean 'udp'?" in one_sentence(ended.stderr)
    assert not (tmp_path / "alder").exists()


# -- an appliance that cannot start -------------------------------------------------------------------------------


def test_a_second_appliance_on_one_folder_is_told_who_has_it(site: Site) -> None:
    status, words = run(site.data)
    assert status == 1
    assert f"an appliance already runs on {site.data} (process {site.process.pid})" in words
    assert "another --data folder" in words
    assert site.call("GET", "/readyz")["ready"]


@pytest.mark.parametrize("intake", ["http", "syslog-udp", "syslog-tcp"])
def test_a_busy_port_is_named(tmp_path: Path, site: Site, intake: str) -> None:
    port = {"http": site.http, "syslog-udp": site.udp, "syslog-tcp": site.tcp}[intake]
    status, words = run(tmp_path / "birch", *OFF, f"--{intake}", f"127.0.0.1:{port}")
    assert status == 1
    assert words == (
        f"{intake} cannot listen on 127.0.0.1:{port}: another program already listens there;"
        " stop it or choose another port"
    )


def test_a_read_only_disk_is_named(tmp_path: Path) -> None:
    if os.getuid() != 0 or not shutil.which("unshare"):
        pytest.skip("only root may mount a read-only disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"mount -t tmpfs -o ro tmpfs {disk} && exec {sys.executable} {FRONT} appliance run --data {disk}/alder"
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{script} --http 127.0.0.1:0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "the disk is read-only" in one_sentence(ended.stderr)


@pytest.mark.parametrize("place", ["a file", "a path below a file"])
def test_a_data_folder_that_is_no_folder_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    data = tmp_path / "file" if place == "a file" else tmp_path / "file" / "alder"
    status, words = run(data)
    assert status == 1
    assert str(data) in words


@pytest.mark.parametrize("file", ["site.db", "keys/writer.pem"])
def test_a_damaged_file_is_named_and_never_overwritten(used: Path, file: str) -> None:
    (used / file).write_bytes(b"this is not what it was" * 500)
    status, words = run(used)
    assert status == 1
    assert Path(file).name in words
    assert "estore" in words, "the way out is a backup"
    assert (used / file).read_bytes() == b"this is not what it was" * 500


def test_a_file_of_a_newer_program_is_left_alone(used: Path) -> None:
    with sqlite3.connect(used / "site.db") as db:
        db.execute("UPDATE alembic_version SET version_num='9999'")
    db.close()
    status, words = run(used)
    assert status == 1
    assert "newer" in words


# -- doctor -------------------------------------------------------------------------------------------------------


def test_the_doctor_names_what_it_looked_at(tmp_path: Path) -> None:
    shown = skerry("doctor", "--data", str(tmp_path / "alder"))
    for word in ("Python 3.11", "SQLite", "wall clock", "ping", "can be written", "MiB free"):
        assert word in shown.stdout
    assert not (tmp_path / "alder").exists(), "it only looks"


def test_the_doctor_says_how_to_mend(tmp_path: Path) -> None:
    shown = skerry("doctor", "--data", str(tmp_path / "no" / "such" / "place" / "alder"))
    assert shown.returncode == 1
    assert f"mkdir -p {tmp_path / 'no' / 'such' / 'place'}" in shown.stdout


def test_the_doctor_looks_at_a_running_appliance_without_disturbing_it(site: Site) -> None:
    shown = skerry("doctor", "--data", str(site.data))
    assert f"an appliance already runs on {site.data}" in shown.stdout
    assert site.call("GET", "/readyz")["ready"]


def test_the_doctor_sees_a_damaged_folder(used: Path) -> None:
    (used / "site.db").write_bytes(b"this is not what it was" * 500)
    shown = skerry("doctor", "--data", str(used))
    assert shown.returncode == 1
    assert "Traceback" not in shown.stderr
    assert "site.db" in shown.stdout
    assert "skerry restore" in shown.stdout


# -- tokens, accounts ---------------------------------------------------------------------------------------------


def test_a_token_is_made_with_and_without_a_running_appliance(used: Path) -> None:
    asleep = skerry("token", "create", "--data", str(used), "--name", "asleep", "--role", "viewer")
    assert asleep.returncode == 0, asleep.stderr
    assert asleep.stderr == ""
    with island(used, environment=QUICK) as site:
        awake = skerry("token", "create", "--data", str(used), "--name", "awake")
        for made in (asleep, awake):
            with site.client(made.stdout.strip()) as client:
                assert client.get("/api/v1/nodes").status_code == 200
        again = skerry("token", "create", "--data", str(used), "--name", "awake")
        assert again.returncode == 1
        assert "revoke it first" in one_sentence(again.stderr)
        assert skerry("token", "revoke", "--data", str(used), "--name", "awake").returncode == 0
        with site.client(awake.stdout.strip()) as client:
            assert client.get("/api/v1/nodes").status_code == 401
    listed = skerry("token", "list", "--data", str(used)).stdout.splitlines()
    assert [line.split() for line in listed] == [["asleep", "viewer"], ["awake", "viewer", "revoked"]]


def test_a_token_for_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    ended = skerry("token", "create", "--data", str(tmp_path / "nowhere"), "--name", "x")
    assert ended.returncode == 1
    assert "start it with: skerry appliance run" in one_sentence(ended.stderr)
    assert not (tmp_path / "nowhere").exists()


def test_a_token_for_a_damaged_folder_is_refused_in_one_sentence(used: Path) -> None:
    (used / "site.db").write_bytes(b"this is not what it was" * 500)
    ended = skerry("token", "create", "--data", str(used), "--name", "x")
    assert ended.returncode == 1
    assert "site.db" in one_sentence(ended.stderr)


def test_a_link_signs_in_who_forgot_the_password(site: Site) -> None:
    link = re.search(r"/setup/\S+", site.said())
    assert link is not None
    with site.client() as client:
        fields = {"name": "alice", "password": cast.PASSWORD, "again": cast.PASSWORD}
        assert client.post(link[0], data=fields).status_code == 303
    made = skerry("account", "link", "--data", str(site.data), "--name", "alice")
    assert re.fullmatch(r"/enter/\S+\n", made.stdout), made.stderr
    with site.client() as client:
        assert client.get(made.stdout.strip()).status_code == 303
        assert client.get("/").status_code == 200
    with site.client() as client:
        assert client.get("/enter/enter_made-up").status_code == 403
    unknown = skerry("account", "link", "--data", str(site.data), "--name", "mallory")
    assert (unknown.returncode, "mallory" in one_sentence(unknown.stderr)) == (1, True)


def test_a_box_never_runs_on_the_folder_of_another_kind(used: Path, tmp_path: Path) -> None:
    ended = skerry("hub", "run", "--data", str(used), "--http", "127.0.0.1:0", "--link", "127.0.0.1:0")
    assert ended.returncode != 0
    assert "is the data folder of an appliance" in one_sentence(ended.stderr)


def test_the_set_up_link_makes_the_first_account(site: Site) -> None:
    link = re.search(r"make the first account at (http://\S+)", site.said())
    assert link
    with site.client() as client:
        assert client.get(link[1]).status_code == 200


# -- journal ------------------------------------------------------------------------------------------------------


def test_the_journal_is_shown_as_json_lines(used: Path) -> None:
    lines = [json.loads(line) for line in skerry("journal", "show", "--data", str(used)).stdout.splitlines()]
    kinds = [line["kind"] for line in lines]
    assert kinds[:2] == ["log.started", "appliance.started"]
    assert kinds[-1] == "appliance.stopped"
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    adopted = skerry("journal", "show", "--data", str(used), "--kind", "node.adopted", "--limit", "1").stdout
    assert json.loads(adopted)["body"]["name"] == "kestrel-1"
    after = skerry("journal", "show", "--data", str(used), "--after", "2", "--limit", "1").stdout
    assert json.loads(after)["position"] == 3


def test_the_journal_travels_in_a_file_and_is_checked_anywhere(used: Path, tmp_path: Path) -> None:
    file = tmp_path / "birch.skerry"
    exported = skerry("journal", "export", "--data", str(used), str(file))
    assert exported.returncode == 0, exported.stderr
    checked = skerry("journal", "verify", str(file))
    assert checked.returncode == 0, checked.stderr
    again = skerry("journal", "export", "--data", str(used), str(file))
    assert again.returncode == 1
    assert "already there" in again.stderr
    spoilt = bytearray(file.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    file.write_bytes(spoilt)
    bad = skerry("journal", "verify", str(file))
    assert bad.returncode == 1
    assert "Traceback" not in bad.stderr


def test_a_changed_event_is_found(used: Path) -> None:
    assert skerry("journal", "verify", str(used)).returncode == 0
    with sqlite3.connect(used / "site.db") as db:
        ((raw,),) = db.execute("SELECT raw FROM event WHERE kind='node.adopted'").fetchall()
        changed = raw.replace(b"kestrel-1", b"kestrel-2")
        db.execute("UPDATE event SET raw=? WHERE kind='node.adopted'", (changed,))
    db.close()
    assert changed != raw
    bad = skerry("journal", "verify", str(used))
    assert bad.returncode == 1
    assert "the journal does not hold" in bad.stderr
    assert "does not match its hash" in bad.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("journal", "verify", "{}"),
        ("journal", "show", "--data", "{}"),
        ("journal", "export", "--data", "{}", "{}.out"),
        ("backup", "--data", "{}", "{}.out"),
        ("restore", "{}", "--data", "{}.out"),
    ],
    ids=lambda one: " ".join(one[:2]),
)
@pytest.mark.parametrize("empty", [False, True])
def test_a_folder_that_is_no_appliance_s_is_said_in_one_line(
    tmp_path: Path, command: tuple[str, ...], empty: bool
) -> None:
    nowhere = tmp_path / "nowhere"
    if empty:
        nowhere.mkdir()
    ended = skerry(*(word.format(nowhere) for word in command))
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert str(nowhere) in ended.stderr
    assert [path for path in tmp_path.rglob("*") if path != nowhere] == []


def test_a_reader_that_hangs_up_early_is_no_error(used: Path) -> None:
    shown = subprocess.Popen(
        [sys.executable, str(FRONT), "journal", "show", "--data", str(used)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert shown.stdout is not None
    shown.stdout.close()
    assert shown.stderr is not None
    assert shown.stderr.read() == b""
    shown.stderr.close()
    shown.wait(30)


# -- backup, restore ----------------------------------------------------------------------------------------------


def test_a_running_appliance_is_copied_and_the_copy_starts_a_new_epoch(site: Site, tmp_path: Path) -> None:
    send_udp(site.udp, b"<13>1 2026-11-21T05:40:26Z kestrel-1 fc - - - battery_pct=90")
    (source,) = eventually(lambda: site.call("GET", "/api/v1/sources")["sources"])
    node_id = site.adopt(source["key"], "kestrel-1")
    made = skerry("backup", "--data", str(site.data), str(tmp_path / "stick"))
    assert made.returncode == 0, made.stderr
    again = skerry("backup", "--data", str(site.data), str(tmp_path / "stick"))
    assert again.returncode == 1
    assert "Traceback" not in again.stderr
    site.stop()
    restored = skerry("restore", str(tmp_path / "stick"), "--data", str(tmp_path / "birch"))
    assert restored.returncode == 0, restored.stderr
    over = skerry("restore", str(tmp_path / "stick"), "--data", str(site.data))
    assert over.returncode == 1, "a folder in use is not written over"
    with island(tmp_path / "birch", environment=QUICK) as copy:
        assert [node["id"] for node in copy.nodes()] == [node_id]
        assert len(copy.records()) == 1
        assert {event["epoch"] for event in copy.events()} == {1, 2}
        assert copy.events("log.started")[-1]["body"]["reason"] == "restored"
    assert skerry("journal", "verify", str(tmp_path / "birch")).returncode == 0


def test_a_port_that_is_free_again_is_used_at_once(tmp_path: Path) -> None:
    with island(tmp_path / "alder", environment=QUICK) as first:
        port = first.http
        with first.client() as client:
            client.get("/healthz")
    with island(tmp_path / "alder", "--http", f"127.0.0.1:{port}", environment=QUICK) as second:
        assert second.http == port
        with socket.create_connection(("127.0.0.1", port), 5):
            pass


def test_a_question_to_a_folder_at_rest_needs_no_port_that_somebody_may_have(used: Path) -> None:
    with contextlib.ExitStack() as taken:
        for port in (1883, 5514, 8080):
            with contextlib.suppress(OSError):  # somebody has it already, which will do
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
        listed = skerry("token", "list", "--data", str(used))
        assert (listed.returncode, listed.stderr) == (0, "")
