"""Ways in to hub harbor for sites that cannot have the usual one: over WebSocket alone, by the second address when the
first is shut, and over a NATS server that somebody else runs.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.island import free_port
from hub.broker import _program
from store.certificates import ensure_server_certificate
from tests.cast import eventually, skerry
from tests.mainland import Box, join

pytestmark = pytest.mark.timeout(180)

KESTREL = {"source": "syslog/10.0.0.7/kestrel", "name": "kestrel", "kind": "EDGE", "tags": ["drone"]}
NAMES = ("kestrel", "merlin", "hobby")


@contextlib.contextmanager
def running(*boxes: Box) -> Iterator[None]:
    """Started, and gone afterwards, with what they started."""
    try:
        for box in boxes:
            box.start()
        yield
    finally:
        for box in boxes:
            box.stop()


def hub_at(root: Path, **environment: str) -> Box:
    flags = ("--http", f"127.0.0.1:{free_port()}")
    return Box(root / "harbor", "hub", "harbor", *flags, environment=environment)


def alder_at(root: Path) -> Box:
    ports = ("--http", "--syslog-udp", "--syslog-tcp", "--mqtt")
    flags = [word for flag in ports for word in (flag, f"127.0.0.1:{free_port()}")]
    return Box(root / "alder", "appliance", "alder", *flags, environment={"SKERRY_PING_ENABLED": "false"})


def is_live(hub: Box, site: Box) -> bool:
    return hub.site("alder").get("mode") == "LIVE" and site.link()["state"] == "LIVE"


def adopt(site: Box, name: str) -> None:
    site.call("POST", "/api/v1/adopt", {**KESTREL, "source": f"syslog/10.0.0.7/{name}", "name": name})


def syncs(hub: Box, site: Box, name: str) -> None:
    """What is written at the site now is at the hub, event by event, and both are level."""
    adopt(site, name)
    writer = site.writer()
    eventually(lambda: site.log_of(writer) == hub.log_of(writer) != [])
    eventually(lambda: is_live(hub, site))


def the_page_says(site: Box) -> str:
    (link,) = site.call("GET", "/links")["links"]
    return str(link["address"])


# -- WebSocket ---------------------------------------------------------------------------------------------------


@pytest.fixture
def web(tmp_path: Path) -> tuple[Box, Box, str, str]:
    """hub, alder, and the hub's two addresses."""
    tcp, web = free_port(), free_port()
    hub = hub_at(tmp_path, SKERRY_LINK_LISTEN=f"127.0.0.1:{tcp}", SKERRY_LINK_WEBSOCKET_LISTEN=f"127.0.0.1:{web}")
    return hub, alder_at(tmp_path), f"tls://127.0.0.1:{tcp}", f"wss://127.0.0.1:{web}"


def test_a_site_that_may_only_speak_websocket_syncs_and_comes_back(web: tuple[Box, Box, str, str]) -> None:
    hub, alder, tcp, wss = web
    with running(hub, alder):
        made = hub.call("POST", "/console/invite", {"name": "alder"})
        assert made["url"] == [tcp, wss]
        assert "BEGIN CERTIFICATE" in made["ca"], "the hub's own authority is what the site believes, and no other"
        join(hub, alder, wss)
        syncs(hub, alder, "kestrel")
        assert the_page_says(alder) == wss
        hub.kill()
        adopt(alder, "merlin")
        eventually(lambda: not alder.link()["up"])
        hub.start()
        syncs(hub, alder, "hobby")
        alder.kill()
        alder.start()
        syncs(hub, alder, "harrier")
        assert alder.link()["url"] == wss
        assert skerry("link", "show", "--data", str(alder.data)).stdout.splitlines()[0] == f"hub        harbor at {wss}"
    assert "Unclosed" not in alder.said()
    assert "Traceback" not in alder.said() + hub.said()


def test_where_a_firewall_shuts_the_first_address_a_site_takes_the_next(web: tuple[Box, Box, str, str]) -> None:
    hub, alder, _, wss = web
    shut = f"tls://127.0.0.1:{free_port()}"
    with running(hub, alder):
        join(hub, alder, shut, wss)
        syncs(hub, alder, "kestrel")
        assert the_page_says(alder) == wss
        said = skerry("link", "show", "--data", str(alder.data)).stdout
        assert f"harbor at {wss}\n" in said
        assert f"else {shut}\n" in said


