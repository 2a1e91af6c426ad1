"""Several tenants at one hub, by the command line, over the wire, on a stick and in a backup: one listener and one broker,
and nothing of one at another. A hub that had one tenant has it still.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from nats.aio.client import Client

from hub.rebuild import rebuild
from store.control import Refusal
from store.database import connect
from store.folder import Folder
from sync import jetstream
from tests.acceptance.test_people_of_the_hub import PASSWORD, Browser, people
from tests.cast import eventually, skerry
from tests.mainland import Box, _site, mainland

pytestmark = pytest.mark.timeout(300)


def with_tenant(root: Path, name: str, tenant: str) -> Box:
    return _site(root, name, {"SKERRY_PING_ENABLED": "false", "SKERRY_SITE_TENANT": tenant})


def cli(hub: Box, *args: str, good: bool = True) -> str:
    done = skerry(*args, "--data", str(hub.data))
    assert (done.returncode == 0) is good, done.stdout + done.stderr
    return done.stdout if good else done.stderr


def tenants(hub: Box) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in json.loads(cli(hub, "hub", "tenant", "list", "--json"))}


def sites(hub: Box, tenant: str = "") -> list[str]:
    prefix = f"/t/{tenant}" if tenant else ""
    return [one["name"] for one in hub.call("GET", f"{prefix}/console/links")["sites"]]


def invited(hub: Box, name: str, tenant: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(cli(hub, "hub", "invite", name, "--tenant", tenant))
    return made


def test_a_hub_keeps_several_tenants_apart(tmp_path: Path) -> None:
    with mainland(tmp_path, "alder") as (hub, alder):
        eventually(lambda: sites(hub), lambda found: found == ["alder"])
        assert list(tenants(hub)) == ["default"]
        said = cli(hub, "hub", "tenant", "add", "tropic", "--admin", "alice")
        enter = next(word for word in said.split() if word.startswith("/t/tropic/enter/"))
        cli(hub, "hub", "tenant", "add", "polar", "--admin", "bob")
        assert "there is a tenant polar already" in cli(
            hub, "hub", "tenant", "add", "polar", "--admin", "x", good=False
        )
        assert "small letters" in cli(hub, "hub", "tenant", "add", "../up", "--admin", "x", good=False)

        birch = with_tenant(tmp_path, "birch", "tropic")
        try:
            birch.start()
            link = invited(hub, "birch", "tropic")
            birch.call("POST", "/console/join", link)
            eventually(lambda: sites(hub, "tropic"), lambda found: found == ["birch"])
            eventually(lambda: tenants(hub)["tropic"]["sites_live"], lambda live: live == 1)
            assert (sites(hub), sites(hub, "polar")) == (["alder"], [])
            asyncio.run(no_way_across(hub, link))
            a_stick_goes_to_its_tenant_alone(tmp_path, hub, birch)
            her_first_sign_in(hub, enter)
            who_looks_across_comes_to_every_site(hub, alder, birch)
        finally:
            birch.stop()
        hub.stop()
        examined = skerry("doctor", "--data", str(hub.data)).stdout
        for name in ("polar", "tropic"):
            assert f"skerry journal verify {hub.data / 'tenants' / name}" in examined, "the doctor looks at each"
        said = skerry("journal", "verify", str(hub.data))
        assert said.stdout.count("every event holds") == len(list(hub.data.rglob("site.db"))) == 3, said.stderr
        copied_and_rebuilt(tmp_path, hub)
        a_folder_of_another_name_stays_closed(hub)


def who_looks_across_comes_to_every_site(hub: Box, alder: Box, birch: Box) -> None:
    """And whoever is of one tenant to that tenant's."""
    for name, role in (("olga", "operator-admin"), ("oscar", "operator"), ("vera", "viewer")):
        hub.call("POST", "/api/v1/accounts", {"name": name, "password": PASSWORD, "role": role, "sites": ["*"]})
    eventually(lambda: people(alder), lambda found: sorted(found) == ["olga", "oscar", "vera"])
    eventually(lambda: people(birch), lambda found: sorted(found) == ["olga", "oscar"])
    hub.stop()
    with contextlib.closing(Browser(birch)) as oscar:
        assert oscar.sign_in("oscar", PASSWORD) == 303, "with no line to anybody"
        hub.start()
        with contextlib.closing(Browser(hub)) as olga:
            assert olga.sign_in("olga", PASSWORD) == 303
            olga.send("/account/accounts/disable", name="oscar")
        eventually(lambda: oscar.page("/"), lambda page: page == "")
    eventually(lambda: tenants(hub)["tropic"]["sites_live"], lambda live: live == 1)


