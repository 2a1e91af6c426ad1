"""The load of a trial: devices on HTTP, TCP and UDP, and a person at the console; each writes its ledger.

Rules of the file
  1  Producers outlive the appliance: while nobody answers they try again, and aim anew when it is back.
  2  No message is ever sent twice: each attempt carries an id of its own, so that G can be asked of every one.
  3  What a message looks like comes from the seed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import cast
from auditor import Ledger

from appliance.intake import mqtt_codec as codec
from store.control import NotRunning, Refusal, call

NAMES = 12
_PATIENCE_S = 20.0


class Field:
    """Where the site is now; None while it is down."""

    def __init__(self) -> None:
        self.site: cast.Site | None = None
        self.stopping = threading.Event()


class Producer:
    """A thread that calls `turn` for each appliance it meets. `per_s` messages a second, as far as it is let."""

    def __init__(self, field: Field, ledger: Ledger, name: str, seed: str, per_s: float) -> None:
        self.field, self.ledger, self.name, self.per_s = field, ledger, name, per_s
        self.rng = random.Random(f"{seed} {name}")
        self.sent = 0
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def turn(self, site: cast.Site) -> int:
        """Send something; how many messages. OSError when nobody answers."""
        raise NotImplementedError

    def leave(self) -> None:
        """The site is gone, or another."""

    def message(self, **more: object) -> tuple[str, dict[str, object]]:
        self.sent += 1
        mid = f"{self.name}-{self.sent}"
        fields: dict[str, object] = {"mid": mid, "device": self.device(), "battery_pct": self.rng.randrange(100)}
        if self.rng.random() < 0.1:
            fields["text"] = "åäö ❄ " * self.rng.randrange(1, 200)
        return mid, fields | more

    def device(self) -> str:
        return f"drone-{self.rng.randrange(NAMES):02d}"

    def _run(self) -> None:
        known: cast.Site | None = None
        while not self.field.stopping.is_set():
            site = self.field.site
            if site is not known:
                self.leave()
                known = site
            began = time.monotonic()
            try:
                done = self.turn(site) if site is not None else 0
            except (OSError, http.client.HTTPException):
                self.leave()
                done = 0
            span = done / self.per_s * self.rng.uniform(0.5, 1.5) if done else 0.05
            self.field.stopping.wait(max(span - (time.monotonic() - began), 0.0))
        self.leave()


class Http(Producer):
    """Posts batches; an id is acknowledged by a 2xx that names its record. `answers` counts the statuses."""

    def __init__(
        self, field: Field, ledger: Ledger, name: str, seed: str, per_s: float = 500.0, batch: int = 40
    ) -> None:
        super().__init__(field, ledger, name, seed, per_s)
        self.answers: Counter[int] = Counter()
        self.batch = batch
        self._line: http.client.HTTPConnection | None = None

    def turn(self, site: cast.Site) -> int:
        if self._line is None:
            self._line = http.client.HTTPConnection("127.0.0.1", site.http, timeout=_PATIENCE_S)
        made = [self.message() for _ in range(self.rng.randint(1, self.batch))]
        raws = [json.dumps(fields).encode() for _, fields in made]
        for (mid, _), raw in zip(made, raws, strict=True):
            self.ledger.sending(mid, raw)
        body = b"\n".join(raws) if self.rng.random() < 0.5 else b"[" + b",".join(raws) + b"]"
        self._line.request("POST", "/v1/ingest", body)
        answer = self._line.getresponse()
        said = answer.read()
        if answer.status == 200:
            told = json.loads(said)
            assert told["stored"] == len(made) == told["last_id"] - told["first_id"] + 1
            for record_id, (mid, _) in enumerate(made, told["first_id"]):
                self.ledger.acknowledge(mid, record_id)
        self.answers[answer.status] += 1
        return len(made)

    def leave(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


def syslog(fields: dict[str, object], rng: random.Random) -> bytes:
    """RFC 5424 or RFC 3164, sometimes with bytes behind it that are no text."""
    said = json.dumps(fields, ensure_ascii=rng.random() < 0.5).encode()
    name = str(fields["device"]).encode()
    if rng.random() < 0.5:
        return b"<134>1 2026-11-21T05:40:26.070822Z %s agent - - - %s" % (name, said)
    return b"<134>Nov 21 05:40:26 %s agent: %s" % (name, said)


class Tcp(Producer):
    """Syslog on one connection, framed by octet counting or by lines. Nothing is acknowledged on this road; whoever
    closed in order may hold all that was sent for taken (`finish`)."""

    def __init__(
        self, field: Field, ledger: Ledger, name: str, seed: str, per_s: float = 300.0, batch: int = 30
    ) -> None:
        super().__init__(field, ledger, name, seed, per_s)
        self.batch = batch
        self._line: socket.socket | None = None
        self._counted = False

    def turn(self, site: cast.Site) -> int:
        if self._line is None:
            self._line = socket.create_connection(("127.0.0.1", site.tcp), _PATIENCE_S)
            self._counted = self.rng.random() < 0.5
        made = self.rng.randint(1, self.batch)
        self._line.sendall(b"".join(self._framed() for _ in range(made)))
        return made

    def _framed(self) -> bytes:
        mid, fields = self.message()
        raw = syslog(fields, self.rng)
        if self._counted and self.rng.random() < 0.1:
            raw += b" \xff\xfe\x00\x07" + self.rng.randbytes(8) + b"."
        self.ledger.sending(mid, raw)
        return b"%d %s" % (len(raw), raw) if self._counted else raw + b"\n"

    def leave(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


class Mqtt(Producer):
    """Publishes at QoS 1, or 2, a batch at a time; an id is acknowledged by its PUBACK, or its PUBREC."""

    def __init__(
        self, field: Field, ledger: Ledger, name: str, seed: str, per_s: float = 600.0, batch: int = 40
    ) -> None:
        super().__init__(field, ledger, name, seed, per_s)
        self.batch, self.level, self.qos = batch, 4, 1
        self._line: socket.socket | None = None
        self._rest = b""

    def turn(self, site: cast.Site) -> int:
        if self._line is None:
            self._dial(site)
        made = [self.message() for _ in range(self.rng.randint(1, self.batch))]
        waiting: dict[int, str] = {}
        said = b""
        for number, (mid, fields) in enumerate(made, 1):
            raw = json.dumps(fields).encode()
            self.ledger.sending(mid, raw)
            waiting[number] = mid
            said += codec.encode(codec.Publish("v1/devices/me/telemetry", raw, self.qos, packet_id=number), self.level)
        self._say(said)
        going = set(waiting)
        while going:
            packet = self._hear()
            assert isinstance(packet, codec.Ack), packet
            if packet.kind is not codec.Kind.PUBCOMP:
                self.ledger.acknowledge(waiting.pop(packet.packet_id))
            if packet.kind is codec.Kind.PUBREC:
                self._say(codec.encode(codec.Ack(codec.Kind.PUBREL, packet.packet_id), self.level))
            else:
                going.discard(packet.packet_id)
        return len(made)

    def _dial(self, site: cast.Site) -> None:
        self._line = socket.create_connection(("127.0.0.1", site.mqtt), _PATIENCE_S)
        self._rest = b""
        self.level, self.qos = self.rng.choice((4, 5)), self.rng.choice((1, 2))
        self._say(codec.encode(codec.Connect(self.level, self.name), self.level))
        packet = self._hear()
        if not isinstance(packet, codec.Connack) or packet.reason:
            raise ConnectionRefusedError(str(packet))

    def _say(self, data: bytes) -> None:
        assert self._line is not None
        self._line.sendall(data)

    def _hear(self) -> codec.Packet:
        assert self._line is not None
        while True:
            found = codec.head(self._rest, 0, codec.PACKET_BYTES_MAX)
            if found is not None and found[2] <= len(self._rest):
                first, begin, end = found
                body, self._rest = self._rest[begin:end], self._rest[end:]
                packet = codec.decode(first, body, self.level)
                if isinstance(packet, codec.Disconnect):
                    raise ConnectionAbortedError(str(packet))
                return packet
            data = self._line.recv(65_536)
            if not data:
                raise ConnectionResetError("the other side is gone")
            self._rest += data

    def leave(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


class Udp(Producer):
    def __init__(self, field: Field, ledger: Ledger, name: str, seed: str, per_s: float = 300.0) -> None:
        super().__init__(field, ledger, name, seed, per_s)
        self._line: socket.socket | None = None

    def turn(self, site: cast.Site) -> int:
        if self._line is None:
            self._line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made = self.rng.randint(1, 30)
        for _ in range(made):
            mid, fields = self.message()
            raw = syslog(fields, self.rng)
            if self.rng.random() < 0.1:
                raw += b" \xff\xfe\x00\x07\r\n" + self.rng.randbytes(8)
            self.ledger.sending(mid, raw)
            self._line.sendto(raw, ("127.0.0.1", site.udp))
        return made

    def leave(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


class Console(Producer):
    """A person who adopts devices and renames nodes. What was answered with a yes is in `adopted` and `named`; what
    was only wished for is in `wished`."""

    def __init__(self, field: Field, ledger: Ledger, name: str, seed: str, per_s: float = 20.0) -> None:
        super().__init__(field, ledger, name, seed, per_s)
        self.adopted: dict[str, str] = {}  # node id → the name it was adopted under
        self.named: dict[str, str] = {}  # node id → the last name that was acknowledged
        self.wished: dict[str, list[str]] = defaultdict(list)  # node id → names without an answer since then
        self.said: set[str] = set()  # every name that was ever asked for
        self.renamed: set[tuple[str, str]] = set()
        self.answers: Counter[str] = Counter()

    def turn(self, site: cast.Site) -> int:
        try:
            self._wish(site)
            self.answers["yes"] += 1
        except NotRunning as error:
            raise OSError(str(error)) from error
        except Refusal as refusal:
            self.answers[str(refusal)[:60]] += 1
        return 1

    def _wish(self, site: cast.Site) -> None:
        self.sent += 1
        name = f"{self.name}-{self.sent}"
        self.said.add(name)
        control = site.data / "control.sock"
        if not self.named or (len(self.named) < NAMES and self.rng.random() < 0.3):
            wish = {"source": f"syslog/127.0.0.1/{self.device()}", "name": name, "kind": "EDGE", "tags": []}
            node_id = str(call(control, "POST", "/api/v1/adopt", wish)["id"])
            self.adopted[node_id] = self.named[node_id] = name
            return
        node_id = self.rng.choice(sorted(self.named))
        self.wished[node_id].append(name)
        call(control, "PATCH", f"/api/v1/nodes/{node_id}", {"field": "name", "value": name})
        self.named[node_id] = name
        self.wished[node_id].clear()
        self.renamed.add((node_id, name))

    def problems(self, nodes: dict[str, str], told: Sequence[tuple[str, str, str]]) -> Iterator[str]:
        """Against node names by id, and the journal as (node id, kind, name) of what named a node, oldest first."""
        last = {node_id: name for node_id, _, name in told}
        for node_id, name in nodes.items():
            if name not in self.said:
                yield f"B: node {name} was never asked for"
            if last.get(node_id) != name:
                yield f"C: node {node_id} is {name}, and the journal says {last.get(node_id)}"
        for node_id, name in self.named.items():
            if nodes.get(node_id) not in (name, *self.wished[node_id]):
                yield f"A: node {node_id} was named {name}, and is {nodes.get(node_id)}"
        held = Counter(told)
        for node_id, name in self.adopted.items():
            if held[node_id, "node.adopted", name] != 1:
                yield f"A: the adoption of {name} stands {held[node_id, 'node.adopted', name]} times in the journal"
        for node_id, name in self.renamed:
            if held[node_id, "node.changed", name] != 1:
                yield f"A: the name {name} stands {held[node_id, 'node.changed', name]} times in the journal"


@contextlib.contextmanager
def working(field: Field, *producers: Producer) -> Iterator[None]:
    """Producers at work; ended afterwards, whatever happened."""
    for producer in producers:
        producer.thread.start()
    try:
        yield
    finally:
        rest(field, *producers)


def rest(field: Field, *producers: Producer) -> None:
    """No new message; what was under way is done."""
    field.stopping.set()
    for producer in producers:
        producer.thread.join(_PATIENCE_S * 2)
        assert not producer.thread.is_alive(), producer.name


def steadily(work: Callable[[], None], stopping: threading.Event, pause_s: float) -> threading.Thread:
    """Repeat `work` on a thread; while nobody answers it waits."""

    def run() -> None:
        while not stopping.is_set():
            with contextlib.suppress(NotRunning, Refusal):
                work()
            stopping.wait(pause_s)

    thread = threading.Thread(target=run, name="steadily", daemon=True)
    thread.start()
    return thread


def pause(rng: random.Random, seconds: float) -> float:
    """Let a random part of `seconds` go by: the instant of what comes next is the experiment."""
    span = rng.random() * seconds
    time.sleep(span)
    return span
