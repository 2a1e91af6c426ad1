"""The appliance, wired: what knows whom stands here and nowhere else. `Appliance` is the whole box; tests run it too."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import sqlite3
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from appliance import config as configuration
from appliance import device_nodes, link_console
from appliance.announce import Announcer, fingerprint_of
from appliance.authority import Autonomy, Lease
from appliance.box import ApplianceBox
from appliance.bundles import Bundles
from appliance.device_commands import DeviceCommands
from appliance.device_desk import Desk
from appliance.doorkeeper import Gatekeeper, Mode, Rate
from appliance.evaluator import Bounds, Standing
from appliance.hub_link import HubLink
from appliance.intake import (
    attributes,
    bridge_topics,
    http,
    lines,
    lines_listener,
    mqtt_listener,
    mqtt_session,
    payload,
    ping,
    syslog,
    syslog_listeners,
    syslog_tls,
)
from appliance.intake.control import Control
from appliance.intake.control_listener import ControlLines
from appliance.intake.delivery import INTAKE as SENSOR
from appliance.intake.delivery import Delivering
from appliance.intake.device import Device
from appliance.intake.device_api import Api, session_limits
from appliance.intake.device_http import DeviceHttp
from appliance.intake.gate import Gate
from appliance.intake.http_listener import Ingest
from appliance.intake.upload_listener import Uploads
from appliance.interpreter import Interpreter
from appliance.keeper import Keeper
from appliance.newcomers import Newcomers, is_behind
from appliance.pages import Pages
from appliance.parts import Line, Parts
from appliance.plan import Plans
from appliance.presents import Presents
from appliance.provisioning import Provisioning
from appliance.recorder import Recorder
from appliance.shelf import SiteShelf
from appliance.tls import RENEWAL_S, SiteTls
from appliance.world import NodeState, Parse, Saved, SourceState, World, source_key
from fleet import events, lifecycle, limits
from fleet.authority import Names
from fleet.limits import SECOND
from fleet.node import Node
from fleet.projections import authority as authority_view
from fleet.projections import connectivity as connectivity_view
from fleet.projections import lifecycle as lifecycle_view
from fleet.snapshot import Snapshot
from store import budget, keys, ports, sealing, streams
from store.accounts import Accounts
from store.attention import Marks
from store.commands import Commands, load_nodes
from store.database import connect_reader
from store.devices import Devices
from store.faults import Fault, StoreFault
from store.folder import Folder
from store.gateways import Gateways
from store.ground import SET_META, Ground, readable
from store.history import HistoryIndex
from store.link_file import LinkFile
from store.policies import Policies
from store.quarantine import Quarantine
from store.rights import Rights
from store.series import SeriesStore
from store.shared import Shared
from store.supervisor import Supervisor
from store.telemetry import History, Telemetry, last_stray_id
from store.views import CHECKPOINT_S, Projection, View
from sync.link import Link
from sync.site import Me
from web import console
from web.app import application
from web.attention import attend
from web.policy import Entry
from web.serving import Serving
from web.stale import Stale

if TYPE_CHECKING:
    from appliance.intake.bridge import Bridge

log = logging.getLogger(__name__)

VERSION = "0.1.0"
_PING_RETRY_S = 60.0
_REMEMBER_S = 3.0
_SWITCH_S = 0.0005

PARSERS: Mapping[str, Parse] = {
    "bridge": lambda raw, at_ns: bridge_topics.parse(raw, received_ns=at_ns),
    syslog_listeners.INTAKE: lambda raw, at_ns: syslog.parse(raw, received_ns=at_ns),
    "http": lambda raw, at_ns: http.parse(raw, received_ns=at_ns),
    attributes.INTAKE: lambda raw, at_ns: attributes.parse(raw, received_ns=at_ns),
    mqtt_session.INTAKE: lambda raw, at_ns: payload.reading(payload.read(raw)),
    lines_listener.INTAKE: lambda raw, at_ns: lines.parse(raw, received_ns=at_ns),
    SENSOR: lambda raw, at_ns: http.parse(raw, received_ns=at_ns),
}

CONNECTIVITY = Projection(
    connectivity_view.NAME, connectivity_view.VERSION, connectivity_view.EMPTY, connectivity_view.advance
)
LIFECYCLE = Projection(lifecycle_view.NAME, lifecycle_view.VERSION, lifecycle_view.EMPTY, lifecycle_view.advance)
AUTHORITY = Projection(authority_view.NAME, authority_view.VERSION, authority_view.EMPTY, authority_view.advance)


class Appliance:
    """One site. `start`, then `stop`; what it listens on stands in `addresses`, the set-up link in `setup_path`."""

    def __init__(self, root: Path, config: configuration.Config) -> None:
        self.config = config
        self.folder = Folder(root)
        self.addresses: dict[str, str] = {}
        self.setup_path: str | None = None
        self._serving: Serving | None = None

    # -- starting ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Everything up and serving. FolderTaken, StoreFault, KeyProblem or ListenProblem, each with its sentence,
        when it cannot be; what was opened until then is closed again."""
        # Pages share the interpreter lock with the threads that read records; with Python's 5 ms a page that changes
        # threads four times would wait 20 ms for nothing.
        sys.setswitchinterval(_SWITCH_S)
        # What is made for a request or a record is gone by itself; looking through the whole world for cycles every
        # seven hundred objects would stop every thread for it.
        gc.set_threshold(50_000, 20, 100)
        self.folder.prepare()
        self.folder.hold()
        budget.make_room_to_start(self.folder)
        try:
            self._open()
            await self._listen()
        except BaseException:
            await self.stop()
            raise

    def _open(self) -> None:
        with readable(self.folder.site_db.name):
            self._open_stores()
            self._wire()

    def _open_stores(self) -> None:
        folder, site = self.folder, self.config.site
        ground = Ground(folder, site.tenant, site.name, lambda fault: self._fault_turned("site.db", fault))
        self.ground = ground
        self.key, self.clock, self.identity = ground.key, ground.clock, ground.identity
        self.journal, self.site, self.reader = ground.journal, ground.writer, ground.reader
        wall_ns, mono_ns = self.clock.now_ns(), time.monotonic_ns()
        self.steady_ns: Callable[[], int] = lambda: wall_ns + time.monotonic_ns() - mono_ns
        self.started_ns = self.steady_ns()
        self.series, lost_series = self._open_series()
        self.connectivity: View[connectivity_view.State] = View(CONNECTIVITY, connectivity_view.State)
        self.lifecycle: View[lifecycle_view.State] = View(LIFECYCLE, lifecycle_view.State)
        self.authority: View[authority_view.State] = View(AUTHORITY, authority_view.State)
        ground.begin(VERSION, *((lost_series,) if lost_series is not None else ()))
        self.world = World()
        with contextlib.closing(connect_reader(folder.site_db)) as db:
            self.connectivity.load(db)
            self.lifecycle.load(db)
            self.authority.load(db)
            row = db.execute("SELECT value FROM meta WHERE key='cursor'").fetchone()
            self._load_world(db, int(row[0]) if row else 0)
            (segment_id,) = db.execute("SELECT coalesce(max(last_id), 0) FROM segment").fetchone()
            segment_id = max(segment_id, last_stray_id(db, folder))
        self.journal.listen(self._fold)
        self.turns = HistoryIndex(folder.history_db, folder.site_db, lambda: self.journal.position)
        self.journal.listen(self.turns.noticed)
        self.telemetry = Telemetry(folder)
        self.telemetry.open(segment_id, self.world.cursor)

    def _open_series(self) -> tuple[SeriesStore, events.TelemetryDamaged | None]:
        """series.db holds charts and nothing that cannot be spared: a damaged one is put aside and begun anew."""
        path = self.folder.series_db

        def turned(fault: StoreFault | None) -> None:
            self._fault_turned(path.name, fault)

        try:
            return SeriesStore(path, on_turn=turned), None
        except StoreFault as fault:
            if fault.fault is not Fault.DAMAGED:
                raise
            kept = self.folder.damaged / f"series-{self.clock.now_ns()}.db"
            path.rename(kept)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            log.error("%s; kept as damaged/%s, charts begin anew", fault, kept.name)
            said = events.TelemetryDamaged(path.name, fault.detail[:500], 0, 0, f"damaged/{kept.name}")
            return SeriesStore(path, on_turn=turned), said

    def _load_world(self, db: sqlite3.Connection, cursor: int) -> None:
        tenant, now_ns = self.identity.log.tenant, self.steady_ns()
        saved = {
            node_id: msgspec.msgpack.decode(body, type=Saved)
            for node_id, body in db.execute("SELECT node_id, body FROM snapshot")
        }
        for node in load_nodes(db, tenant):
            held = saved.get(node.id) or Saved(Standing(), Snapshot())
            standing = held.standing
            # A clock that went back since the last run must not make a node heard from the future.
            standing.heard_ns, standing.spoke_ns = min(standing.heard_ns, now_ns), min(standing.spoke_ns, now_ns)
            standing.heartbeat_ns, standing.mode_ns = min(standing.heartbeat_ns, now_ns), min(standing.mode_ns, now_ns)
            placed = self.lifecycle.state.standing.get(node.id)
            place = placed.place if placed else lifecycle.START
            self.world.nodes[node.id] = NodeState(node, standing, held.snapshot, place=place)
        claims: dict[str, str] = {}
        for text, *columns in db.execute(
            "SELECT key, node_id, first_ns, last_ns, records, last_record, sample FROM source WHERE tenant=?", (tenant,)
        ):
            node_id = columns[0]
            self.world.sources[text] = SourceState(source_key(text), *columns)
            self.world.sources[text].dirty = False
            if node_id is not None and node_id in self.world.nodes:
                claims[source_key(text).sender] = node_id
        for sender, node_id in claims.items():  # a claim is the sender's: it holds for every way in it uses
            self.world.claim(sender, node_id)
        unclaimed = [one.key.sender for one in self.world.sources.values() if one.node_id is None]
        self.world.let_go.update(filter(is_behind, unclaimed))
        self.world.cursor = min(cursor, self.series.record) if self.series.record else cursor

    def _wire(self) -> None:
        config, folder = self.config, self.folder
        tenant = self.identity.log.tenant
        self.gate = Gate(
            config.intake.queue_records, config.intake.queue_mib * configuration.MIB, config.intake.batch_records
        )
        self.pages = Pages()
        self.stale = Stale()
        self.supervisor = Supervisor()
        self.quarantine = Quarantine(self.journal, self.site, self.reader, tenant=tenant, now_ns=self.clock.now_ns)
        self.history = History(folder)
        self.interpreter = Interpreter(
            self.world,
            self.journal,
            self.site,
            self.series,
            self.history,
            PARSERS,
            bounds=Bounds(
                silence_ns_max=int(config.evaluator.silence_s * SECOND),
                heartbeat_ns_max=int(config.evaluator.heartbeat_s * SECOND),
            ),
            ping_bounds=ping.DEFAULT,
            steady_ns=self.steady_ns,
            wall_ns=self.clock.now_ns,
            tenant=tenant,
            quarantine=self.quarantine.put,
            stale=self.stale.mark,
            busy=lambda: self.gate.records > 4_096 or self.gate.bytes > limits.frame_bytes_max // 4,
            pages=self.pages,
        )
        self.interpreter.newest = self.telemetry.next_id - 1
        self.recorder = Recorder(
            self.gate,
            self.telemetry,
            stored=self.interpreter.stored,
            fault_turned=lambda fault: self._fault_turned("telemetry", fault),
            now_ns=self.clock.now_ns,
            linger_s=config.intake.linger_s,
        )
        self.keeper = Keeper(
            folder=folder,
            telemetry=self.telemetry,
            journal=self.journal,
            site=self.site,
            series=self.series,
            recorder=self.recorder,
            gate=self.gate,
            subject=self.identity.log.writer,
            budget_bytes=self._budget_bytes(),
            reserve_bytes=config.budget.reserve_mib * configuration.MIB,
            retention_ns=int(config.budget.retention_days * 86_400) * SECOND,
            now_ns=self.clock.now_ns,
            clock_trusted=lambda: self.clock.confidence() is events.Clock.SYNCED,
        )
        self.accounts = Accounts(self.journal, self.site, self.reader, tenant=tenant, now_ns=self.clock.now_ns)
        self._wire_link()
        commands = Commands(self.journal, self.site, tenant, self.shared)
        self._wire_devices(commands)
        self._wire_device_api(commands)
        self._wire_sensors()
        ways = (syslog_listeners.UDP, syslog_listeners.TCP, "http", mqtt_session.INTAKE, lines_listener.INTAKE)
        self.lines = {name: Line(name) for name in (*ways, SENSOR, "ping")}
        self.bridges = tuple(self._bridge(one) for one in config.bridge)
        self.mqtt = mqtt_listener.Endpoint(
            self.gate,
            self.doorkeeper,
            self.device_api,
            self.quarantine.put,
            terms=mqtt_session.Terms(config.mqtt.packet_kib_max * 1024, int(config.mqtt.session_hours_max * 3600)),
            connections_max=config.mqtt.connections_max,
            now_ns=self.clock.now_ns,
        )
        if config.syslog.tls:
            self.lines[syslog_tls.TLS] = Line(syslog_tls.TLS)
        self.box = ApplianceBox(
            Parts(
                folder=folder,
                clock=self.clock,
                identity=self.identity,
                journal=self.journal,
                reader=self.reader,
                commands=commands,
                shared=self.shared,
                autonomy=self.autonomy,
                policies=Policies(self.site, self.shared, self.clock, tenant),
                link=self.link,
                bundles=self.bundles,
                quarantine=self.quarantine,
                history=self.history,
                series=self.series,
                turns=self.turns,
                world=self.world,
                gate=self.gate,
                uploads=self.uploads,
                control=self.control_lines.control,
                recorder=self.recorder,
                interpreter=self.interpreter,
                keeper=self.keeper,
                supervisor=self.supervisor,
                stale=self.stale,
                lines=self.lines,
                bridges=self.bridges,
                connectivity=self.connectivity,
                lifecycle=self.lifecycle,
                parsers=PARSERS,
                steady_ns=self.steady_ns,
                version=VERSION,
                started_ns=self.started_ns,
                glass=lambda: self.accounts.glass,
                doorkeeper=self.doorkeeper,
            )
        )

        self.box.looked = self.control_lines.looked
        self.box.plans = Plans(
            folder.site_db,
            tenant,
            self.identity.site,
            self.journal,
            self.site,
            self.shared,
            lambda writer: self.identity.site if writer == self.identity.log.writer else self._names("").hub,
            self.clock.now_ns,
            self.stale.mark,
            self._nodes_changed,
        )
        known = self.world.nodes.__contains__
        self.box.device_commands = DeviceCommands(self.device_api, self.journal, self.site, known)
        self.box.devices = Desk(
            self.devices, config.intake.mode, self.clock.now_ns, self.box.entered, self.doorkeeper.tell_uses
        )
        self.box.marks = Marks(self.site, self.shared, tenant, lambda db, one: (None, ()))
        self.journal.listen(self.box.drifting.heard)
        with contextlib.closing(connect_reader(folder.site_db)) as db:
            self.box.drifting.load(db)

    def _wire_devices(self, commands: Commands) -> None:
        """Who devices are, and who may come in. Every way in with credentials asks `doorkeeper`."""
        intake, tenant = self.config.intake, self.identity.log.tenant
        self.tls = SiteTls(self.folder.root / "tls", self.config.tls, self.identity.site, self.clock.now_ns)
        self.devices = Devices(
            self.journal,
            self.site,
            self.reader,
            commands,
            tenant=tenant,
            now_ns=self.clock.now_ns,
            authority=self.tls.authority,
            certificate_days=self.config.tls.certificate_days,
            grace_ns=int(intake.grace_s * SECOND),
            token_days=intake.token_days,
        )
        self.doorkeeper = Gatekeeper(
            self.devices,
            tenant=tenant,
            now_ns=self.clock.now_ns,
            entered=lambda node, fresh: self.box.entered(node, fresh),
            mode=Mode(intake.mode),
            ttl_s=intake.auth_ttl_s,
            device_rate=Rate(intake.device_rate, intake.device_byte_rate, intake.burst_s),
            tenant_rate=Rate(intake.tenant_rate, intake.tenant_byte_rate, intake.burst_s),
        )

    def _wire_device_api(self, commands: Commands) -> None:
        """What devices may say and ask, whichever protocol carries it."""
        tenant, loop = self.identity.log.tenant, asyncio.get_running_loop()
        self.newcomers = Newcomers(
            Gateways(self.site, commands, tenant=tenant, now_ns=self.clock.now_ns),
            self.world,
            lambda brought: self.box.brought(brought),
            self.interpreter.forget_newcomer,
        )

        def newcomer(source: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended; the next start finds a source to adopt
                loop.call_soon_threadsafe(self.newcomers.told, source)

        self.interpreter.newcomer = newcomer
        stored, look = self.interpreter.newest, self.shared.look
        nodes = device_nodes.nodes(self.world, stored, self.folder.site_db, tenant, look, self.newcomers)
        rate = self.config.intake.device_rate
        self.device_api = Api(
            nodes,
            self.doorkeeper.provision,
            now_ns=self.clock.now_ns,
            limits_of=lambda device: session_limits(device, messages_per_s=rate),
            newcomers=self.newcomers,
        )
        self.device_http = DeviceHttp(
            self.device_api, self.doorkeeper, self.gate, self.quarantine.put, now_ns=self.clock.now_ns
        )

    def _bridge(self, said: configuration.Bridge) -> Bridge:
        """A broker that is subscribed to, as the configuration says."""
        from appliance.intake.bridge import Bridge, Way  # most sites have none, and paho takes a while to import

        values = msgspec.structs.asdict(said)
        values["client_id"] = said.client_id or f"skerry-{self.identity.log.writer}-{said.name}"
        way, meta = Way(**values), f"bridge:{said.name}"
        line = self.lines[way.intake] = Line(way.intake, address=said.url, state="not connected yet")

        def told(words: str, problem: bool) -> None:
            line.state, line.problem = ("", words) if problem else (words, None)
            self.stale.mark("intake")

        def load() -> frozenset[str]:
            with contextlib.closing(connect_reader(self.folder.site_db)) as db:
                row = db.execute("SELECT value FROM meta WHERE key=?", (meta,)).fetchone()
            return frozenset(msgspec.json.decode(row[0], type=list[str])) if row else frozenset()

        def save(filters: frozenset[str]) -> None:
            held = msgspec.json.encode(sorted(filters)).decode()
            with contextlib.suppress(StoreFault):  # the next start subscribes once more
                self.site.submit(lambda db: db.execute(SET_META, (meta, held))).result()

        return Bridge(
            way,
            self.gate,
            now_ns=self.clock.now_ns,
            quarantine=self.quarantine.put,
            remember=lambda: self._latest(f"bridge/{said.name}/"),
            subscribed=(load, save),
            told=told,
        )

    def _latest(self, prefix: str) -> list[tuple[str, bytes, tuple[str, ...]]]:
        """The latest records of the sources that begin so, oldest first, as far back as is quick."""
        found: list[tuple[str, bytes, tuple[str, ...]]] = []
        before, until = 1 << 62, time.monotonic() + _REMEMBER_S
        while before > 0 and len(found) < limits.bridge_messages_max and time.monotonic() < until:
            page = self.history.before(before, limits.batch_records_max, None, _REMEMBER_S)
            found += [(one.source, one.content, one.marks) for one in page.records if one.source.startswith(prefix)]
            before = page.scanned
        return found[::-1]

    def _wire_sensors(self) -> None:
        """Uploads, and the line on which this site asks for them."""
        tenant, history = self.identity.log.tenant, self.history
        self.uploads = Uploads(
            self.folder,
            self.gate,
            lambda pool: Delivering(
                self.gate,
                self.site,
                history,
                self.quarantine.put,
                pool,
                files=self.folder.files,
                tenant=tenant,
                newest=lambda: self.telemetry.next_id - 1,
                now_ns=self.clock.now_ns,
            ),
            self.reader,
            self.doorkeeper,
            self.quarantine.put,
            site=self.identity.log.writer,
            tenant=tenant,
            bounds=lambda: self.keeper.bounds,
            now_ns=self.clock.now_ns,
        )
        control = Control(self.identity.log.writer)
        self.control_lines = ControlLines(
            control, self.uploads, self.gate, self.doorkeeper, node_of=self._node_of, now_ns=self.steady_ns
        )

    def _node_of(self, device: Device) -> str:
        """Its node; of one that nobody knows, the node that claims what it sends."""
        return device.node_id or self.world.claims.get(source_key(device.source(SENSOR)).sender, "")

    def _wire_link(self) -> None:
        """The way to the hub; without a link file it waits for one."""
        self.shared = Shared(self.journal, self.clock, owner=False)
        here = self.identity.log.writer
        self.shared.rights = rights = Rights(
            lambda: self.authority.state, here, lambda node_id: here, self._names, lambda writer: writer != here
        )
        lease = Lease(self.clock, time.monotonic_ns)
        key, sealing_key = self.key, sealing.public_bytes(sealing.load_or_create(self.folder.sealing_key))
        shelf = self._shelf()
        shelf.sealing_key = sealing_key
        public_key = keys.public_bytes(key)
        me = Me(self.identity.log, self.identity.site, public_key, key.sign, VERSION, sealing_key)
        self.link = HubLink(
            self.folder, self.journal, self.site, shelf, me, self.clock.now_ns, self.stale.mark, self._make_link
        )
        with contextlib.closing(connect_reader(self.folder.site_db)) as db:
            self.link.load(db)
            lease.load(db)
        self.autonomy = Autonomy(self.journal, self.site, rights, lease, lambda: self.link.uplink.site, self.stale.mark)
        self.bundles = Bundles(self.folder, self.site, self.link, self._shelf, key, self.clock, self.stale.mark)

    def _names(self, place: str) -> Names:
        file = self.link.file
        return Names(file.hub if file is not None else "the hub", self.identity.site)

    def _shelf(self) -> SiteShelf:
        """The site's data for the protocol; each user has one of its own."""
        key = self.key
        shelf = SiteShelf(
            self.identity,
            self.journal,
            key,
            keys.public_bytes(key),
            self.shared,
            self.folder.segments,
            self.clock,
            Presents(self.world, lambda: self.connectivity.state),
            self._nodes_changed,
            self.quarantine.put,
        )
        shelf.people = self._people_changed
        if hasattr(self, "bundles"):
            shelf.sealing_key = self.bundles.public_key
        if hasattr(self, "link") and self.link.file is not None:
            shelf.invitation = bytes.fromhex(self.link.file.secret)
            shelf.pinned = (self.link.file.hub_writer, bytes.fromhex(self.link.file.hub_key))
        return shelf

    def _make_link(self, file: LinkFile, writer: str) -> Link:
        from sync.jetstream import SiteEnd

        ca = self.folder.hub_ca if file.ca else None
        if ca is not None:
            ca.write_text(file.ca)
        return SiteEnd(file.urls, file.tenant, file.link, file.password, ca=ca)

    def _people_changed(self, names: frozenset[str]) -> None:
        """Accounts of the hub came, or went: with them their sessions."""
        self.accounts.forget(names)
        self.stale.mark("people")

    def _nodes_changed(self, nodes: Sequence[Node]) -> None:
        """Documents that others changed were merged: the world follows."""
        for node in nodes:
            self.interpreter.post(partial(self._follow, node))

    def _follow(self, node: Node) -> None:
        state = self.world.nodes.get(node.id)
        if state is not None:
            state.node = node
            self.stale.mark(f"node:{node.id}")
            self.stale.mark("site")

    def _budget_bytes(self) -> int:
        """The budget as configured, or three quarters of what was free at the first start, remembered."""
        if self.config.budget.total_mib:
            return self.config.budget.total_mib * configuration.MIB

        def job(db: sqlite3.Connection) -> int:
            row = db.execute("SELECT value FROM meta WHERE key='budget_bytes'").fetchone()
            if row is not None:
                return int(row[0])
            chosen = budget.first_budget(self.folder)
            db.execute(SET_META, ("budget_bytes", str(chosen)))
            return chosen

        return self.site.submit(job).result()

    async def _listen(self) -> None:
        config = self.config
        self.keeper.start()  # first: what an unclean stop left unreadable is put right before anybody reads on
        self.recorder.start()
        self.interpreter.start()
        self.turns.start()
        if config.syslog.udp:
            host, port = configuration.address(config.syslog.udp, "syslog.udp")
            self.udp = syslog_listeners.UdpListener(self.gate, host, port, now_ns=self.clock.now_ns)
            self.udp.start()
            self._listening(syslog_listeners.UDP, *self.udp.address)
        if config.syslog.tcp:
            host, port = configuration.address(config.syslog.tcp, "syslog.tcp")
            self.tcp = syslog_listeners.TcpListener(self.gate, host, port, now_ns=self.clock.now_ns)
            await self.tcp.start()
            self._listening(syslog_listeners.TCP, *self.tcp.address)
        if config.syslog.tls:
            host, port = configuration.address(config.syslog.tls, "syslog.tls")
            self.syslog_tls = syslog_tls.TlsListener(
                self.gate,
                host,
                port,
                self.tls.server(clients=config.syslog.tls_clients),
                self.doorkeeper,
                self.quarantine.put,
                now_ns=self.clock.now_ns,
            )
            self.syslog_tls.start()
            self._listening(syslog_tls.TLS, *self.syslog_tls.address)
        await self._listen_for_mqtt()
        for bridge in self.bridges:
            bridge.start()
        if config.ping.enabled:
            self.supervisor.run("ping", self._ping_loop)
        self.supervisor.run("link", self.link.run)
        self.supervisor.run("authority", self.autonomy.run)
        self.supervisor.run("rates", self._rates_loop)
        self.supervisor.run("quarantine", self._quarantine_loop)
        self.supervisor.run("tls", self._tls_loop)
        self.supervisor.run("doorkeeper", self.doorkeeper.run)
        self.supervisor.run("attributes", self.device_api.attributes.run)
        self.supervisor.run("newcomers", self.newcomers.run)
        self.journal.listen(device_nodes.listener(asyncio.get_running_loop(), self.device_api.attributes.changed))
        self.supervisor.run("clock", self.ground.watch_clock)
        self.supervisor.run("threads", self._threads_loop)
        self.supervisor.run("views", self._views_loop)
        self.supervisor.run("drift", lambda: self.box.drifting.run(self.stale.mark))
        self.supervisor.run("attention", lambda: attend(self.box.look))
        if await self.accounts.needs_setup():
            self.setup_path = f"/setup/{await self.accounts.setup_secret()}"
        await self._serve()

    async def _listen_for_mqtt(self) -> None:
        config, line = self.config.mqtt, self.lines[mqtt_session.INTAKE]
        if config.tls_listen:
            host, port = configuration.address(config.tls_listen, "mqtt.tls_listen")
            shown = ports.shown(*await self.mqtt.listen(host, port, self.tls.server(clients="optional")))
            self.addresses["mqtt-tls"], line.address = shown, f"{shown} (TLS)"
        if config.listen:
            host, port = configuration.address(config.listen, "mqtt.listen")
            self.addresses[mqtt_session.INTAKE] = shown = ports.shown(*await self.mqtt.listen(host, port))
            line.address = f"{shown}, {line.address}" if line.address else shown
        self.supervisor.run("mqtt", self.mqtt.run)

    def _listening(self, intake: str, host: str, port: int) -> None:
        self.addresses[intake] = self.lines[intake].address = ports.shown(host, port)

    async def _serve(self) -> None:
        with contextlib.closing(connect_reader(self.folder.site_db)) as db:
            begun = streams.begun(db, self.identity.log.tenant)
        await self.uploads.open(begun)
        listener = ports.tcp_listener("http", *configuration.address(self.config.http.listen, "http.listen"))
        self._listening("http", *listener.getsockname()[:2])
        over_tls = self._https()
        ingest = Ingest(
            self.gate,
            self.quarantine.put,
            now_ns=self.clock.now_ns,
            doorkeeper=self.doorkeeper,
            splits_max=self.config.intake.workers,
        )
        provisioning = Provisioning(self.doorkeeper, self.tls.authority, self.quarantine.put, self.clock.now_ns)
        self.lines[SENSOR].address = self.lines["http"].address
        self.supervisor.run("uploads", self.uploads.run)
        self.supervisor.run("control", self.control_lines.run)
        if self.config.sensor.mdns:
            self.supervisor.run("announce", self._announce_loop)
        app = application(
            self.box,
            self.accounts,
            extra_routes=(
                *ingest.routes(),
                *self._line_protocol(ingest),
                *provisioning.routes(),
                *console.ROUTES,
                *link_console.routes(self.link, self.bundles),
                *self.device_http.routes(),
                *self.uploads.routes(),
            ),
            extra_talks=(*self.mqtt.talks(), *self.control_lines.talks()),
            secure_cookies=self.config.http.public_url.startswith("https:"),
            clock=self.clock.now_ns,
        )
        control = ports.control_listener(self.folder.control)
        self._serving = Serving(self.pages.around(app), [listener, control], over_tls)
        await self._serving.start()

    def _https(self) -> tuple[socket.socket, ssl.SSLContext] | None:
        if not self.config.http.tls_listen:
            return None
        listener = ports.tcp_listener("https", *configuration.address(self.config.http.tls_listen, "http.tls_listen"))
        self.addresses["https"] = shown = ports.shown(*listener.getsockname()[:2])
        self.lines["http"].address += f", {shown} (TLS)"
        return listener, self.tls.server()

    def _line_protocol(self, ingest: Ingest) -> tuple[Entry, ...]:
        config = self.config.lines
        if not config.enabled:
            return ()
        self.lines[lines_listener.INTAKE].address = self.lines["http"].address
        listener = lines_listener.Lines(
            self.gate,
            self.quarantine.put,
            self.doorkeeper,
            tags=config.tags,
            room=ingest.room,
            now_ns=self.clock.now_ns,
        )
        return listener.routes()

    # -- loops ------------------------------------------------------------------------------------------------

    async def _announce_loop(self) -> None:
        """Until the end: devices find this site by multicast DNS."""
        said, line = self.config.sensor, self.lines[SENSOR]
        port = said.mdns_port or int(self.addresses["http"].rpartition(":")[2])
        announcer = Announcer(
            self.identity.site,
            self.identity.log.writer,
            port,
            fingerprint_of(Path(said.mdns_ca)),
            name=said.mdns_name,
            interface=said.mdns_interface,
        )
        try:
            await announcer.start()
        except OSError as error:
            line.problem = f"this site cannot be announced: {error}"
            raise
        line.problem = None
        try:
            await asyncio.Event().wait()
        finally:
            await announcer.stop()

    async def _ping_loop(self) -> None:
        line = self.lines["ping"]
        tally = self.gate.tally("ping")
        with contextlib.closing(ping.Sweeper()) as sweeper:
            while True:
                addresses = sorted(
                    {point.address for state in tuple(self.world.nodes.values()) for point in state.node.endpoints[:1]}
                )
                good = [address for address in addresses if ping.refusal(address) is None]
                try:
                    echoes = await asyncio.to_thread(sweeper.sweep, good, timeout_s=self.config.ping.timeout_s)
                except ping.PingNotPermitted as problem:
                    line.problem = str(problem)
                    await asyncio.sleep(_PING_RETRY_S)
                    continue
                line.problem, line.address = None, f"{len(good)} addresses"
                tally.records += sum(echo.rtt_ms is not None for echo in echoes)
                if echoes:
                    self.interpreter.echoes(echoes)
                await asyncio.sleep(self.config.ping.every_s)

    async def _rates_loop(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            for name, line in self.lines.items():
                line.tick(self.gate.tally(name))
            self.stale.mark("intake")

    async def _quarantine_loop(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if await self.quarantine.flush():
                self.stale.mark("quarantine")

    async def _views_loop(self) -> None:
        """A start after a crash folds what came since the last checkpoint, so there is one now and then."""
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            for view in (self.connectivity, self.lifecycle, self.authority):
                if view.is_far():
                    with contextlib.suppress(StoreFault):
                        await self.site.write(view.checkpoint)

    async def _tls_loop(self) -> None:
        while True:
            await asyncio.sleep(RENEWAL_S)
            await asyncio.to_thread(self.tls.renew)

    async def _threads_loop(self) -> None:
        """The keeper keeps house on a thread that may fall; it is started again where it stands."""
        while True:
            await asyncio.sleep(5.0)
            if not self.keeper.alive:
                self.supervisor.restarts["threads"] += 1
                await asyncio.to_thread(self.keeper.start)

    def _fold(self, batch: Any) -> None:
        self.connectivity.fold(batch)
        self.lifecycle.fold(batch)
        self.authority.fold(batch)
        if self.stale.watchers:  # or thousands of topics a second are made for nobody
            self.stale.mark("journal", *{f"node:{one.subject}" for one in batch})

    def _fault_turned(self, store: str, fault: StoreFault | None) -> None:
        if hasattr(self, "keeper"):
            self.keeper.fault_turned(store, fault)
            self.stale.mark("intake")
            self.stale.mark("site")

    # -- stopping ---------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Take nothing more, write what was taken, say so in the log, close."""
        if hasattr(self, "stale"):
            self.stale.closing = True
        if hasattr(self, "device_http"):
            self.device_http.stop()
        if self._serving is not None:
            self._serving.ask_to_stop()
        if hasattr(self, "supervisor"):
            await self.supervisor.stop()
        if hasattr(self, "mqtt"):
            await self.mqtt.stop()
        if hasattr(self, "tcp"):
            await self.tcp.stop()
        if hasattr(self, "syslog_tls"):
            await self.syslog_tls.stop()
        if hasattr(self, "udp"):
            await asyncio.to_thread(self.udp.stop)
        for bridge in getattr(self, "bridges", ()):
            await asyncio.to_thread(bridge.stop)
        if self._serving is not None:
            await self._serving.stopped()
        if hasattr(self, "uploads"):
            await self.uploads.close()
        if hasattr(self, "recorder") and self.recorder.alive:
            self.gate.close()
            await asyncio.to_thread(self.recorder.join)
            await asyncio.to_thread(self.interpreter.stop)
            await asyncio.to_thread(self.keeper.stop)
            with contextlib.suppress(StoreFault):
                await self.doorkeeper.tell_uses()
                await self.quarantine.flush()
                views = (self.connectivity, self.lifecycle, self.authority)
                checkpoints = [view.checkpoint for view in views]
                await asyncio.to_thread(self.ground.end, "asked to", *checkpoints)
        if hasattr(self, "turns"):
            await asyncio.to_thread(self.turns.stop)
        if hasattr(self, "series"):
            await self.series.close()
        if hasattr(self, "shared"):
            self.shared.close()
        if hasattr(self, "ground"):
            await self.ground.close()
        self.folder.control.unlink(missing_ok=True)
        self.folder.release()
