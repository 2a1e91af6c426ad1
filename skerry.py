"""skerry: the one front door.

Each command imports what it needs when it runs: most of a cold start is imports.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, NoReturn

Run = Callable[[argparse.Namespace], int]
_FILES_MAX = 65_536


def fail(words: str, status: int = 1) -> NoReturn:
    print(f"skerry: {words}", file=sys.stderr)
    raise SystemExit(status)


# -- appliance ---------------------------------------------------------------------------------------------------


def appliance_run(args: argparse.Namespace) -> int:
    from appliance.config import ConfigProblem, load

    flags = {
        "http.listen": args.http,
        "syslog.udp": args.syslog_udp,
        "syslog.tcp": args.syslog_tcp,
        "mqtt.listen": args.mqtt,
        "site.name": args.name,
    }
    try:
        config = load(args.config, os.environ, flags)
    except ConfigProblem as problem:
        fail(str(problem), 2)
    _log_to_stderr()
    return _serve(_run_appliance(args.data, config))


async def _run_appliance(data: Path, config: Any) -> int:
    from appliance.compose import Appliance
    from store.certificates import CertificateProblem
    from store.faults import StoreFault
    from store.folder import FolderProblem
    from store.keys import KeyProblem
    from store.ports import ListenProblem
    from store.settings import ConfigProblem

    appliance = Appliance(data, config)
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    try:
        await appliance.start()
    except (ListenProblem, StoreFault, FolderProblem, KeyProblem, CertificateProblem, ConfigProblem) as problem:
        print(f"skerry: {problem}", file=sys.stderr)
        return 1
    url = config.http.public_url.rstrip("/") or f"http://{appliance.addresses['http']}"
    print(f"{config.site.name} is up at {url}", flush=True)
    for intake, address in appliance.addresses.items():
        print(f"  {intake:<11} {address}", flush=True)
    if appliance.setup_path:
        print(f"  first start: make the first account at {url}{appliance.setup_path}", flush=True)
    await asked.wait()
    await appliance.stop()
    return 0


def _serve(box: Coroutine[Any, Any, int]) -> int:
    """Run a box. Each sender takes a descriptor, and the usual bound is for programs that talk to few."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _FILES_MAX)), hard))
    return asyncio.run(box)


def _log_to_stderr() -> None:
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # nats-py's streams do not know that they go over TLS, and asyncio would say so at the end of each line.
    logging.getLogger("asyncio").addFilter(lambda record: "eof_received()" not in record.getMessage())


# -- hub, link, receipt -----------------------------------------------------------------------------------------


def hub_run(args: argparse.Namespace) -> int:
    from hub.config import load
    from store.settings import ConfigProblem

    flags = {"http.listen": args.http, "hub.name": args.name, "link.listen": args.link}
    flags |= {"link.websocket_listen": args.websocket, "link.hosts": args.hosts}
    try:
        config = load(args.config, os.environ, flags)
    except ConfigProblem as problem:
        fail(str(problem), 2)
    _log_to_stderr()
    return _serve(_run_hub(args.data, config))


async def _run_hub(data: Path, config: Any) -> int:
    from hub.broker import BrokerProblem
    from hub.compose import Hub
    from store.faults import StoreFault
    from store.folder import FolderProblem
    from store.keys import KeyProblem
    from store.ports import ListenProblem

    hub = Hub(data, config)
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    try:
        await hub.start()
    except (ListenProblem, StoreFault, FolderProblem, KeyProblem, BrokerProblem) as problem:
        print(f"skerry: {problem}", file=sys.stderr)
        return 1
    url = config.http.public_url.rstrip("/") or f"http://{hub.addresses['http']}"
    print(f"{config.hub.name} is up at {url}", flush=True)
    for way, address in hub.addresses.items():
        print(f"  {way:<11} {address}", flush=True)
    if hub.setup_path:
        print(f"  first start: make the first account at {url}{hub.setup_path}", flush=True)
    await asked.wait()
    await hub.stop()
    return 0


def _at(args: argparse.Namespace, path: str) -> str:
    """A path of the console at the tenant that is named, or at the box's own."""
    return f"/t/{args.tenant}{path}" if getattr(args, "tenant", None) else path


def hub_tenant_add(args: argparse.Namespace) -> int:
    made = _running(args.data, "POST", "/console/tenants", {"name": args.name, "admin": args.admin})
    print(f"tenant {made['name']} is here, its pages under {made['prefix']}/")
    print(f"  {args.admin} signs in within an hour at {made['enter']}")
    print(f'  its sites: skerry hub invite SITE --tenant {made["name"]}; each has site.tenant = "{made["name"]}"')
    return 0


def hub_tenant_list(args: argparse.Namespace) -> int:
    found = _running(args.data, "GET", "/console/tenants")["tenants"]
    if args.json:
        print(json.dumps(found))
        return 0
    for one in found:
        how = one["problem"] or f"{one['sites_live']} of {one['sites']} sites live, {one['needing']} need somebody"
        print(f"{one['name']:<24} {one['prefix'] or '/':<12} {how}")
    return 0


