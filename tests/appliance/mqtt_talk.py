"""A box that speaks MQTT without a network, and devices that speak with it: bytes go straight to the decider, time passes
when a test says so, and what is offered is stored at once, or when the test lets it."""

from __future__ import annotations

from typing import Any, TypeVar

from appliance.intake import mqtt_codec as codec
from appliance.intake.device import Away, Device, Line, Taken, Turned, Unreadable
from appliance.intake.mqtt_codec import NONE, V5, V311, Ack, Connack, Connect, Kind, Packet, Publish, Subscribe
from appliance.intake.mqtt_session import Batch, Connection, Said, Session, Sessions, Terms
from fleet.limits import SECOND

P = TypeVar("P")
LEVELS = (V311, V5)
AT_NS = 1_795_239_626 * SECOND


class Broken(Unreadable):
    JSON = "this is no JSON"


class Api:
    """What is published is a record; a topic below `bob/` is Bob's alone, and `lines` are those that are connected."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.away: list[Away] = []
        self.heard: list[tuple[str, bytes]] = []

    def opened(self, line: Line) -> None:
        self.lines.append(line)

    def closed(self, line: Line) -> None:
        self.lines.remove(line)

    def left(self, line: Line, away: Away) -> None:
        self.away.append(away)

    def back(self, away: Away, line: Line) -> None:
        self.away.remove(away)

    def gone(self, away: Away) -> None:
        self.away.remove(away)

    def may_subscribe(self, device: Device, topic_filter: str) -> bool:
        return not topic_filter.startswith("mallory/")

    def published(self, line: Line, topic: str, payload: bytes) -> Taken:
        self.heard.append((topic, payload))
        if topic.startswith("mallory/"):
            return Taken(refused=Turned.FOREIGN)
        if topic.startswith("secret/"):
            return Taken(refused="wrong key", secret=True)
        if topic == "broken":
            return Taken(refused=Broken.JSON)
        if topic == "nothing":
            return Taken()
        if topic == "gateway":
            return Taken((("mast", payload), ("buoy", payload)), intake="attributes")
        return Taken((("", payload),))


class Box:
    def __init__(self, terms: Terms | None = None) -> None:
        self.api = Api()
        self.now_ns = 1_000 * SECOND
        self.tokens: dict[str, Device | Turned] = {}
        self.room: list[float] = []  # the next answers of the bucket; then there is room
        self.stored: list[tuple[str, bytes]] = []
        self.said: list[Said] = []
        self.slow = False  # batches wait for `commit`
        self.waiting: list[tuple[Client, Batch]] = []
        self.fault = ""
        self.made = 0
        self.sessions = Sessions(self.api, self._allow, self._new_id, terms or Terms())
        self.clients: list[Client] = []

    def _allow(self, device: Device, messages: int, size: int) -> float:
        return self.room.pop(0) if self.room else 0.0

    def _new_id(self) -> str:
        self.made += 1
        return f"made-{self.made}"

    def commit(self, stored: bool = True) -> None:
        waiting, self.waiting = self.waiting, []
        for client, batch in waiting:
            if stored:
                self.stored += [(offer.source, offer.raw) for offer in batch.offers]
            client.connection.landed(batch, stored)
        self.settle()

    def pass_s(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND)
        for client in self.clients:
            client.connection.tick(self.now_ns, AT_NS)
        self.sessions.tick(self.now_ns, AT_NS)
        self.settle()

    def settle(self) -> None:
        for client in (*self.clients, *self.clients):  # one may have ended another
            client.drain()
        self.said += self.sessions.refused
        self.sessions.refused.clear()
        self.stored += [(offer.source, offer.raw) for offer in self.sessions.orphans]
        self.sessions.orphans.clear()

    @property
    def raws(self) -> list[bytes]:
        return [raw for _, raw in self.stored]

    @property
    def counted(self) -> list[str]:
        return [one.reason for one in self.said]

    def client(self, level: int = V5, client_id: str = "bob", **wishes: Any) -> Client:
        """One that is connected."""
        made = Client(self, level)
        made.connect(client_id, **wishes)
        assert made.last(Connack).reason == 0, made.heard
        return made


class Client:
    """Says packets or bytes, and holds what it heard."""

    def __init__(self, box: Box, level: int = V5) -> None:
        self.box, self.level = box, level
        self.device = Device("", "")
        self.connection = Connection(box.sessions, self, box.now_ns)
        self.heard: list[Packet] = []
        self.bytes_heard = 0
        box.clients.append(self)

    def connect(self, client_id: str = "bob", *, token: str = "", **wishes: Any) -> Client:
        if token:
            wishes["user"] = token
        self.says(Connect(self.level, client_id, **wishes))
        return self

    def says(self, *packets: Packet) -> list[Packet]:
        """What is heard in answer."""
        return self.bytes_say(b"".join(codec.encode(packet, self.level) for packet in packets))

    def bytes_say(self, data: bytes, piece: int = 0) -> list[Packet]:
        before = len(self.heard)
        for at in range(0, len(data), piece or len(data) or 1):
            self.connection.receive(data[at : at + piece] if piece else data, self.box.now_ns, AT_NS)
            self.box.settle()
        return self.heard[before:]

    def drain(self) -> None:
        connection, box = self.connection, self.box
        while connection.more:
            self._settle_batch()
            connection.go_on(box.now_ns, AT_NS)
        if connection.asked is not None:
            wish, connection.asked = connection.asked, None
            who = (
                box.tokens.get(wish.user, Turned.UNKNOWN)
                if wish.user
                else Device("", wish.client_id, address="10.0.0.7")
            )
            if isinstance(who, Device):
                self.device = who
            connection.admit(wish, who, box.now_ns, AT_NS, box.fault)
        self._settle_batch()
        box.said += connection.said
        connection.said.clear()
        out, connection.out = b"".join(connection.out), []
        self.bytes_heard += len(out)
        at = 0
        while at < len(out):
            found = codec.head(out, at, codec.PACKET_BYTES_MAX)
            assert found is not None
            first, begin, at = found
            self.heard.append(codec.decode(first, out[begin:at], connection.level or self.level))

    def _settle_batch(self) -> None:
        connection, box = self.connection, self.box
        batch = connection.take()
        if batch is None:
            return
        if box.slow and batch.offers:
            box.waiting.append((self, batch))
        else:
            box.stored += [(offer.source, offer.raw) for offer in batch.offers]
            connection.landed(batch, True)

    def goes_on(self) -> None:
        """The bucket has room again."""
        self.connection.resume(self.box.now_ns, AT_NS)
        self.box.settle()

    def breaks(self) -> None:
        """The line breaks."""
        self.connection.lost(self.box.now_ns, AT_NS)
        self.box.settle()

    def send(self, topic: str, payload: bytes) -> bool:
        """To this client, as the API does."""
        sent = self.connection.send(topic, payload)
        self.box.settle()
        return sent

    def subscribes(self, *filters: str, qos: int = 0, **more: Any) -> list[Packet]:
        return self.says(Subscribe(9, tuple(codec.Filter(words, qos, **more) for words in filters)))

    def publishes(
        self, payload: bytes = b"{}", qos: int = 0, number: int = 1, topic: str = "t", **more: Any
    ) -> list[Packet]:
        return self.says(Publish(topic, payload, qos, packet_id=number if qos else 0, **more))

    def last(self, kind: type[P]) -> P:
        return next(packet for packet in reversed(self.heard) if isinstance(packet, kind))

    @property
    def session(self) -> Session:
        assert self.connection.session is not None
        return self.connection.session

    @property
    def ended(self) -> str:
        return self.connection.ended


def ack(kind: Kind, number: int, reason: int = 0) -> Ack:
    return Ack(kind, number, reason, NONE)