async def no_way_across(hub: Box, link: dict[str, Any]) -> None:
    """With what birch was given for tropic: nothing of another tenant's subjects may be said or heard."""
    wrong: list[str] = []

    async def heard(error: Exception) -> None:
        wrong.append(str(error))

    client = Client()
    user = jetstream.user_of(link["tenant"], link["link"])
    ca = hub.data / "tls" / "ca.pem"
    await client.connect(
        link["url"][0],
        user=user,
        password=link["password"],
        inbox_prefix=jetstream.inbox_of("tropic", link["link"]),
        tls=jetstream._trust(link["url"][0], ca),
        tls_handshake_first=True,
        error_cb=heard,
        allow_reconnect=False,
    )
    for tenant in ("polar", "default"):
        await client.publish(f"sk.{tenant}.up.{link['link']}.log", b"\x01forged")
        await client.subscribe(f"sk.{tenant}.>")
    await client.subscribe("_INBOX_hub.>")
    await client.publish("_INBOX_hub.polar.a.1", b"forged")
    await client.flush()
    while len(wrong) < 6:
        await asyncio.sleep(0.02)
    assert all("permissions violation" in one.lower() for one in wrong)
    await client.close()
    # And a file that was changed to another tenant's name has a name that the broker does not know.
    stranger = Client()
    with pytest.raises(Exception, match=r"(?i)authorization|authentication"):
        await stranger.connect(
            link["url"][0],
            user=jetstream.user_of("polar", link["link"]),
            password=link["password"],
            tls=jetstream._trust(link["url"][0], ca),
            tls_handshake_first=True,
            allow_reconnect=False,
            error_cb=heard,
        )


def a_stick_goes_to_its_tenant_alone(root: Path, hub: Box, birch: Box) -> None:
    stick = root / "stick"
    cli(birch, "bundle", "export", str(stick))
    (file,) = stick.glob("*")
    before = {tenant: hub.call("GET", f"{prefix}/api/v1/events?limit=10000")["next"] for tenant, prefix in PLACES}
    assert "skerry:" in cli(hub, "bundle", "import", str(file), "--tenant", "polar", good=False)
    with pytest.raises(Refusal):
        hub.call("POST", "/console/bundle/read", {"path": str(file)})
    for tenant, prefix in PLACES:
        if tenant != "tropic":
            assert hub.call("GET", f"{prefix}/api/v1/events?limit=10000")["next"] == before[tenant]
    assert "birch" in cli(hub, "bundle", "import", str(file)), "without a word it goes to whom it names"


PLACES = (("default", ""), ("polar", "/t/polar"), ("tropic", "/t/tropic"))


def her_first_sign_in(hub: Box, enter: str) -> None:
    with httpx2.Client(base_url=f"http://{hub.http}", trust_env=False) as alice:
        answer = alice.get(enter)
        assert answer.headers["location"] == "/t/tropic/"
        page = alice.get("/t/tropic/").text
        assert "birch" in page
        assert "alder" not in page
        assert all(to.startswith(("/t/tropic/", "/static/", "#")) for to in addresses(page)), "every link stays there"
        assert alice.get("/").status_code == 303, "at the first tenant she is nobody"
        assert alice.get("/tenants").status_code == 303
        assert alice.get("/t/tropic/tenants").status_code == 404
        assert alice.get("/t/polar/").headers["location"] == "/t/polar/login"
        assert alice.get("/t/thule/").headers["location"] == "/t/thule/login"