def hub_invite(args: argparse.Namespace) -> int:
    made = _running(args.data, "POST", _at(args, "/console/invite"), {"name": args.site, "urls": args.url})
    entry = _running(args.data, "GET", _at(args, "/console/nats"))["sites"].get(args.site, "")
    text = json.dumps(made, indent=2) + "\n"
    if args.to is None:
        print(text, end="")
        if entry:
            print(f"Enter this user at the NATS server: {entry}", file=sys.stderr)
        return 0
    fd = os.open(args.to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    print(f"{args.to}: the way for {args.site} to this hub. Take it to the site and run there:")
    print(f"  skerry link join {args.to.name} --data DIR")
    print("It holds a secret; remove it afterwards.")
    if entry:
        print("Before that, enter this user at the NATS server (all of them: skerry hub nats):")
        print(f"  {entry}")
    return 0


def hub_nats(args: argparse.Namespace) -> int:
    configuration = _running(args.data, "GET", "/console/nats")["configuration"]
    if not configuration:
        fail("this hub runs a NATS server of its own; nothing has to be entered anywhere")
    print(configuration, end="")
    return 0


def hub_rebuild(args: argparse.Namespace) -> int:
    from hub.rebuild import rebuild
    from store.faults import StoreFault
    from store.folder import FolderProblem

    try:
        found = rebuild(args.data, _steps())
    except (FolderProblem, StoreFault) as problem:
        fail(str(problem))
    good = all(one.good for one in found.values())
    if args.json:
        own, *others = (_rebuilt(one) | {"tenant": tenant} for tenant, one in found.items())
        print(json.dumps(own | {"equal": good} | ({"tenants": others} if others else {})))
        return 0 if good else 1
    for tenant, made in found.items():
        if len(found) > 1:
            print(f"tenant {tenant}")
        print(f"{made.events:,} events into {len(made.projections)} projections in {made.seconds:.1f} s")
        for one in made.projections:
            print(f"{one.name:<13} rebuilt {one.rebuilt}")
            print(f"{'':<13} running {one.running or 'none was kept'}" + ("" if one.equal else "  DIFFERS"))
    if not good:
        fail("what was in use differed from the log; the rebuilt has taken its place")
    return 0


def _rebuilt(made: Any) -> dict[str, Any]:
    listed = [
        {"name": one.name, "running": one.running, "rebuilt": one.rebuilt, "equal": one.equal}
        for one in made.projections
    ]
    return {"events": made.events, "seconds": round(made.seconds, 3), "equal": made.good, "projections": listed}


def _steps() -> Callable[[int, int], None]:
    """Percent, events a second and the time left, on standard error: a line that moves on a terminal, and a line every
    five seconds elsewhere."""
    import time

    began = last = time.monotonic()
    moving = sys.stderr.isatty()

    def step(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < (0.2 if moving else 5.0):
            return
        last, rate = now, done / max(now - began, 1e-9)
        left = f"{(total - done) / rate:,.0f} s left" if rate else "just begun"
        words = f"{100 * done / max(total, 1):3.0f} %  {done:,} of {total:,} events  {rate:,.0f}/s  {left}"
        end = "\r" if moving and done < total else "\n"
        print(f"{words:<78}", end=end, file=sys.stderr, flush=True)

    return step


def link_join(args: argparse.Namespace) -> int:
    try:
        raw = args.file.read_bytes()
    except OSError as error:
        fail(f"{args.file} cannot be read: {error.strerror}")
    answer = _running(args.data, "POST", "/console/join", json.loads(raw) if raw[:1] == b"{" else {"kind": "?"})
    print(f"this site is {answer['site']} to the hub {answer['hub']} at {' or '.join(answer['urls'])}")
    if sys.stdout.isatty():  # a secret is for the person who looks on, never for a file
        sealed = _running(args.data, "POST", "/console/break-glass", {"again": False})
        if sealed["secret"]:
            _tell_envelope(sealed)
    return 0


def link_show(args: argparse.Namespace) -> int:
    link = _running(args.data, "GET", _at(args, "/console/link"))
    if args.json:
        print(json.dumps(link))
        return 0
    if "sites" in link:
        return _lines_of(link)
    if link["hub"] is None:
        print("no hub yet; at the hub run: skerry hub invite SITE, and here: skerry link join FILE")
        return 0
    print(f"hub        {link['hub']} at {link['url']}")
    if others := [url for url in link["urls"] if url != link["url"]]:
        print(f"           else {', '.join(others)}")
    print(
        f"state      {link['state']}" + (", cut by an operator" if link["cut"] else "" if link["up"] else ", no line")
    )
    if link["problem"] and not link["up"]:
        print(f"problem    {link['problem']}")
    print(f"sent       {link['sent_bytes']:,} bytes, received {link['received_bytes']:,}")
    caps = [
        f"{link[key]:,} bytes {words}" for key, words in (("per_s", "a second"), ("per_hour", "an hour")) if link[key]
    ]
    print(f"caps       {', '.join(caps) or 'none'}")
    for reason in link["quarantine"]:
        print(f"quarantine {reason}")
    return 0


def _lines_of(hub: Mapping[str, Any]) -> int:
    line = hub["line"]
    print(f"sites meet at {line['url']}" + ("" if line["up"] else ", where this hub has no line"))
    if line["problem"]:
        print(f"problem    {line['problem']}")
    for site in hub["sites"]:
        print(f"{site['name']:<10} {site['mode']}")
    return 0


def link_order(action: str) -> Run:
    def run(args: argparse.Namespace) -> int:
        value = getattr(args, "lane", "") or ""
        _running(args.data, "POST", "/console/link", {"action": action, "value": value})
        print({"cut": "the link is cut", "restore": "the link is restored"}.get(action, f"{action}d {value}"))
        return 0

    return run


def link_cap(args: argparse.Namespace) -> int:
    if args.per_s is None and args.per_hour is None:
        fail("say what to cap: --per-s BYTES or --per-hour BYTES (0: no cap)", 2)
    for action, value in (("per_s", args.per_s), ("per_hour", args.per_hour)):
        if value is not None:
            _running(args.data, "POST", "/console/link", {"action": action, "value": str(value)})
    return link_show(argparse.Namespace(data=args.data, json=False, tenant=None))


def bundle_export(args: argparse.Namespace) -> int:
    wish: dict[str, Any] = {"to": str(args.to.absolute()), "part_bytes": args.part_mib * 1024 * 1024}
    if args.site:
        wish["site"] = args.site
    else:
        wish |= {"one_way": args.one_way, "whole": args.all, "only": args.only}
    args.to.mkdir(parents=True, exist_ok=True)
    made = _running(args.data, "POST", _at(args, "/console/bundle/write"), wish)
    print(made["words"])
    for path in made["files"]:
        print(f"  {path}")
    if made["problem"]:
        missing = ", ".join(map(str, made["missing"]))
        fail(
            f"{made['problem']}; of {made['parts']} parts these are still to be written: {missing}."
            " Do it again on this medium, or on the next one with --only PART …"
        )
    return 0


def bundle_import(args: argparse.Namespace) -> int:
    failed = 0
    for path in args.files:
        from store.control import NotRunning, Refusal, call

        try:
            way = (
                _at(args, "/console/bundle/read")
                if args.tenant
                else _for_whom(args.data, path) + "/console/bundle/read"
            )
            answer = call(args.data / "control.sock", "POST", way, {"path": str(path.absolute())})
            print(f"{path}: {answer['words']}")
        except (Refusal, NotRunning) as problem:
            print(f"skerry: {path}: {problem}", file=sys.stderr)
            failed = 1
    return failed


def _for_whom(data: Path, path: Path) -> str:
    """A file names its tenant: at a hub with several it goes to that one, which looks whether it is true."""
    from sync import bundle

    header = bundle.inspect(path).header
    known = header is not None and header.tenant in {one.name for one in (data / "tenants").glob("*")}
    return f"/t/{header.tenant}" if header is not None and known else ""


def bundle_inspect(args: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from sync import bundle

    def day(ns: int) -> str:
        return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M UTC")

    found = [bundle.inspect(path) for path in args.files]
    for one in found:
        print(f"{one.path}: {one.size:,} bytes")
        header = one.header
        if header is not None:
            print(f"  from {header.sender} to {header.recipient}, tenant {header.tenant}")
            print(f"  part {header.part} of {header.parts}; written {day(header.created_ns)}", end="")
            print(f", good until {day(header.expires_ns)}" if header.expires_ns else ", without an end")
            control, snapshots, log, segments = header.counts
            print(f"  messages: {control} control, {snapshots} snapshots, {log} log, {segments} segments", end="")
            print("; nothing will come back on this way" if header.one_way else "")
        print(f"  {one.problem or 'whole, and signed by whom it names'}" + (f" ({one.detail})" if one.detail else ""))
    for identity, parts in bundle.missing(found).items():
        if parts:
            print(f"of bundle {identity.hex()[:12]} these parts are missing here: {', '.join(map(str, parts))}")
    return 1 if any(one.problem for one in found) else 0


def receipt_show(args: argparse.Namespace) -> int:
    from sync.receipt_file import export

    try:
        data = args.data / "tenants" / args.tenant if args.tenant else args.data
        sys.stdout.write(export(data, args.number, args.site).decode())
    except ValueError as error:
        fail(str(error))
    return 0


def receipt_verify(args: argparse.Namespace) -> int:
    from sync.receipt_file import verify

    return _told(verify(args.file, args.data))


def _running(data: Path, method: str, path: str, body: Any = None) -> Any:
    """Ask the running appliance or hub of this folder."""
    from store.control import NotRunning, Refusal, call

    try:
        return call(data / "control.sock", method, path, body)
    except (Refusal, NotRunning) as problem:
        fail(str(problem))


# -- config, doctor ----------------------------------------------------------------------------------------------


def config_check(args: argparse.Namespace) -> int:
    from appliance import config as of_a_site
    from hub import config as of_a_hub
    from store.settings import ConfigProblem

    which: Any = of_a_hub if args.hub else of_a_site
    try:
        config = which.load(args.config, os.environ, {})
    except ConfigProblem as problem:
        fail(str(problem), 2)
    known, section = which.keys(), ""
    for name, key, _ in known:
        if name != section:
            print(f"[{name}]")
            section = name
        value = getattr(getattr(config, name), key)
        print(f"{key} = {json.dumps('…' if key == 'password' and value else value, ensure_ascii=False)}")
    for section in dict.fromkeys(section for section, _, _ in which.tables()):
        for table in getattr(config, section):
            print(f"[[{section}]]")
            for _, key, _ in (one for one in which.tables() if one[0] == section):
                print(f"{key} = {json.dumps(getattr(table, key), ensure_ascii=False)}")
    return 0


def doctor(args: argparse.Namespace) -> int:
    from appliance.doctor import examine

    findings = examine(args.data)
    for finding in findings:
        print(f"{'ok  ' if finding.good else 'MEND'}  {finding.what}")
        if finding.mend:
            print(f"      {finding.mend}")
    return 0 if all(finding.good for finding in findings) else 1


# -- journal -----------------------------------------------------------------------------------------------------


def journal_verify(args: argparse.Namespace) -> int:
    if args.source.is_dir():
        from appliance.archive import verify
        from store.folder import Folder

        folders = [args.source, *(one.root for one in Folder(args.source).tenants())]  # a hub's other tenants too
        return max([_told(verify(one, progress=_progress("verifying", "events"))) for one in folders])
    from sync.receive import check_file

    return _told(check_file(args.source, progress=_progress("verifying", "bytes")))


def audit_verify(args: argparse.Namespace) -> int:
    from sync.audit_file import verify

    return _told(verify(args.file, args.data))


def journal_export(args: argparse.Namespace) -> int:
    from appliance.archive import export

    return _told(export(args.data, args.to, progress=_progress("exporting", "events")))


def journal_show(args: argparse.Namespace) -> int:
    from appliance.archive import show
    from store.faults import StoreFault
    from store.folder import FolderProblem

    try:
        with contextlib.suppress(BrokenPipeError):
            for line in show(args.data, after=args.after, limit=args.limit, kind=args.kind, subject=args.subject):
                print(line)
    except (StoreFault, FolderProblem) as problem:
        fail(str(problem))
    except ValueError as error:
        fail(f"an event cannot be read ({error}); where, tells: skerry journal verify {args.data}")
    return 0


def _told(result: tuple[bool, str]) -> int:
    good, words = result
    print(words, file=sys.stdout if good else sys.stderr)
    return 0 if good else 1


def _progress(what: str, unit: str) -> Callable[[int, int], None]:
    """A bar on a terminal, silence elsewhere."""
    if not sys.stderr.isatty():
        return lambda done, total: None
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=None)
    bar.start()

    def step(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total or None)
        if total and done >= total:
            bar.stop()

    return step


# -- tokens, accounts --------------------------------------------------------------------------------------------


def token_create(args: argparse.Namespace) -> int:
    answer = _control(args.data, "POST", _at(args, "/api/v1/tokens"), {"name": args.name, "role": args.role})
    print(answer["secret"])
    return 0


def account_link(args: argparse.Namespace) -> int:
    answer = _control(args.data, "POST", _at(args, "/console/entries"), {"name": args.name})
    print(_at(args, f"/enter/{answer['secret']}"))
    return 0


def account_break_glass(args: argparse.Namespace) -> int:
    _tell_envelope(_control(args.data, "POST", "/console/break-glass", {"again": True}))
    return 0


def _tell_envelope(sealed: Mapping[str, str]) -> None:
    print(f"the sealed account of this site: name {sealed['name']}, password")
    print(f"  {sealed['secret']}")
    print("Write it down now, put it in an envelope, seal it. It opens once, and everybody sees it.", file=sys.stderr)


def account_role(args: argparse.Namespace) -> int:
    answer = _control(args.data, "POST", _at(args, "/console/role"), {"name": args.name, "role": args.role})
    print(f"{answer['name']} is {answer['role']} from now on")
    return 0


def token_list(args: argparse.Namespace) -> int:
    for token in _control(args.data, "GET", _at(args, "/api/v1/tokens"))["tokens"]:
        print(f"{token['name']:<24} {token['role']:<9} {'revoked' if token['revoked_ns'] else ''}")
    return 0


def token_revoke(args: argparse.Namespace) -> int:
    from urllib.parse import quote

    _control(args.data, "DELETE", _at(args, f"/api/v1/tokens?name={quote(args.name)}"))
    return 0


def _control(data: Path, method: str, path: str, body: Any = None) -> Any:
    """Ask the running appliance; when none runs, run one on this folder for the length of the question."""
    from store.control import NotRunning, Refusal, call
    from store.faults import StoreFault
    from store.folder import FolderProblem
    from store.keys import KeyProblem

    control = data / "control.sock"
    try:
        try:
            return call(control, method, path, body)
        except NotRunning as problem:
            if not (data / "site.db").exists():
                fail(str(problem))
            return asyncio.run(_ask_briefly(data, control, method, path, body))
    except (Refusal, StoreFault, FolderProblem, KeyProblem) as problem:
        fail(str(problem))


async def _ask_briefly(data: Path, control: Path, method: str, path: str, body: Any) -> Any:
    from appliance.compose import Appliance
    from appliance.config import Config, Http, Mqtt, Ping, Syslog
    from store.control import call

    quiet = Config(
        http=Http(listen="127.0.0.1:0"), syslog=Syslog(udp="", tcp=""), mqtt=Mqtt(listen=""), ping=Ping(enabled=False)
    )
    appliance = Appliance(data, quiet)
    await appliance.start()
    try:
        return await asyncio.to_thread(call, control, method, path, body)
    finally:
        await appliance.stop()


# -- devices -----------------------------------------------------------------------------------------------------


def device_list(args: argparse.Namespace) -> int:
    from urllib.parse import quote

    devices: list[Any] = []
    after: str | None = ""
    while after is not None:
        page = _control(args.data, "GET", f"/api/v1/devices?limit=500&after={quote(after)}")
        devices += page["devices"]
        after = page["next"]
    if args.json:
        print(json.dumps(devices))
        return 0
    import time

    now_ns = time.time_ns()
    for device in devices:
        print(f"{device['name']}{' (gateway)' if device['gateway'] else ''}  {device['node_id']}")
        for one in device["credentials"]:
            used = f"used {_since(now_ns, one['used_ns'])} from {one['used_from']}" if one["used_ns"] else "never used"
            print(f"  {one['id']}  {one['kind']:<11} {one['label']:<16} {_stands(one, now_ns):<8} {used}")
    return 0


def _stands(credential: Mapping[str, Any], now_ns: int) -> str:
    if credential["revoked_ns"] is not None:
        return "revoked"
    return "expired" if (credential["expires_ns"] or now_ns + 1) <= now_ns else "valid"


def _since(now_ns: int, at_ns: int) -> str:
    from web.words import age

    return f"{age((now_ns - at_ns) / 1_000_000_000)} ago"


def device_code(args: argparse.Namespace) -> int:
    wish = {"name": args.name or "", "kind": args.kind, "gateway": args.gateway, "uses": args.uses, "hours": args.hours}
    print(_control(args.data, "POST", "/api/v1/activation-codes", wish)["code"])
    return 0


def device_enrol(args: argparse.Namespace) -> int:
    wish = {"name": args.name, "kind": args.kind, "gateway": args.gateway, "why": args.why, "days": args.days}
    if args.user is not None:
        wish |= {"credential": "password", "user": args.user}
    if args.certificate is not None:
        wish |= {"credential": "certificate", "pem": _pem(args.certificate)}
    return _given(_control(args.data, "POST", "/api/v1/devices", wish))


def device_token(args: argparse.Namespace) -> int:
    print(_control(args.data, "POST", "/api/v1/devices", {"name": args.name, "why": args.why})["secret"])
    return 0


def device_rotate(args: argparse.Namespace) -> int:
    wish = {"why": args.why} | ({"pem": _pem(args.csr)} if args.csr is not None else {})
    return _given(_control(args.data, "POST", f"/api/v1/devices/{args.credential}/rotate", wish))


def device_revoke(args: argparse.Namespace) -> int:
    _control(args.data, "POST", f"/api/v1/devices/{args.credential}/revoke", {"why": args.why})
    print(f"{args.credential} counts no more")
    return 0


def device_ca(args: argparse.Namespace) -> int:
    authority = _control(args.data, "GET", "/api/v1/devices?limit=1")
    print(authority["ca_pem"], end="")
    print(f"SHA-256 {authority['ca_sha256']}", file=sys.stderr)
    return 0


def _given(issued: Mapping[str, Any]) -> int:
    """What the device is given, alone on standard output."""
    print(f"{issued['name']}: {issued['kind']} {issued['credential']}", file=sys.stderr)
    if issued["user"]:
        print(f"user {issued['user']}, password:", file=sys.stderr)
    if given := issued["secret"] or issued["certificate_pem"].rstrip():
        print(given)
    return 0


def _pem(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file} cannot be read as PEM: {error}")


# -- backup ------------------------------------------------------------------------------------------------------


def backup(args: argparse.Namespace) -> int:
    from appliance.archive import make_backup

    return _told(make_backup(args.data, args.to, progress=_progress("copying", "bytes")))


def restore(args: argparse.Namespace) -> int:
    from appliance.archive import restore_backup

    return _told(restore_backup(args.source, args.data, progress=_progress("restoring", "bytes")))


def rollback(args: argparse.Namespace) -> int:
    from appliance.archive import roll_back

    return _told(roll_back(args.data))


# -- demo, sim ---------------------------------------------------------------------------------------------------


def demo(args: argparse.Namespace) -> int:
    if args.fleet is not None:
        from appliance import fleet_demo

        order = fleet_demo.Order(args.fleet, args.history, args.seed)
        return fleet_demo.run(args.data, order, as_json=args.json, port=args.port)
    from appliance.demo import run

    return run(args.data, devices=args.devices, seed=args.seed, speed=args.speed, as_json=args.json, port=args.port)


def sim_devices(args: argparse.Namespace) -> int:
    simulator = simulator_path()
    os.execv(sys.executable, [sys.executable, str(simulator), *args.rest])


def simulator_path() -> Path:
    """In a checkout beside this file; in an installed package under the name that Python allows."""
    here = Path(__file__).parent
    return next(
        path for name in ("firmware-hooks", "firmware_hooks") if (path := here / name / "simulator.py").exists()
    )


# -- the door ----------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="skerry",
        description="Every site an island, complete in itself. Try it: skerry demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def add(group: Any, name: str, run: Run, words: str, example: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = group.add_parser(
            name,
            help=words,
            description=words[0].upper() + words[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run)
        return made

    def group(name: str, words: str, example: str) -> Any:
        made = commands.add_parser(
            name, help=words, epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter
        )
        return made.add_subparsers(metavar="COMMAND", required=True)

    def with_data(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "--data", type=Path, default=Path("skerry-data"), metavar="DIR", help="the appliance's data folder"
        )

    def for_device(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "--kind", choices=("EDGE", "DC", "GATEWAY", "RELAY", "VIRTUAL"), default="EDGE", help="of a new node"
        )
        made.add_argument("--gateway", action="store_true", help="it may speak for others")

    def with_tenant(made: argparse.ArgumentParser) -> None:
        made.add_argument("--tenant", metavar="NAME", help="at a hub with several tenants: at which; else its first")

    made = add(
        commands, "demo", demo, "run a hub and two sites with their devices on this machine", "skerry demo --speed 4"
    )
    made.add_argument(
        "--data", type=Path, default=Path("skerry-demo"), metavar="DIR", help="where the demo keeps its data"
    )
    made.add_argument("--devices", type=int, default=25, metavar="N")
    made.add_argument("--seed", type=int, default=7, metavar="N")
    made.add_argument("--speed", type=float, default=1.0, metavar="X", help="simulated seconds in a second")
    made.add_argument(
        "--port",
        type=int,
        default=8080,
        metavar="PORT",
        help="of the page; another one when it is taken; 0: any, for syslog too",
    )
    made.add_argument("--json", action="store_true", help="print one JSON line once everything serves")
    made.add_argument("--fleet", type=int, metavar="N", help="instead: a hub under a synthetic fleet of N sites")
    made.add_argument("--history", type=int, default=21, metavar="DAYS", help="of each site of the fleet")

    box = group("appliance", "the appliance of a site", "skerry appliance run --data /var/lib/skerry")
    made = add(
        box,
        "run",
        appliance_run,
        "run an appliance until it is stopped",
        "skerry appliance run --data DIR --http 0.0.0.0:8080",
    )
    with_data(made)
    made.add_argument("--config", type=Path, metavar="FILE", help="TOML; see: skerry config check --help")
    made.add_argument("--name", metavar="NAME", help="of the site")
    made.add_argument("--http", metavar="HOST:PORT")
    made.add_argument("--syslog-udp", metavar="HOST:PORT")
    made.add_argument("--syslog-tcp", metavar="HOST:PORT")
    made.add_argument("--mqtt", metavar="HOST:PORT")

    box = group("hub", "the hub of a fleet", "skerry hub run --data /var/lib/skerry-hub")
    made = add(box, "run", hub_run, "run a hub and its broker until it is stopped", "skerry hub run --data DIR")
    with_data(made)
    made.add_argument("--config", type=Path, metavar="FILE")
    made.add_argument("--name", metavar="NAME", help="of the hub")
    made.add_argument("--http", metavar="HOST:PORT")
    made.add_argument("--link", metavar="HOST:PORT", help="where sites connect")
    made.add_argument("--websocket", metavar="HOST:PORT", help="where sites connect that may only speak HTTPS")
    made.add_argument("--hosts", metavar="NAMES", help="by which sites reach this hub, with commas between them")
    made = add(
        box,
        "invite",
        hub_invite,
        "make the file by which a site joins",
        "skerry hub invite alder --data DIR --to alder.link",
    )
    with_data(made)
    with_tenant(made)
    made.add_argument("site", metavar="SITE", help="the site's name")
    made.add_argument("--to", type=Path, metavar="FILE")
    made.add_argument(
        "--url",
        action="append",
        default=[],
        metavar="URL",
        help="the hub's address as the site reaches it; several are tried in this order",
    )

    made = add(
        box,
        "rebuild",
        hub_rebuild,
        "make all projections again from the log, and say whether they were right",
        "skerry hub rebuild --data DIR --json",
    )
    with_data(made)
    made.add_argument("--json", action="store_true", help="print one JSON line")

    made = add(
        box,
        "nats",
        hub_nats,
        "print what to enter at a NATS server that somebody else runs",
        "skerry hub nats --data DIR",
    )
    with_data(made)

    inner = box.add_parser(
        "tenant",
        help="the tenants of a hub",
        epilog="example:\n  skerry hub tenant list --data DIR",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).add_subparsers(metavar="COMMAND", required=True)
    made = add(
        inner,
        "add",
        hub_tenant_add,
        "keep another tenant at this hub, with its first admin",
        "skerry hub tenant add polar --admin alice --data DIR",
    )
    with_data(made)
    made.add_argument("name", metavar="NAME", help="small letters, digits and -; it stays")
    made.add_argument("--admin", required=True, metavar="WHO", help="the name of its first account")
    made = add(
        inner, "list", hub_tenant_list, "say who is kept here, and how each stands", "skerry hub tenant list --json"
    )
    with_data(made)
    made.add_argument("--json", action="store_true")

    box = group("link", "the link of a site to its hub", "skerry link show --data DIR")
    made = add(box, "join", link_join, "take in the file that the hub made", "skerry link join alder.link --data DIR")
    with_data(made)
    made.add_argument("file", type=Path, metavar="FILE")
    made = add(box, "show", link_show, "say how the link is", "skerry link show --data DIR --json")
    with_data(made)
    with_tenant(made)
    made.add_argument("--json", action="store_true")
    for name, words in (("cut", "cut the link until it is restored"), ("restore", "let the link come up again")):
        with_data(add(box, name, link_order(name), words, f"skerry link {name} --data DIR"))
    made = add(box, "cap", link_cap, "bound the bytes that are sent", "skerry link cap --data DIR --per-s 20000")
    with_data(made)
    made.add_argument("--per-s", type=int, metavar="BYTES")
    made.add_argument("--per-hour", type=int, metavar="BYTES")
    for name, words in (("pause", "let a lane stand still"), ("resume", "let a lane move again")):
        made = add(box, name, link_order(name), words, f"skerry link {name} segments --data DIR")
        with_data(made)
        made.add_argument("lane", choices=("snapshots", "log", "segments"))

    box = group("bundle", "the same sync on a stick", "skerry bundle export --data DIR /mnt/stick")
    made = add(
        box, "export", bundle_export, "write what the other side lacks", "skerry bundle export --data DIR /mnt/stick"
    )
    with_data(made)
    with_tenant(made)
    made.add_argument("to", type=Path, metavar="FOLDER")
    made.add_argument("--site", metavar="SITE", help="at a hub: for which site")
    made.add_argument("--part-mib", type=int, default=0, metavar="N", help="split it over several media of this size")
    made.add_argument(
        "--only", type=int, nargs="+", default=[], metavar="PART", help="only these parts, on this medium"
    )
    made.add_argument("--one-way", action="store_true", help="nothing comes back on this way: a diode")
    made.add_argument("--all", action="store_true", help="everything from the first event on")
    made = add(
        box, "import", bundle_import, "read files from a stick", "skerry bundle import --data DIR /mnt/stick/*.bundle"
    )
    with_data(made)
    with_tenant(made)
    made.add_argument("files", type=Path, nargs="+", metavar="FILE")
    made = add(
        box, "inspect", bundle_inspect, "say what files are, without a key", "skerry bundle inspect /mnt/stick/*.bundle"
    )
    made.add_argument("files", type=Path, nargs="+", metavar="FILE")

    box = group("receipt", "completeness receipts", "skerry receipt verify alder-12.receipt --data DIR")
    made = add(
        box,
        "export",
        receipt_show,
        "print the newest receipt as a file",
        "skerry receipt export --data DIR --number 12",
    )
    with_data(made)
    with_tenant(made)
    made.add_argument("--number", type=int, metavar="N")
    made.add_argument("--site", metavar="SITE", help="at a hub: whose")
    made = add(
        box,
        "verify",
        receipt_verify,
        "check a receipt, alone or against a folder",
        "skerry receipt verify a.receipt --data DIR",
    )
    made.add_argument("file", type=Path, metavar="FILE")
    made.add_argument("--data", type=Path, metavar="DIR", help="a site's or the hub's data folder")

    made = add(commands, "doctor", doctor, "name what is missing here, and how to mend it", "skerry doctor --data DIR")
    with_data(made)

    box = group("config", "the configuration", "skerry config check --config skerry.toml")
    made = add(
        box,
        "check",
        config_check,
        "explain what is wrong, or print what is in force",
        "skerry config check --config skerry.toml",
    )
    made.add_argument("--config", type=Path, metavar="FILE")
    made.add_argument("--hub", action="store_true", help="it is a hub's")

    box = group("journal", "the signed log of an appliance", "skerry journal verify DIR")
    made = add(
        box, "verify", journal_verify, "check every hash and signature of a log", "skerry journal verify alder.skerry"
    )
    made.add_argument("source", type=Path, metavar="DIR|FILE", help="a data folder or an exported journal")
    made = add(
        box, "export", journal_export, "write the log to a file", "skerry journal export --data DIR alder.skerry"
    )
    with_data(made)
    made.add_argument("to", type=Path, metavar="FILE")
    made = add(
        box, "show", journal_show, "print events as JSON lines", "skerry journal show --data DIR --kind node.quiet | jq"
    )
    with_data(made)
    made.add_argument("--after", type=int, default=0, metavar="N", help="only events after this position")
    made.add_argument("--limit", type=int, default=0, metavar="N", help="at most so many; 0: all")
    made.add_argument("--kind", metavar="KIND")
    made.add_argument("--subject", metavar="ID")

    box = group("audit", "who did what", "skerry audit verify alder-audit.jsonl")
    made = add(
        box,
        "verify",
        audit_verify,
        "check a file that the page Audit wrote: every hash, every signature, and that nothing was taken out",
        "skerry audit verify alder-audit.jsonl --data DIR",
    )
    made.add_argument("file", type=Path, metavar="FILE")
    made.add_argument("--data", type=Path, metavar="DIR", help="a data folder to compare it with")

    box = group("token", "bearer tokens for machines", "skerry token create --data DIR --name collector")
    made = add(
        box,
        "create",
        token_create,
        "make a token; it is shown once",
        "skerry token create --name collector --role viewer",
    )
    with_data(made)
    with_tenant(made)
    made.add_argument("--name", required=True)
    made.add_argument("--role", choices=("viewer", "operator", "admin", "operator-admin"), default="viewer")
    made = add(box, "list", token_list, "list the tokens", "skerry token list --data DIR")
    with_data(made)
    with_tenant(made)
    made = add(box, "revoke", token_revoke, "end a token at once", "skerry token revoke --data DIR --name collector")
    with_data(made)
    with_tenant(made)
    made.add_argument("--name", required=True)

    box = group("device", "devices that prove who they are", "skerry device code --data DIR --name drone-01")
    made = add(box, "list", device_list, "list the devices with what they show", "skerry device list --data DIR --json")
    with_data(made)
    made.add_argument("--json", action="store_true", help="print one JSON line")
    made = add(
        box,
        "code",
        device_code,
        "make an activation code, to be typed at a device; it is shown once",
        "skerry device code --data DIR --name drone-01",
    )
    with_data(made)
    made.add_argument(
        "--name", metavar="NODE", help="for this node, there already or new; else the device names itself"
    )
    made.add_argument("--uses", type=int, default=1, metavar="N", help="for how many devices")
    made.add_argument("--hours", type=float, default=24.0, metavar="H", help="good for how long")
    for_device(made)
    made = add(
        box,
        "enrol",
        device_enrol,
        "give a node a token, a user with a password, or a certificate",
        "skerry device enrol --data DIR --name meter --user meter",
    )
    with_data(made)
    made.add_argument("--name", required=True, metavar="NODE", help="there already, or new")
    made.add_argument("--user", metavar="NAME", help="a user with a password, which is made up and printed")
    made.add_argument(
        "--certificate", type=Path, metavar="FILE", help="in PEM: one that it has, or a request (PKCS #10)"
    )
    made.add_argument("--days", type=float, default=0.0, metavar="N", help="how long it counts; 0: for ever")
    made.add_argument("--why", default="enrolled at the console", metavar="WORDS", help="for the journal")
    for_device(made)
    made = add(
        box,
        "token",
        device_token,
        "give a node a token, and print nothing else",
        "skerry device token --data DIR --name drone-01",
    )
    with_data(made)
    made.add_argument("--name", required=True, metavar="NODE", help="there already, or new")
    made.add_argument("--why", default="made at the console", metavar="WORDS", help="for the journal")
    made = add(
        box,
        "rotate",
        device_rotate,
        "give a new credential in place of one; both count until the grace is over",
        "skerry device rotate --data DIR 01M6B73GE30000000000000003 --why yearly",
    )
    with_data(made)
    made.add_argument("credential", metavar="ID", help="of the credential; see: skerry device list")
    made.add_argument("--csr", type=Path, metavar="FILE", help="a request (PKCS #10, PEM), for a certificate")
    made.add_argument("--why", default="rotated at the console", metavar="WORDS", help="for the journal")
    made = add(
        box,
        "revoke",
        device_revoke,
        "end a credential at once, open connections too",
        "skerry device revoke --data DIR 01M6B73GE30000000000000003 --why lost",
    )
    with_data(made)
    made.add_argument("credential", metavar="ID", help="of a credential, or of a node for all that it has")
    made.add_argument("--why", required=True, metavar="WORDS", help="for the journal")
    made = add(
        box,
        "ca",
        device_ca,
        "print the certificate of this site's authority, for devices to trust",
        "skerry device ca --data DIR",
    )
    with_data(made)

    box = group("account", "people's accounts", "skerry account link --data DIR --name alice")
    made = add(
        box,
        "link",
        account_link,
        "make a link that signs somebody in for an hour",
        "skerry account link --data DIR --name alice",
    )
    with_data(made)
    with_tenant(made)
    made.add_argument("--name", required=True)

    made = add(
        box,
        "role",
        account_role,
        "give somebody another role",
        "skerry account role --data DIR --name alice --role operator-admin",
    )
    with_data(made)
    with_tenant(made)
    made.add_argument("--name", required=True)
    made.add_argument("--role", choices=("viewer", "operator", "admin", "operator-admin"), required=True)
    made = add(
        box,
        "break-glass",
        account_break_glass,
        "seal an account in an envelope, for who is alone at a site and has lost every password",
        "skerry account break-glass --data DIR",
    )
    with_data(made)

    made = add(
        commands, "backup", backup, "copy an appliance while it runs", "skerry backup --data DIR /mnt/stick/alder-1"
    )
    with_data(made)
    made.add_argument("to", type=Path, metavar="TARGET", help="a folder that is not there yet")
    made = add(
        commands, "restore", restore, "make a data folder from a backup", "skerry restore /mnt/stick/alder-1 --data DIR"
    )
    made.add_argument("source", type=Path, metavar="SOURCE")
    made.add_argument("--data", type=Path, required=True, metavar="DIR", help="a folder that is empty or not there yet")
    made = add(
        commands,
        "rollback",
        rollback,
        "put a stopped box back to before its last upgrade, for the older version",
        "skerry rollback --data DIR",
    )
    with_data(made)

    box = group("sim", "simulated devices", "skerry sim devices --syslog-udp 127.0.0.1:5514")
    made = add(
        box, "devices", sim_devices, "run the simulated devices alone; see its own --help", "skerry sim devices --help"
    )
    made.add_argument("rest", nargs=argparse.REMAINDER)
    return top


def main(argv: list[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else argv
    if given[:2] == ["sim", "devices"]:  # its flags are its own
        return sim_devices(argparse.Namespace(rest=given[2:]))
    args = parser().parse_args(given)
    run: Run = args.run
    try:
        return run(args)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
