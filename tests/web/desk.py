"""Devices of the pretended island: what the pages show of them, and what they ask for."""

from __future__ import annotations

from collections.abc import Callable

from fleet.devices import (
    CodeView,
    CodeWish,
    CredentialKind,
    CredentialView,
    DevicesView,
    DeviceView,
    EnrolWish,
    Issued,
)
from fleet.limits import DAY, HOUR, MINUTE
from fleet.people import Identity, Refused

CODE = "K7QX-2M4P-9TRB-W3CD"
TOKEN = "device_shown-this-once"
CA_SHA256 = ":".join(["AB"] * 32)


class Desk:
    def __init__(self, now: Callable[[], int], nodes: list[tuple[str, str]]) -> None:
        self._now, self.asked = now, list[tuple[str, ...]]()
        now_ns = now()
        self.mode = "dev"
        self.devices = [
            DeviceView(
                node_id=node_id,
                name=name,
                gateway=number == 2,
                enrolled_ns=now_ns - 3 * DAY,
                enrolled_by="alice",
                credentials=_credentials(number, now_ns),
            )
            for number, (node_id, name) in enumerate(nodes[:5])
        ]
        self.codes = [
            CodeView(
                id="01M6B73GE3000000000000C0DE",
                name="",
                node_kind=EnrolWish(name="").node_kind,
                gateway=False,
                uses=20,
                used=3,
                made_ns=now_ns - HOUR,
                made_by="olga",
                expires_ns=now_ns + DAY,
            )
        ]

    async def look(self, who: Identity, text: str, after: str, limit: int) -> DevicesView:
        found = [one for one in self.devices if text in one.name and one.name > after]
        return DevicesView(
            now_ns=self._now(),
            mode=self.mode,
            enrolled=len(self.devices),
            devices=tuple(found[:limit]),
            next=found[limit - 1].name if len(found) > limit else "",
            codes=tuple(self.codes),
            ca_pem="-----BEGIN CERTIFICATE-----\n",
            ca_sha256=CA_SHA256,
        )

    async def make_code(self, who: Identity, wish: CodeWish) -> tuple[CodeView, str]:
        self.asked.append(("code", who.name, wish.name, str(wish.uses)))
        made = CodeView(
            id="01M6B73GE3000000000000C0DF",
            name=wish.name,
            node_kind=wish.node_kind,
            gateway=wish.gateway,
            uses=wish.uses,
            used=0,
            made_ns=self._now(),
            made_by=who.name,
            expires_ns=self._now() + int(wish.hours * HOUR),
        )
        return made, CODE

    async def withdraw_code(self, who: Identity, code: str, why: str) -> None:
        if code not in {one.id for one in self.codes}:
            raise Refused("there is no such code, or it was withdrawn already", 404)
        self.asked.append(("withdraw", who.name, code))

    async def enrol(self, who: Identity, wish: EnrolWish, why: str) -> Issued:
        self.asked.append(("enrol", who.name, wish.name, wish.credential, why))
        secret = "" if wish.credential is CredentialKind.CERTIFICATE else TOKEN
        return Issued(node_id="01N", name=wish.name, credential="01C", kind=wish.credential, secret=secret)

    async def rotate(self, who: Identity, credential: str, why: str, pem: str, password: str) -> Issued:
        self._find(credential)
        self.asked.append(("rotate", who.name, credential, why))
        return Issued(node_id="01N", name="drone-01", credential="01C", kind=CredentialKind.TOKEN, secret=TOKEN)

    async def revoke(self, who: Identity, credential: str, why: str) -> None:
        self._find(credential)
        self.asked.append(("revoke", who.name, credential, why))

    def _find(self, credential: str) -> None:
        known = {one.id for device in self.devices for one in device.credentials}
        if credential not in known | {device.node_id for device in self.devices}:
            raise Refused("there is no such credential that still counts", 404)


def _credentials(number: int, now_ns: int) -> tuple[CredentialView, ...]:
    def one(place: int, kind: CredentialKind, label: str, **more: int | str | None) -> CredentialView:
        made = {"made_ns": now_ns - 3 * DAY, "made_by": "alice", **more}
        return CredentialView(id=f"01CRED{number}{place}", kind=kind, label=label, **made)  # type: ignore[arg-type]

    kinds = CredentialKind
    return (
        (
            one(0, kinds.TOKEN, "9TRBW3CD", used_ns=now_ns - 12 * MINUTE, used_from="10.0.0.7"),
            one(1, kinds.TOKEN, "2M4P9TRB", expires_ns=now_ns + 8 * HOUR, used_ns=now_ns - DAY, used_from="10.0.0.7"),
        ),
        (one(0, kinds.CERTIFICATE, "71c4a09be2f31d88", expires_ns=now_ns + 300 * DAY),),
        (one(0, kinds.PASSWORD, "gate-house", used_ns=now_ns - MINUTE, used_from="10.0.0.9"),),
        (one(0, kinds.TOKEN, "W3CD2M4P", revoked_ns=now_ns - HOUR),),
        (one(0, kinds.TOKEN, "7QX2M4P9", expires_ns=now_ns - DAY),),
    )[number]
