"""How does a device get its credential, and a new one in time? Over HTTP:

    POST /v1/provision             {"code", "name", "csr"}            → 201 {"node_id", "token"} or {…, "certificate", "ca"}
    POST /v1/device/token          Authorization: Bearer the old one  → 201 {"node_id", "token"}
    POST /v1/device/certificate    {"certificate", "csr", "signature"} → 201 {"node_id", "certificate", "ca"}
    GET  /v1/ca.pem                the certificate of the site's authority

Rules of the file
  1  A secret stands in the answer that makes it, and nowhere else: what is kept in quarantine is without the code.
  2  A certificate is renewed by whoever holds its key: the request is for the same key, or its text is signed with it
     (SHA-256; base64).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from appliance.doorkeeper import Gatekeeper
from appliance.intake.device import Device, Provision, Provisioned, Turned
from appliance.intake.http_listener import bearer_of
from fleet.people import Refused, Unavailable
from store import device_certificates
from store.certificates import CertificateProblem
from store.device_certificates import Authority
from web import forms, render
from web.auth import address_of
from web.policy import Entry, Policy

INTAKE = "provision"
_BODY_BYTES_MAX = 40_960  # two certificates and a name
_STATUS = {Turned.FLOOD: 429, Turned.MISSING: 422}
_WORDS = {
    Turned.UNKNOWN: "this activation code is not good: it was used, withdrawn, or its time is over; ask for another",
    Turned.MISSING: "an activation code is missing; an operator of this site makes one",
    Turned.FLOOD: "too many codes were tried from this address; wait a quarter of an hour",
}
_AGAIN = {
    Turned.UNKNOWN: "nobody knows this credential here",
    Turned.REVOKED: "this credential was revoked; ask an operator of this site",
    Turned.EXPIRED: "the time of this credential is over; ask an operator of this site for an activation code",
    Turned.MISSING: "show what is to be renewed: Authorization: Bearer …",
}


class Wish(msgspec.Struct, frozen=True):
    code: str = ""
    name: str = ""
    csr: str = ""


class Renewal(msgspec.Struct, frozen=True):
    certificate: str
    csr: str
    signature: str = ""


class Answer(msgspec.Struct, omit_defaults=True):
    node_id: str
    token: str = ""
    certificate: str = ""
    ca: str = ""


class Provisioning:
    def __init__(
        self,
        keeper: Gatekeeper,
        authority: Authority,
        quarantine: Callable[[str, str, str, bytes], None],
        now_ns: Callable[[], int],
    ) -> None:
        self._keeper, self._authority, self._quarantine, self._now_ns = keeper, authority, quarantine, now_ns

    def routes(self) -> tuple[Entry, ...]:
        public = Policy.PUBLIC
        return (
            Entry("POST", "/v1/provision", self.provision, public, _BODY_BYTES_MAX),
            Entry("POST", "/v1/device/token", self.renew_token, public, _BODY_BYTES_MAX),
            Entry("POST", "/v1/device/certificate", self.renew_certificate, public, _BODY_BYTES_MAX),
            Entry("GET", "/v1/ca.pem", self.ca, public),
        )

    async def provision(self, request: Request) -> Response:
        wish, address = await forms.document(request, Wish), address_of(request.scope)
        try:
            got = await self._keeper.trade(Provision(wish.code, wish.name, wish.csr), address)
        except Refused as refused:
            self._keep(address, wish, str(refused))
            raise
        if isinstance(got, Turned):
            self._keep(address, wish, "activation code: " + got)
            raise Refused(_WORDS[got], _STATUS.get(got, 403))
        return _given(got)

    def _keep(self, address: str, wish: Wish, why: str) -> None:
        """What was asked for, without the code."""
        raw = msgspec.json.encode({"name": wish.name, "csr": wish.csr})
        self._quarantine(INTAKE, f"{INTAKE}/{address}/{wish.name[:64]}", why, raw)

    async def renew_token(self, request: Request) -> Response:
        found = await self._keeper.token(bearer_of(request), address_of(request.scope))
        return _given(await self._keeper.renew(_known(found), "renewed by the device"))

    async def renew_certificate(self, request: Request) -> Response:
        wish, address = await forms.document(request, Renewal), address_of(request.scope)
        try:
            signature = base64.b64decode(wish.signature, validate=True)
            shown = device_certificates.check_renewal(wish.certificate, wish.csr, signature)
        except (CertificateProblem, binascii.Error) as problem:
            raise Refused(str(problem), 422) from problem
        found = await self._keeper.shown(shown, address)
        return _given(await self._keeper.renew(_known(found), "renewed by the device", wish.csr))

    async def ca(self, request: Request) -> Response:
        try:
            pem = self._authority.ca_pem(self._now_ns())
        except CertificateProblem as problem:
            raise Unavailable(str(problem)) from problem
        return PlainTextResponse(pem, media_type="application/x-pem-file")


def _known(found: Device | Turned) -> Device:
    if isinstance(found, Turned) or not found.credential:
        why = found if isinstance(found, Turned) else Turned.UNKNOWN
        raise Refused(_AGAIN.get(why, why), 401)
    return found


def _given(got: Provisioned) -> Response:
    answer = Answer(got.node_id, got.token, got.certificate_pem, got.ca_pem)
    response = render.data(answer, 201)
    response.headers["cache-control"] = "no-store"
    return response