def addresses(page: str) -> list[str]:
    return re.findall(r'(?:href|action|hx-get|hx-sse:connect)="(/[^"]*)"', page)


def copied_and_rebuilt(root: Path, hub: Box) -> None:
    done = skerry("backup", "--data", str(hub.data), str(root / "copy"))
    assert "2 more tenants" in done.stdout, done.stderr
    (root / "copy" / "tenants" / "polar" / "site.db").write_bytes(b"not this")
    refused = skerry("restore", str(root / "copy"), "--data", str(root / "again"))
    assert "site.db is not what the manifest says" in refused.stderr
    shutil.rmtree(root / "copy")
    skerry("backup", "--data", str(hub.data), str(root / "copy"))
    done = skerry("restore", str(root / "copy"), "--data", str(root / "again"))
    assert "with 2 more tenants" in done.stdout, done.stderr
    assert [one.root.name for one in Folder(root / "again").tenants()] == ["polar", "tropic"]
    found = rebuild(root / "again")
    assert list(found) == ["default", "polar", "tropic"]
    assert all(one.good and one.events for one in found.values())
    for name in ("polar", "tropic"):
        assert "holds" in skerry("journal", "verify", str(root / "again" / "tenants" / name)).stdout


def a_folder_of_another_name_stays_closed(hub: Box) -> None:
    shutil.copytree(hub.data / "tenants" / "tropic", hub.data / "tenants" / "copy")
    with closing(connect(hub.data / "tenants" / "polar" / "site.db")) as db:
        db.execute("UPDATE alembic_version SET version_num='9999'")
    hub.start()
    found = tenants(hub)
    assert "is the folder of tenant tropic; name it so" in found["copy"]["problem"]
    assert "newer Skerry" in found["polar"]["problem"]
    assert not found["tropic"]["problem"]
    assert sites(hub, "tropic") == ["birch"]
    assert sites(hub) == ["alder"]
    with httpx2.Client(base_url=f"http://{hub.http}", trust_env=False) as anybody:
        assert anybody.get("/t/copy/").headers["location"] == "/t/copy/login", "as one that is not there"
        said = anybody.get("/readyz").json()
        assert (said["ready"], said["problems"]) == (True, ["2 other tenants are not well; see the page Tenants"])


def test_a_hub_of_one_tenant_goes_on_as_it_was(tmp_path: Path) -> None:
    with mainland(tmp_path, "alder") as (hub, _):
        eventually(lambda: sites(hub), lambda found: found == ["alder"])
        token = hub.call("POST", "/api/v1/tokens", {"name": "collector", "role": "viewer"})["secret"]
        hub.stop()
        assert not (hub.data / "tenants").exists()
        hub.start()
        eventually(lambda: hub.site("alder").get("mode"), lambda mode: mode == "LIVE")
        with httpx2.Client(base_url=f"http://{hub.http}", headers={"authorization": f"Bearer {token}"}) as line:
            assert line.get("/api/v1/me").json()["tenant"] == "default"
            assert "tenant=" not in line.get("/metrics").text
        hub.call("POST", "/console/tenants", {"name": "polar", "admin": "alice"})
        with httpx2.Client(base_url=f"http://{hub.http}", headers={"authorization": f"Bearer {token}"}) as line:
            assert "tenant=" not in line.get("/metrics").text, "who does not look across sees his own alone"
        with closing(httpx2.Client(base_url=f"http://{hub.http}")) as line:
            across = hub.call("POST", "/api/v1/tokens", {"name": "across", "role": "operator"})["secret"]
            figures = line.get("/metrics", headers={"authorization": f"Bearer {across}"}).text
            assert 'tenant="polar"' in figures
            assert 'tenant="default"' in figures
        assert hub.site("alder")["mode"] == "LIVE"
