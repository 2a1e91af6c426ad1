"""One tenant's lines: its end at the broker that all share (`hub.quay`), the wharf behind, and its invitations. Started, and
asked for invitations; what travels over them is none of its business."""

from __future__ import annotations

from collections.abc import Sequence

from hub.broker import Admission, Broker
from hub.quay import Quay
from hub.wharf import Wharf, link_file_of
from store.link_file import LinkFile
from store.peers import Invitation


class Lines:
    def __init__(self, quay: Quay, tenant: str, wharf: Wharf) -> None:
        self.wharf, self.broker = wharf, quay.broker
        self._quay, self._tenant = quay, tenant
        self._invited: dict[str, Invitation] = {}
        quay.entries[tenant] = self._entries

    async def start(self, invitations: list[Invitation]) -> None:
        """Who was invited may connect from now on."""
        self._invited = {one.name: one for one in invitations if one.link}
        await self.broker.admit(*map(_admission, self._invited.values()))

    async def run(self) -> None:
        """Supervised, for ever."""
        await self.wharf.run(self._quay.end_of(self._tenant))

    async def invite(self, actor: str, name: str, urls: Sequence[str], me: tuple[str, str, bytes, bytes]) -> LinkFile:
        """A link file for a new site; `me` is the hub's name, writer, key and sealing key. Refused (422) with `urls` under
        which no site can reach this hub."""
        asked = self._quay.checked(urls)
        made, secret = await self.wharf.invite(actor, name)
        former = self._invited.get(name)
        if former is not None:
            await self.broker.expel(former.tenant, former.link)
        self._invited[name] = made
        await self.broker.admit(_admission(made))
        return link_file_of(made, secret, *me, asked, self._quay.ca_text)

    @property
    def problem(self) -> str:
        """Why no site can come in now, in a sentence; empty when they can."""
        return self.wharf.link.problem if self.wharf.link is not None else ""

    def shown(self) -> dict[str, object]:
        link = self.wharf.link
        return {"url": self.broker.url, "up": link is not None and link.up, "problem": self.problem}

    def to_enter(self, *, everybody: bool = True) -> tuple[str, dict[str, str]]:
        """For who runs the NATS server, if that is not us: its configuration, for all tenants or for this one; and what of
        it is each of this one's sites'."""
        return self._quay.to_enter(tuple(self._quay.entries) if everybody else (self._tenant,)), self._entries()

    def _entries(self) -> dict[str, str]:
        if isinstance(self.broker, Broker):
            return {}
        return {name: self.broker.site_entry(_admission(one)) for name, one in self._invited.items()}


def _admission(one: Invitation) -> Admission:
    return Admission(one.tenant, one.link, one.password)
