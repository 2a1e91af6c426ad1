"""How sites find hub harbor: what stands in a link file, and a NATS server that somebody else runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from nats.aio.client import Client

from bench.island import free_port
from fleet.people import Identity, Refused, Role
from hub.broker import Admission, BrokerProblem, _program
from hub.compose import Hub
from hub.config import Config, Http, Limits, Link
from hub.external import COST_OF_SITES, External, hashed
from hub.lines import Lines
from store import link_file
from store.certificates import ensure_server_certificate
from store.keys import new_secret
from store.link_file import LinkFile, LinkProblem
from sync.jetstream import HubEnd, SiteEnd
from sync.link import Parcel
from sync.messages import Lane
from tests.contracts.rigs import ALDER, BIRCH, TENANT, until

ALICE = Identity(name="alice", role=Role.ADMIN)
ADMITTED = Admission(TENANT, ALDER, new_secret("sks"))
ME = ("harbor", "01HARBOR", b"\x01" * 32, b"\x02" * 32)
MIB = 1024 * 1024


@contextlib.asynccontextmanager
async def harbor(folder: Path, link: Link) -> AsyncIterator[Lines]:
    hub = Hub(folder, Config(http=Http(listen="127.0.0.1:0"), link=link))
    await hub.start()
    try:
        yield hub.landing.lines
    finally:
        await hub.stop()


# -- link files --------------------------------------------------------------------------------------------------


async def test_a_link_file_names_every_way_in_by_the_name_that_sites_know(tmp_path: Path) -> None:
    way = Link(listen="127.0.0.1:0", websocket_listen="127.0.0.1:0", hosts="harbor.example, 10.0.0.5")
    async with harbor(tmp_path, way) as lines:
        tcp, web = (await lines.invite("alice", "alder", (), ME)).urls
        assert re.fullmatch(r"tls://harbor\.example:\d+", tcp)
        assert re.fullmatch(r"wss://harbor\.example:\d+", web)
        asked = ("wss://10.0.0.5", "tls://harbor.example:7")
        assert (await lines.invite("alice", "birch", asked, ME)).urls == asked


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        (("tls://mallory.example:4222",), "no site would believe mallory.example: the hub's certificate is for harbor"),
        (("https://harbor.example",), "is no address of a line; write tls://HOST:PORT"),
        (("tls://alder:secret@harbor.example:1",), "an address of a line holds no name or password"),
        (("tls://harbor.example:99999",), "is no address of a line"),
        (("wss://harbor.example",) * 9, "names 8 addresses at most"),
    ],
)
async def test_an_address_by_which_no_site_comes_in_is_refused_before_anybody_travels(
    tmp_path: Path, urls: tuple[str, ...], words: str
) -> None:
    async with harbor(tmp_path, Link(listen="127.0.0.1:0", hosts="harbor.example")) as lines:
        with pytest.raises(Refused, match=words) as refused:
            await lines.invite("alice", "alder", urls, ME)
        assert "secret" not in str(refused.value)


async def test_a_hub_that_listens_everywhere_asks_by_which_name_it_is_known(tmp_path: Path) -> None:
    async with harbor(tmp_path, Link(listen="0.0.0.0:0")) as lines:
        with pytest.raises(Refused, match=r"knows none of its names; say link\.hosts"):
            await lines.invite("alice", "alder", (), ME)


async def test_a_second_invitation_makes_the_first_void_at_once(tmp_path: Path) -> None:
    async with harbor(tmp_path, Link(listen="127.0.0.1:0", tls=False)) as lines:
        first, second = [await lines.invite("alice", "alder", (), ME) for _ in range(2)]
        ends = [SiteEnd(one.urls, one.tenant, one.link, one.password) for one in (first, second)]
        for end in ends:
            await end.open()
        await until(lambda: ends[1].up and "does not know this name" in ends[0].problem)
        for end in ends:
            await end.close()


def file_of(**changes: object) -> bytes:
    words: dict[str, object] = {"kind": "skerry link", "tenant": "default", "site": "alder", "hub": "harbor"}
    words |= {"hub_writer": "01HARBOR", "hub_key": "ab" * 32, "link": "1", "password": "p", "secret": "00"}
    return json.dumps(words | changes).encode()


def test_a_link_file_of_the_first_version_is_still_read() -> None:
    assert link_file.parse(file_of(version=1, url="tls://127.0.0.1:4222")).urls == ("tls://127.0.0.1:4222",)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ([], "names 0 addresses of the hub; it must be 1 to 8"),
        (["tls://a:1"] * 9, "names 9 addresses"),
        (["tls://a:1", "harbor"], "'harbor' is no address of a line"),
        (["tls://[::1"], "is no address of a line"),
        (5, "is no link file"),
    ],
)
def test_a_link_file_whose_addresses_make_no_sense_is_refused(url: object, words: str) -> None:
    with pytest.raises(LinkProblem, match=re.escape(words)):
        link_file.parse(file_of(url=url))


def test_a_link_file_is_written_and_read_as_it_was(tmp_path: Path) -> None:
    made = link_file.parse(file_of(version=2, url=["tls://a:1", "wss://a"]))
    link_file.write(tmp_path / "alder.link", made)
    again = link_file.read(tmp_path / "alder.link")
    assert isinstance(again, LinkFile)
    assert again.urls == ("tls://a:1", "wss://a")


# -- a certificate of one's own ----------------------------------------------------------------------------------


async def test_a_hub_with_a_certificate_of_its_own_reaches_its_own_server(tmp_path: Path) -> None:
    made = ensure_server_certificate(tmp_path / "pki", ["harbor.example"], 0)
    files = {"certificate": str(made.certificate), "key": str(made.key), "ca": str(made.ca)}
    async with harbor(tmp_path / "hub", Link(listen="127.0.0.1:0", hosts="harbor.example", **files)) as lines:
        await until(lambda: lines.shown()["up"] is True)
        file = await lines.invite("alice", "alder", (), ME)
        assert file.ca == made.ca.read_text()
        assert file.urls[0].startswith("tls://harbor.example:")


# -- a NATS server that somebody else runs -----------------------------------------------------------------------


class Foreign:
    """nats-server with a configuration that its operator wrote; `reload` after it was changed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, accounts: str, jetstream: str = "max_file: 1G") -> None:
        self.folder.mkdir(exist_ok=True)
        store = f'jetstream {{ store_dir: "{self.folder / "store"}", {jetstream} }}\n' if jetstream else ""
        (self.folder / "nats.conf").write_text(f'listen: "127.0.0.1:{self.port}"\n{store}include "skerry.conf"\n')
        (self.folder / "skerry.conf").write_text(accounts)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [_program(), "-c", str(self.folder / "nats.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def reload(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Foreign]:
    made = Foreign(tmp_path / "nats")
    yield made
    made.stop()


def account(foreign: Foreign, *sites: Admission, room_mib: int = 64) -> tuple[External, str]:
    link = Link(url=foreign.url, user="skerry", password="an operator's password")
    made = External(link, "harbor", room_mib)
    return made, made.configuration({TENANT: {one.writer: made.site_entry(one) for one in sites}})


@contextlib.asynccontextmanager
async def hub_end(server: External, stream_bytes_max: int = 32 * MIB) -> AsyncIterator[HubEnd]:
    end = HubEnd([server.url], TENANT, server.user, server.password, stream_bytes_max=stream_bytes_max, probe_s=0.1)
    await end.open()
    try:
        yield end
    finally:
        await end.close()


async def test_with_what_was_entered_the_hub_and_its_sites_may_do_all_they_need(foreign: Foreign) -> None:
    server, configuration = account(foreign, ADMITTED)
    assert ADMITTED.password not in configuration
    assert server.password not in configuration
    foreign.write(configuration)
    foreign.start()
    alder = SiteEnd([foreign.url], *ADMITTED)
    await alder.open()
    async with hub_end(server) as hub:
        await until(lambda: hub.up and alder.up)
        for round_ in range(2):
            for lane in Lane:
                await alder.send(Parcel(ALDER, lane, b"here"))
                assert await hub.receive() == Parcel(ALDER, lane, b"here")
                await hub.send(Parcel(ALDER, lane, b"there"))
                assert await alder.receive() == Parcel(ALDER, lane, b"there")
            await asyncio.sleep(0.3)  # a probe or two
            assert hub.problem == ""
            if not round_:
                foreign.stop()
                await until(lambda: not hub.up and not alder.up)
                await until(lambda: "nobody listens there" in alder.problem)
                foreign.start()
                await until(lambda: hub.up and alder.up)
    await alder.close()


async def test_a_sites_rights_end_at_its_own_subjects_and_the_hubs_at_its_own_streams(foreign: Foreign) -> None:
    server, configuration = account(foreign, ADMITTED)
    foreign.write(configuration)
    foreign.start()
    said: list[str] = []

    async def refused(error: Exception) -> None:
        said.append(str(error))

    async with hub_end(server) as hub:
        await until(lambda: hub.up)
        for user, password, subjects in (
            (f"{TENANT}.{ALDER}", ADMITTED.password, (f"sk.{TENANT}.up.{BIRCH}.log", "$JS.API.STREAM.LIST")),
            (server.user, server.password, ("$JS.API.STREAM.DELETE.ORDERS", "orders.new", "sk.other.down.x.log")),
        ):
            client = Client()
            await client.connect(foreign.url, user=user, password=password, error_cb=refused)
            for subject in subjects:
                await client.publish(subject, b"")
            await client.flush()
            await until(lambda: len(said) == len(subjects))  # noqa: B023
            said.clear()
            await client.close()


async def test_more_room_for_what_waits_is_given_to_streams_that_are_there(foreign: Foreign) -> None:
    server, configuration = account(foreign)
    foreign.write(configuration)
    foreign.start()
    for size in (8 * MIB, 32 * MIB, 16 * MIB):
        async with hub_end(server, size) as hub:
            await until(lambda: hub.up)
            client = Client()
            await client.connect(
                foreign.url, user=server.user, password=server.password, inbox_prefix="_INBOX_skerry.fleet"
            )
            while True:
                with contextlib.suppress(Exception):
                    info = await client.jetstream().stream_info("LOG_fleet")
                    if info.config.max_bytes == size:
                        break
                await asyncio.sleep(0.02)
            await client.close()
            assert hub.problem == ""


def without_jetstream(text: str) -> str:
    return text.replace("jetstream: enabled", "")


def with_less(text: str) -> str:
    return text.replace("jetstream: enabled", "jetstream: {max_file: 10M}")


def without_rights(text: str) -> str:
    return text.replace("$JS.API.", "$JS.NONE.")


def another_password(text: str) -> str:
    return re.sub(r'"\$2b[^"]*"', '"other"', text)


@pytest.mark.parametrize(
    ("jetstream", "change", "words"),
    [
        (
            "",
            without_jetstream,
            "JetStream is not on at the NATS server for skerry; whoever runs it writes jetstream {}",
        ),
        ("max_file: 1G", without_jetstream, "and jetstream: enabled in the account"),
        ("max_file: 10M", str, "too little room for our streams: 64 MiB are wanted; raise max_file"),
        ("max_file: 1G", with_less, "too little room for our streams"),
        ("max_file: 1G", without_rights, "the NATS server forbids skerry what it needs (permissions violation"),
        ("max_file: 1G", another_password, "does not know this name and password"),
    ],
)
async def test_what_is_missing_there_is_said_and_heals_when_it_is_mended(
    foreign: Foreign, jetstream: str, change: Callable[[str], str], words: str
) -> None:
    server, configuration = account(foreign)
    foreign.write(change(configuration), jetstream)
    foreign.start()
    async with hub_end(server) as hub:
        await until(lambda: words in hub.problem)
        foreign.stop()
        foreign.write(configuration)
        foreign.start()
        await until(lambda: hub.up and not hub.problem)


async def test_a_server_that_is_not_there_is_said(foreign: Foreign) -> None:
    async with hub_end(account(foreign)[0]) as hub:
        await until(lambda: "nobody listens there" in hub.problem)
        assert not hub.up


async def test_the_pages_of_the_hub_say_that_no_site_can_come_in_and_why(foreign: Foreign, tmp_path: Path) -> None:
    link = Link(url=foreign.url, user="skerry", password="secret of the hub")
    hub = Hub(tmp_path / "harbor", Config(http=Http(listen="127.0.0.1:0"), link=link, limits=Limits(stream_mib_max=64)))
    await hub.start()
    try:
        await until(lambda: "nobody listens there" in hub.landing.lines.problem)
        shown = await hub.box.links(ALICE)
        assert shown.problem.startswith(f"{foreign.url}: nobody listens there")
        assert hub.addresses["link"] == foreign.url
        foreign.write(hub.landing.lines.to_enter()[0])
        foreign.start()
        await until(lambda: hub.landing.lines.problem == "")
        assert (await hub.box.links(ALICE)).problem == ""
    finally:
        await hub.stop()


async def test_a_file_of_an_authority_that_is_not_there_is_said(tmp_path: Path) -> None:
    link = Link(url="tls://nats.example:4222", user="skerry", password="p", ca=str(tmp_path / "ca.pem"))
    with pytest.raises(BrokerProblem, match=r"link\.ca: .*ca\.pem cannot be read"):
        async with harbor(tmp_path / "harbor", link):
            pass


def test_a_password_leaves_as_a_hash_that_differs_each_time() -> None:
    first, second = hashed("secret", COST_OF_SITES), hashed("secret", COST_OF_SITES)
    assert first != second
    assert re.fullmatch(r"\$2b\$04\$[./A-Za-z0-9]{53}", first)
