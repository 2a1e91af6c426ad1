"""Whether install.sh writes what the real rsyslogd accepts and does, once, and nothing for an address that is none."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from appliance.intake import syslog
from bench.island import free_port

SCRIPT = Path(__file__).parents[2] / "firmware-hooks" / "install.sh"
RECEIVED_NS = 1_795_253_400_000_000_000

needs_rsyslog = pytest.mark.skipif(shutil.which("rsyslogd") is None, reason="rsyslogd is not installed")


def install(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False)


def image(folder: Path, *files: str) -> Path:
    """A system under construction with these files in it."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("")
        (folder / file).chmod(0o755)
    return folder


@needs_rsyslog
@pytest.mark.parametrize("arguments", [["192.0.2.10:5514"], ["--udp", "[fd00::1]:514"], ["alder.example:6514"]])
def test_rsyslog_accepts_the_configuration(tmp_path: Path, arguments: list[str]) -> None:
    conf = tmp_path / "90-skerry.conf"
    conf.write_text(install("--print", *arguments).stdout)
    check = subprocess.run(["rsyslogd", "-N1", "-f", str(conf)], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stderr
    assert "error" not in check.stderr.lower()


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    root = image(tmp_path, "usr/sbin/rsyslogd")
    first = install("--root", root, "192.0.2.10:5514")
    conf = root / "etc/rsyslog.d/90-skerry.conf"
    written = conf.read_text()
    second = install("--root", root, "192.0.2.10:5514")
    assert "wrote" in first.stdout
    assert "already so" in second.stdout
    assert conf.read_text() == written
    assert [file.name for file in conf.parent.iterdir()] == ["90-skerry.conf"]


def test_another_address_takes_the_place_of_the_first(tmp_path: Path) -> None:
    root = image(tmp_path, "usr/sbin/rsyslogd")
    install("--root", root, "192.0.2.10:5514")
    install("--root", root, "192.0.2.20:5514")
    conf = (root / "etc/rsyslog.d/90-skerry.conf").read_text()
    assert 'target="192.0.2.20"' in conf
    assert "192.0.2.10" not in conf


@pytest.mark.parametrize(
    ("file", "variable"),
    [
        ("etc/conf.d/syslog", "SYSLOGD_OPTS"),
        ("etc/default/busybox-syslogd", "SYSLOG_OPTS"),
        ("etc/default/syslogd", "SYSLOGD_ARGS"),
    ],
)
def test_busybox_gets_its_options_where_the_system_keeps_them(tmp_path: Path, file: str, variable: str) -> None:
    root = image(tmp_path, file)
    (root / file).write_text("KEPT=yes\n")
    install("--root", root, "192.0.2.10:514")
    install("--root", root, "[fd00::1]:514")
    assert (root / file).read_text() == f'KEPT=yes\n{variable}="-L -R [fd00::1]:514" # skerry\n'


def test_without_any_syslog_it_says_what_to_start(tmp_path: Path) -> None:
    answer = install("--root", tmp_path, "192.0.2.10:514")
    assert answer.returncode == 2
    assert "syslogd -L -R 192.0.2.10:514" in answer.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "address", ["", "alder", "alder:", ":514", "alder:0", "alder:65536", "fd00::1:514", 'x" a="b:514', "$(id):514"]
)
def test_what_is_no_address_is_refused(tmp_path: Path, address: str) -> None:
    answer = install("--root", tmp_path, address)
    assert answer.returncode == 2
    assert answer.stderr.startswith("install.sh: ")
    assert list(tmp_path.iterdir()) == []


@needs_rsyslog
async def test_what_is_logged_on_the_device_arrives_under_its_name(tmp_path: Path) -> None:
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int((await reader.readuntil(b" ")).strip())
        arrived.set_result(await reader.readexactly(length))
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    here = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    local = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        forward = install("--print", here).stdout.replace("/var/spool/rsyslog", str(tmp_path))
        conf = tmp_path / "rsyslog.conf"
        conf.write_text(f'module(load="imudp")\ninput(type="imudp" address="127.0.0.1" port="{local}")\n{forward}')
        daemon = await asyncio.create_subprocess_exec("rsyslogd", "-n", "-f", conf, "-i", tmp_path / "pid")
        while not arrived.done():  # until rsyslogd has its port open, what is sent is lost
            device.sendto(b"<13>Nov 21 09:30:00 drone-03 agent: batt=87.5 fw=2.4.1", ("127.0.0.1", local))
            await asyncio.wait([arrived], timeout=0.1)
        daemon.terminate()
        await daemon.wait()
    server.close()
    await server.wait_closed()
    raw = arrived.result()
    assert b">1 " in raw
    reading = syslog.parse(raw, received_ns=RECEIVED_NS)
    assert (reading.name, reading.version, reading.metrics) == ("drone-03", "2.4.1", {"battery_pct": 87.5})