def test_the_command_line_names_addresses_in_the_order_in_which_they_are_tried(
    web: tuple[Box, Box, str, str], tmp_path: Path
) -> None:
    hub, alder, tcp, wss = web
    with running(hub, alder):
        to = tmp_path / "alder.link"
        asked = ("--url", wss, "--url", tcp, "--to", str(to))
        assert skerry("hub", "invite", "alder", "--data", str(hub.data), *asked).returncode == 0
        assert json.loads(to.read_text())["url"] == [wss, tcp]
        said = skerry("link", "join", str(to), "--data", str(alder.data)).stdout
        assert said == f"this site is alder to the hub harbor at {wss} or {tcp}\n"
        syncs(hub, alder, "kestrel")
        assert alder.link()["url"] == wss
        refused = skerry("hub", "invite", "birch", "--data", str(hub.data), "--url", "https://harbor.example")
        assert refused.returncode == 1
        assert "is no address of a line; write tls://HOST:PORT" in refused.stderr


# -- a NATS server that somebody else runs -----------------------------------------------------------------------


class Nats:
    """Bob's: TLS by a certificate of his own authority, and an account that he enters as the hub printed it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, f"tls://127.0.0.1:{free_port()}"
        made = ensure_server_certificate(folder / "pki", ["127.0.0.1"], 0)
        self.ca = made.ca
        (folder / "nats.conf").write_text(
            f"""
            listen: "{self.url.removeprefix("tls://")}"
            tls {{ cert_file: "{made.certificate}", key_file: "{made.key}", handshake_first: true }}
            jetstream {{ store_dir: "{folder / "store"}", max_file: 256M }}
            include "skerry.conf"
            """
        )
        self.process: subprocess.Popen[bytes] | None = None

    def enter(self, configuration: str) -> None:
        (self.folder / "skerry.conf").write_text(configuration)
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([_program(), "-c", str(self.folder / "nats.conf")], stderr=log)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    made = Nats(tmp_path)
    yield made
    made.kill()


def test_sites_sync_over_a_nats_server_that_somebody_else_runs(tmp_path: Path, nats: Nats) -> None:
    file = tmp_path / "hub.toml"
    file.write_text(
        f'[link]\nurl = "{nats.url}"\nuser = "skerry"\npassword = "Bob knows it too"\nca = "{nats.ca}"\n'
        "[limits]\nstream_mib_max = 64\n"
    )
    checked = skerry("config", "check", "--hub", "--config", str(file))
    assert checked.returncode == 0
    assert f'url = "{nats.url}"' in checked.stdout
    assert "Bob knows" not in checked.stdout
    hub = Box(tmp_path / "harbor", "hub", "harbor", "--http", f"127.0.0.1:{free_port()}", "--config", str(file))
    alder = alder_at(tmp_path)
    with running(hub, alder):
        eventually(lambda: "nobody listens there" in line_of(hub)["problem"])
        nats.enter(skerry("hub", "nats", "--data", str(hub.data)).stdout)
        nats.start()
        eventually(lambda: line_of(hub) == {"url": nats.url, "up": True, "problem": ""})
        assert skerry("link", "show", "--data", str(hub.data)).stdout == f"sites meet at {nats.url}\n"

        to = tmp_path / "alder.link"
        said = skerry("hub", "invite", "alder", "--data", str(hub.data), "--to", str(to)).stdout
        entry = json.loads(said.splitlines()[-1])
        made = json.loads(to.read_text())
        assert made["url"] == [nats.url]
        assert made["ca"] == nats.ca.read_text()
        assert made["password"] not in said
        assert entry["permissions"]["publish"] == [f"sk.default.up.{made['link']}.>"]

        skerry("link", "join", str(to), "--data", str(alder.data))
        eventually(lambda: "does not know this name and password" in alder.link()["problem"])
        nats.enter(skerry("hub", "nats", "--data", str(hub.data)).stdout)
        syncs(hub, alder, "kestrel")
        assert skerry("link", "show", "--data", str(hub.data)).stdout.splitlines()[1:] == ["alder      LIVE"]

        nats.kill()
        adopt(alder, "merlin")
        eventually(lambda: not alder.link()["up"] and not line_of(hub)["up"])
        nats.start()
        syncs(hub, alder, "hobby")
        hub.kill()
        adopt(alder, "harrier")
        hub.start()
        syncs(hub, alder, "osprey")
        assert "nats-server" not in children(hub)
        assert "Traceback" not in hub.said() + alder.said()


def line_of(hub: Box) -> dict[str, Any]:
    found: dict[str, Any] = hub.call("GET", "/console/links")["line"]
    return found


def children(hub: Box) -> list[str]:
    assert hub.process is not None
    return [one.name() for one in psutil.Process(hub.process.pid).children()]


def test_a_hub_with_a_server_of_its_own_has_nothing_to_enter_anywhere(web: tuple[Box, Box, str, str]) -> None:
    hub = web[0]
    with running(hub):
        said = skerry("hub", "nats", "--data", str(hub.data))
        assert (said.returncode, said.stdout) == (1, "")
        assert "nothing has to be entered anywhere" in said.stderr
