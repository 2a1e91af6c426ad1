"""The demo: one site and its devices on this machine, as real processes that talk over real sockets.

It starts an appliance (`skerry appliance run`) and the simulator, adopts the simulated devices as a person would, and
prints where to look. It keeps its data in the folder it names and removes nothing.
"""

from __future__ import annotations

import json
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from store.control import NotRunning, Refusal, call

_START_S = 20.0
_SITE = "alder"
_CREW = "crew"


def run(data: Path, *, devices: int, seed: int, speed: float, as_json: bool, port: int) -> int:
    # SIGTERM ends the demo as Ctrl-C does, so that its children go with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    site = data.absolute() / _SITE
    http, syslog = f"127.0.0.1:{_free_port(port)}", f"127.0.0.1:{_free_port(5514 if port else 0)}"
    children: list[subprocess.Popen[bytes]] = []
    data.mkdir(parents=True, exist_ok=True)
    log_path = data / "appliance.log"
    try:
        _check_free(site / "control.sock")
        with log_path.open("ab") as log:
            children.append(_appliance(site, http, syslog, log))
            _wait_until_ready(site / "control.sock", children[0], log_path)
            link, token = _people(site / "control.sock")
            simulator = _simulator(http, syslog, devices, seed, speed)
            _adopt(site / "control.sock", simulator)
            children.append(subprocess.Popen(simulator, stdout=log, stderr=log))
        _tell(as_json, http, syslog, site, link, token, devices)
        return _until_one_ends(children)
    except KeyboardInterrupt:
        return 0
    except (NotRunning, Refusal) as problem:
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


def _appliance(site: Path, http: str, syslog: str, log: Any) -> subprocess.Popen[bytes]:
    front = Path(__file__).parent.parent / "skerry.py"
    command = [sys.executable, str(front), "appliance", "run", "--data", str(site), "--name", _SITE]
    command += ["--http", http, "--syslog-udp", syslog, "--syslog-tcp", syslog]
    return subprocess.Popen(command, stdout=log, stderr=log)


def _check_free(control: Path) -> None:
    """Another appliance on this folder would answer in place of ours."""
    try:
        call(control, "GET", "/healthz")
    except NotRunning:
        return
    raise NotRunning(f"an appliance already runs on {control.parent}; stop it first, or give the demo another --data")


def _wait_until_ready(control: Path, appliance: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            call(control, "GET", "/readyz")
            return
        except (NotRunning, Refusal):
            if appliance.poll() is not None or time.monotonic() > deadline:
                lines = log_path.read_text(errors="replace").splitlines()
                said = lines[-1].removeprefix("skerry: ") if lines else "it said nothing"
                raise NotRunning(f"the appliance did not start: {said}; see {log_path}") from None
            time.sleep(0.05)


def _people(control: Path) -> tuple[str, str]:
    """A sign-in link for the crew's account and a viewer's token for scripts."""
    accounts = call(control, "GET", "/console/accounts")["accounts"]
    if not any(account["name"] == _CREW for account in accounts):
        body = {"name": _CREW, "password": secrets.token_urlsafe(24), "role": "admin"}
        call(control, "POST", "/api/v1/accounts", body)
    link = call(control, "POST", "/console/entries", {"name": _CREW})["secret"]
    name = f"demo-{secrets.token_hex(4)}"
    token = call(control, "POST", "/api/v1/tokens", {"name": name, "role": "viewer"})["secret"]
    return str(link), str(token)


def _simulator(http: str, syslog: str, devices: int, seed: int, speed: float) -> list[str]:
    from skerry import simulator_path

    command = [sys.executable, str(simulator_path()), "--devices", str(devices), "--seed", str(seed)]
    return [*command, "--speed", str(speed), "--syslog-udp", syslog, "--syslog-tcp", syslog, "--http", f"http://{http}"]


def _adopt(control: Path, simulator: list[str]) -> None:
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
        call(
            control,
            "PATCH",
            f"/api/v1/nodes/{quote(node_id)}",
            {"field": "target_version", "value": device["firmware"]},
        )


def _nodes(control: Path) -> list[Any]:
    nodes: list[Any] = []
    after: str | None = ""
    while after is not None:
        page = call(control, "GET", f"/api/v1/nodes?after={after}&limit=500")
        nodes += [item["node"] for item in page["nodes"]]
        after = page["next"]
    return nodes


def _tell(as_json: bool, http: str, syslog: str, site: Path, link: str, token: str, devices: int) -> None:
    if as_json:
        said = {"name": _SITE, "url": f"http://{http}", "token": token, "syslog_udp": syslog, "syslog_tcp": syslog}
        print(json.dumps({"hub": None, "sites": [said | {"data": str(site)}]}), flush=True)
        return
    print(f"Site {_SITE} with {devices} simulated devices:\n")
    print(f"  open     http://{http}/enter/{link}")
    print(f"  syslog   {syslog} (UDP and TCP)")
    print(f"  data     {site} (kept; remove the folder yourself when you are done)")
    print(f"  token    {token} (viewer, for scripts)\n")
    print("Stop with Ctrl-C.", flush=True)


def _until_one_ends(children: list[subprocess.Popen[bytes]]) -> int:
    while all(child.poll() is None for child in children):
        time.sleep(0.3)
    return max(child.returncode or 0 for child in children if child.poll() is not None)


def _free_port(wanted: int) -> int:
    """`wanted` if it is free for TCP and UDP, or else one that is."""
    for port in (wanted, 0):
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: one that just ended is free
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", tcp.getsockname()[1]))
            except OSError:
                continue
            return int(tcp.getsockname()[1])
    raise NotRunning("no free port was found")
