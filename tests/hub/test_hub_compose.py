"""The hub as a running box: its first start, its pages and its console, its end; and its configuration."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from fleet import events
from fleet.people import Identity, Role
from hub.compose import Hub
from hub.config import Config, ConfigProblem, Http, keys, load
from store.control import call
from store.folder import FolderTaken
from store.ports import ListenProblem
from tests.hub.sites import ALDER, BIRCH, CEDAR, HARBOR, filled, present
from web.ports import AttentionQuery

ALICE = Identity(name="alice", role=Role.ADMIN)


@pytest.fixture
async def harbor(tmp_path: Path) -> AsyncIterator[Hub]:
    hub = Hub(tmp_path / "harbor", HARBOR)
    await hub.start()
    yield hub
    await hub.stop()


async def token_of(hub: Hub) -> str:
    return await hub.accounts.create_token(ALICE, "tests", Role.ADMIN)


async def client_of(hub: Hub) -> httpx2.AsyncClient:
    headers = {"authorization": f"Bearer {await token_of(hub)}"}
    return httpx2.AsyncClient(base_url=f"http://{hub.addresses['http']}", headers=headers, trust_env=False)


async def test_every_page_of_the_hub_is_there_before_a_site_is(harbor: Hub) -> None:
    assert harbor.setup_path is not None
    async with await client_of(harbor) as client:
        assert "No site yet. Invite one." in (await client.get("/")).text
        for path in ("/links", "/quarantine", "/journal", "/journal/verify", "/account", "/metrics", "/readyz"):
            assert (await client.get(path)).status_code == 200, path
        assert (await client.get("/intake")).status_code == 404
        assert (await client.get(harbor.setup_path)).status_code == 200


async def test_the_pages_show_the_fleet(harbor: Hub) -> None:
    filled(harbor.fleet, harbor.ground.clock.now_ns())
    async with await client_of(harbor) as client:
        text = (await client.get("/")).text
        assert "<title>10 of 24 live" in text
        assert "<b>cedar</b> 6 nodes, unknown" in text
        assert '<td data-k="Site">birch</td>' in text
        assert (await client.get("/?site=birch")).text.count('id="n-') == 6
        text = (await client.get("/links")).text
        assert [text.index(name) for name in (">elm<", ">birch<", ">cedar<", ">alder<")] == sorted(
            text.index(name) for name in (">elm<", ">birch<", ">cedar<", ">alder<")
        )
        assert "2 intentional drops; signed by both" in (await client.get(f"/links/{ALDER}")).text
        assert "not yet signed by birch; signed by harbor" in (await client.get(f"/links/{BIRCH}")).text
        assert "Cut off" in (await client.get(f"/links/{CEDAR}")).text
        node = present(2, 3, 1)
        text = (await client.get(f"/nodes/{node.node_id}")).text
        assert "as cedar told it" in text
        assert "cedar is not heard" in text
        assert 'href="/?site=cedar"' in text


async def test_what_needs_a_person_began_when_it_did_and_not_when_somebody_looked(harbor: Hub) -> None:
    harbor.quarantine.put("link", "alder", "these bytes are no message", b"?")
    while not harbor.box._queue._since:
        await asyncio.sleep(0.05)
    looked_ns = harbor.ground.clock.now_ns()
    (item,) = (await harbor.box.attention(ALICE, AttentionQuery())).items
    assert item.since_ns < looked_ns


async def test_the_console_is_the_file_in_the_folder(harbor: Hub) -> None:
    answer = await asyncio.to_thread(call, harbor.folder.control, "GET", "/api/v1/me")
    assert (answer["name"], answer["via"]) == ("console", "console")
    assert harbor.folder.control.stat().st_mode & 0o777 == 0o600


async def test_a_hub_remembers_who_it_is_and_says_how_it_ended(tmp_path: Path) -> None:
    writers, kinds = set(), []
    for _ in range(2):
        hub = Hub(tmp_path / "harbor", HARBOR)
        await hub.start()
        writers.add(hub.ground.identity.log.writer)
        kinds = [event.kind for event in await hub.box.events(ALICE, 0, 100)]
        await hub.stop()
    assert len(writers) == 1
    assert [kind for kind in kinds if kind.startswith(("log.", "appliance."))] == [
        "log.started",
        "appliance.started",
        "appliance.stopped",
        "appliance.started",
    ]


async def test_a_folder_has_one_hub_and_a_port_one_server(harbor: Hub, tmp_path: Path) -> None:
    with pytest.raises(FolderTaken):
        await Hub(harbor.folder.root, HARBOR).start()
    port = harbor.addresses["http"].rpartition(":")[2]
    other = Hub(tmp_path / "other", Config(http=Http(listen=f"127.0.0.1:{port}"), link=HARBOR.link))
    with pytest.raises(ListenProblem, match=rf"http cannot listen on 127\.0\.0\.1:{port}: another program already"):
        await other.start()
    again = Hub(tmp_path / "other", HARBOR)  # what was opened is closed again
    await again.start()
    await again.stop()


def test_without_anything_said_the_defaults_are_in_force() -> None:
    assert load(None, {}, {}) == Config()
    assert ("link", "websocket_listen", str) in keys()


def test_a_flag_goes_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "hub.toml"
    file.write_text('[http]\nlisten = "127.0.0.1:1"\n[hub]\nname = "mainland"\n[limits]\nsites_max = 7')
    environment = {"SKERRY_HTTP_LISTEN": "127.0.0.1:2", "SKERRY_LINK_TLS": "false", "SKERRY_LIMITS_SITES_MAX": "9"}
    config = load(file, environment, {"http.listen": "127.0.0.1:3", "hub.name": None})
    assert (config.http.listen, config.hub.name, config.link.tls) == ("127.0.0.1:3", "mainland", False)
    assert config.limits.sites_max == 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[hub]\nnmae = "x"', "[hub] has no key 'nmae'; did you mean 'name'?"),
        ('[hubs]\nname = "x"', "there is no section [hubs]; did you mean 'hub'?"),
        ("link = 5", "link is a section; write [link] and its keys below it"),
        ('[link]\nlisten = "4222"', "link.listen is '4222'; write HOST:PORT"),
        ('[link]\nwebsocket_listen = "x:y"', "link.websocket_listen is 'x:y'; write HOST:PORT"),
        ('[link]\ncertificate = "a.pem"', "link.certificate and link.key belong together"),
        (
            '[link]\nurl = "nats.example"\nuser = "a"\npassword = "b"',
            "link.url: 'nats.example' is no address of a line",
        ),
        ('[link]\nurl = "tls://a:b@nats.example:1"', "an address of a line holds no name or password"),
        ('[link]\nurl = "tls://nats.example:4222"\nuser = "a"', "say link.user and link.password"),
        ('[link]\nuser = "a"', "are for a NATS server that you name in link.url"),
        ('[link]\nca = "ca.pem"', "link.ca is who signed link.certificate, or that of the server at link.url"),
        (
            '[link]\nurl = "tls://n:1"\nuser = "a"\npassword = "b"\nwebsocket_listen = "0.0.0.0:443"',
            "link.websocket_listen is for a NATS server of the hub's own; with link.url leave it out",
        ),
        ("[limits]\nsites_max = 0", "limits.sites_max is 0; it must be between 1 and 5000"),
        ('[hub]\nname = ""', "hub.name must have 1 to 64 characters"),
        ("[hub", "it is not TOML"),
        ('[link]\ntls = "yes"', "Expected `bool`, got `str` - at `$.link.tls`"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "hub.toml"
    file.write_text(text)
    with pytest.raises(ConfigProblem) as caught:
        load(file, {}, {})
    assert words in str(caught.value)


def test_the_page_of_the_configuration_lists_every_key_with_its_default() -> None:
    text = (Path(__file__).parents[2] / "docs" / "config-hub.md").read_text()
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| `(.*?)` \| .+? \| `(\w+)` \|", text, re.MULTILINE)
    config = Config()
    assert rows == [
        (section, key, json.dumps(getattr(getattr(config, section), key)), f"SKERRY_{section}_{key}".upper())
        for section, key, _ in keys()
    ]


async def test_the_journal_says_whose_log_a_line_is_of(harbor: Hub) -> None:
    filled(harbor.fleet, harbor.ground.clock.now_ns())
    said = events.SiteQuarantined("birch", ("its log has forked",))
    await harbor.ground.writer.write(lambda db: harbor.ground.journal.stage(BIRCH, said))
    async with await client_of(harbor) as client:
        text = (await client.get("/journal")).text
        assert f'<a href="/links/{BIRCH}">birch</a>' in text
        assert "log of harbor" in text
