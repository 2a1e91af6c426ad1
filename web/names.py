"""What are these ids called? For pages that show events: an event's subject is an id, a person reads names."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import Request

from web import asked


async def names(request: Request, subjects: Iterable[str]) -> dict[str, str]:
    """Node id → name, for those of `subjects` that are nodes here."""
    return dict(await asked.box(request).called(asked.who(request), frozenset(subjects)))


async def of_policies(request: Request) -> dict[str, str]:
    """Id → name of all domains and policy bundles: what a sentence may speak of (`words.named`)."""
    domains, bundles = await asked.box(request).policies.names()
    return dict(domains + bundles)
