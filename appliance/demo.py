"""The demo: a hub, two sites and their devices on this machine, as real processes that talk over real sockets.

It starts `skerry hub run` and two `skerry appliance run`, joins the sites to the hub by link files, adopts the simulated
devices as a person would, and prints where to look and where devices of your own deliver. It keeps its data in the folder it
names and removes nothing.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from store.control import NotRunning, Refusal, call
from store.ports import ListenProblem, free_port

_START_S = 60.0
HUB = "harbor"
_CREW = "crew"


class Plan(NamedTuple):
    """A site of the demo: what its devices are, and where they fly."""

    name: str
    devices: int
    seed: int
    base: str
    home: tuple[str, str]
    domain: str


class Ways(NamedTuple):
    """Where devices reach a site, HOST:PORT each. `syslog` is UDP and TCP; line protocol comes in over `http`."""

    http: str
    https: str
    syslog: str
    syslog_tls: str
    mqtt: str
    mqtt_tls: str


class Running(NamedTuple):
    """A box that answers: its page, a sign-in link, a viewer's token; of a site, where its devices reach it."""

    name: str
    data: Path
    http: str
    link: str
    token: str
    ways: Ways | None = None


def plans(devices: int, seed: int) -> tuple[Plan, ...]:
    """alder with the devices that were asked for, birch with half as many, 40 km away."""
    home = ("58.15", "11.55")
    return (
        Plan("alder", devices, seed, "127.42.0.0", ("58.05", "11.20"), "Outer skerries"),
        Plan("birch", max(devices // 2, 1), seed + 1, "127.46.0.0", home, "Fjord"),
    )


def run(data: Path, *, devices: int, seed: int, speed: float, as_json: bool, port: int) -> int:
    # SIGTERM ends the demo as Ctrl-C does, so that its children go with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    data = data.absolute()
    data.mkdir(parents=True, exist_ok=True)
    children: list[subprocess.Popen[bytes]] = []
    try:
        sites = plans(devices, seed)
        for name in (HUB, *(plan.name for plan in sites)):
            check_free(data / name / "control.sock")
        with (data / "demo.log").open("ab") as log:
            hub, boxes = _boxes(data, sites, port, log, children)
            wanted = _policies(hub.data / "control.sock")
            for plan, box in zip(sites, boxes, strict=True):
                simulator = _simulator(plan, box, speed)
                _adopt(box.data / "control.sock", simulator, wanted[plan.domain], wanted)
                children.append(subprocess.Popen(simulator, stdout=log, stderr=log))
        _tell(as_json, hub, boxes, sites)
        return _until_one_ends(children)
    except KeyboardInterrupt:
        return 0
    except (NotRunning, Refusal, ListenProblem) as problem:
        print(f"skerry demo: {problem}", file=sys.stderr)
        return 1
    finally:
        for child in reversed(children):
            child.send_signal(signal.SIGTERM)
        for child in children:
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _boxes(
    data: Path, sites: Sequence[Plan], port: int, log: Any, children: list[subprocess.Popen[bytes]]
) -> tuple[Running, list[Running]]:
    """Start hub and sites side by side; join each site to the hub once both answer."""
    given: set[int] = set()

    def address(wanted: int) -> str:
        """Of that port if it is free, and of any with `port` 0; none is given twice, though nobody listens yet."""
        while (found := free_port(wanted if port else 0)) in given:
            pass
        given.add(found)
        return f"127.0.0.1:{found}"

    hub_http, line = address(port), address(4222)
    started = [(HUB, start("hub", data / HUB, HUB, log, "--http", hub_http, "--link", line))]
    ways = [
        Ways(*map(address, (port + 1 + index, 8443 + index, 5514 + index, 6514 + index, 1883 + index, 8883 + index)))
        for index in range(len(sites))
    ]
    for plan, at in zip(sites, ways, strict=True):
        flags = ("--http", at.http, "--syslog-udp", at.syslog, "--syslog-tcp", at.syslog, "--mqtt", at.mqtt)
        # Whoever has no certificate is let in over TLS as over the other ways in: a demo takes in who is unknown.
        tls = {"SYSLOG_TLS": at.syslog_tls, "SYSLOG_TLS_CLIENTS": "optional", "MQTT_TLS_LISTEN": at.mqtt_tls}
        tls["HTTP_TLS_LISTEN"] = at.https
        started.append((plan.name, start("appliance", data / plan.name, plan.name, log, *flags, settings=tls)))
    children += [child for _, child in started]
    for name, child in started:
        wait_until_ready(data / name / "control.sock", child, data / "demo.log", name)
    hub = Running(HUB, data / HUB, hub_http, *people(data / HUB / "control.sock"))
    boxes: list[Running] = []
    for plan, at in zip(sites, ways, strict=True):
        _join(data, plan.name)
        boxes.append(Running(plan.name, data / plan.name, at.http, *people(data / plan.name / "control.sock"), at))
    return hub, boxes


def start(
    what: str, data: Path, name: str, log: Any, *flags: str, settings: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """`settings`: keys of the configuration without flags, as SECTION_KEY."""
    front = Path(__file__).parent.parent / "skerry.py"
    command = [sys.executable, str(front), what, "run", "--data", str(data), "--name", name, *flags]
    environment = {**os.environ, **{f"SKERRY_{key}": value for key, value in (settings or {}).items()}}
    return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def _join(data: Path, site: str) -> None:
    """As an operator does with two commands and a file; a site that has joined stays as it is."""
    control = data / site / "control.sock"
    if call(control, "GET", "/console/link")["hub"] is None:
        made = call(data / HUB / "control.sock", "POST", "/console/invite", {"name": site})
        call(control, "POST", "/console/join", made)


def check_free(control: Path) -> None:
    """Another box on this folder would answer in place of ours."""
    try:
        call(control, "GET", "/healthz")
    except NotRunning:
        return
    raise NotRunning(f"an appliance already runs on {control.parent}; stop it first, or give the demo another --data")


def wait_until_ready(control: Path, box: subprocess.Popen[bytes], log_path: Path, name: str) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            call(control, "GET", "/readyz")
            return
        except (NotRunning, Refusal):
            if box.poll() is not None or time.monotonic() > deadline:
                lines = [
                    line for line in log_path.read_text(errors="replace").splitlines() if line.startswith("skerry")
                ]
                said = lines[-1].removeprefix("skerry: ") if lines else "it said nothing"
                raise NotRunning(f"{name} did not start: {said}; see {log_path}") from None
            time.sleep(0.05)


def people(control: Path) -> tuple[str, str]:
    """A sign-in link for the crew's account and a viewer's token for scripts."""
    accounts = call(control, "GET", "/console/accounts")["accounts"]
    if not any(account["name"] == _CREW for account in accounts):
        body = {"name": _CREW, "password": secrets.token_urlsafe(24), "role": "admin"}
        call(control, "POST", "/api/v1/accounts", body)
    link = call(control, "POST", "/console/entries", {"name": _CREW})["secret"]
    name = f"demo-{secrets.token_hex(4)}"
    token = call(control, "POST", "/api/v1/tokens", {"name": name, "role": "viewer"})["secret"]
    return str(link), str(token)


def _simulator(plan: Plan, box: Running, speed: float) -> list[str]:
    from skerry import simulator_path

    command = [sys.executable, str(simulator_path()), "--devices", str(plan.devices), "--seed", str(plan.seed)]
    command += ["--base", plan.base, "--home", *plan.home, "--speed", str(speed)]
    ways = box.ways
    assert ways is not None
    command += ["--syslog-udp", ways.syslog, "--syslog-tcp", ways.syslog, "--mqtt", ways.mqtt]
    return [*command, "--http", f"http://{ways.http}"]


_DRONES, _STATIONS = "Drones", "Ground stations"
_BUNDLES = {
    _DRONES: {"target_version": "2.4.1", "min_battery_pct": "20"},
    _STATIONS: {"requires_online": "yes", "constraints/temp_c": "..75"},
}


def _policies(control: Path) -> dict[str, str]:
    """The domains and policy bundles of the demo, made at the hub as a person would: id by name. Not all devices run what
    is wanted, so some drift is there to see."""
    found: dict[str, str] = {}
    for kind, names in (("policies", (*_BUNDLES,)), ("domains", tuple(plan.domain for plan in plans(1, 0)))):
        held = {one["name"]: one["id"] for one in call(control, "GET", f"/api/v1/{kind}")["groups"]}
        for name in names:
            if name not in held:
                held[name] = call(control, "POST", f"/api/v1/{kind}", {"name": name})["id"]
                if name in _BUNDLES:
                    call(control, "PATCH", f"/api/v1/{kind}/{held[name]}", {"fields": _BUNDLES[name]})
            found[name] = held[name]
    return found


def _adopt(control: Path, simulator: list[str], domain: str, wanted: Mapping[str, str]) -> None:
    """Adopt every device before its first word, so that it is known when it comes."""
    listing = subprocess.run([*simulator, "--list"], capture_output=True, check=True)
    devices = [json.loads(line) for line in listing.stdout.splitlines()]
    nodes = _nodes(control)
    known = {node["name"] for node in nodes} | {point["address"] for node in nodes for point in node["endpoints"]}
    for device in devices:
        if device["name"] in known or device["address"] in known:  # a person may have given it another name
            continue
        source = f"{device['intake']}/{device['address']}/{device['name']}"
        body = {"source": source, "name": device["name"], "kind": device["kind"], "tags": [device["role"]]}
        node_id = call(control, "POST", "/api/v1/adopt", body)["id"]
        bundle = wanted[_DRONES if device["role"] == "drone" else _STATIONS]
        for field, value in (("domain_id", domain), ("policy_bundle_id", bundle)):
            _write(control, node_id, field, value)
    _relay(control, nodes)


_OVER = 2  # drones that go over each relay of the demo


def _relay(control: Path, before: Sequence[Any]) -> None:
    """On a site's first start its second relay goes over its first, and some drones over both."""
    nodes = _nodes(control)
    relays = [node["id"] for node in nodes if node["kind"] == "RELAY"][:2]
    drones = [node["id"] for node in nodes if "drone" in node["tags"]]
    if before or len(relays) < 2:
        return
    _write(control, relays[1], "upstream", relays[0])
    for number, node_id in enumerate(drones[: len(relays) * _OVER]):
        _write(control, node_id, "upstream", relays[number // _OVER])


def _write(control: Path, node_id: str, field: str, value: str) -> None:
    call(control, "PATCH", f"/api/v1/nodes/{quote(node_id)}", {"field": field, "value": value})


def _nodes(control: Path) -> list[Any]:
    nodes: list[Any] = []
    after: str | None = ""
    while after is not None:
        page = call(control, "GET", f"/api/v1/nodes?after={after}&limit=500")
        nodes += [item["node"] for item in page["nodes"]]
        after = page["next"]
    return nodes


def _tell(as_json: bool, hub: Running, boxes: Sequence[Running], sites: Sequence[Plan]) -> None:
    if as_json:
        held = {"url": f"http://{hub.http}", "token": hub.token, "data": str(hub.data)}
        print(json.dumps({"hub": held, "sites": [_card(box) for box in boxes]}), flush=True)
        return
    print(f"Hub {hub.name}: every site, as it is now\n")
    print(f"  open     http://{hub.http}/enter/{hub.link}")
    print(f"  token    {hub.token} (viewer, for scripts)\n")
    for box, plan in zip(boxes, sites, strict=True):
        said = _card(box)
        print(f"Site {box.name} with {plan.devices} simulated devices:\n")
        print(f"  open     {said['url']}/enter/{box.link}")
        print(f"  token    {box.token} (viewer, for scripts)\n")
        print(f"  syslog   {said['syslog_udp']} (UDP and TCP), {said['syslog_tls']} (TLS)")
        print(f"  MQTT     {said['mqtt']}, {said['mqtt_tls']} (TLS), ThingsBoard's devices too")
        print(f"  HTTP     {said['http']}, {said['https']} (TLS: the same, and the page)")
        print(f"  lines    {said['lines']} (line protocol, InfluxDB's clients)")
        print(f"  CA       {said['ca']} (what clients of TLS trust)")
        print(f"  devices  of your own deliver there; a token for one: {said['enrol']}\n")
    first = boxes[0]
    print(f"Cut a link, look at both sides, restore it: skerry link cut --data {first.data}")
    print(f"Data is kept in {first.data.parent}; remove that folder yourself when you are done.")
    print("Stop with Ctrl-C.", flush=True)


def _card(box: Running) -> dict[str, str]:
    """What a script needs of a site: its page and token, where devices deliver, and how they get what they show."""
    ways = box.ways
    assert ways is not None
    url = f"http://{box.http}"
    return {
        "name": box.name,
        "url": url,
        "token": box.token,
        "syslog_udp": ways.syslog,
        "syslog_tcp": ways.syslog,
        "syslog_tls": ways.syslog_tls,
        "mqtt": ways.mqtt,
        "mqtt_tls": ways.mqtt_tls,
        "http": f"{url}/v1/ingest",
        "https": f"https://{ways.https}",
        "lines": url,
        "ca": str(box.data / "tls" / "ca.pem"),
        "enrol": f"skerry device token --data {box.data} --name NAME",
        "data": str(box.data),
    }


def _until_one_ends(children: list[subprocess.Popen[bytes]]) -> int:
    while all(child.poll() is None for child in children):
        time.sleep(0.3)
    return max(child.returncode or 0 for child in children if child.poll() is not None)
