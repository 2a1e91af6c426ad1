"""What does the hub tell Prometheus? Sums over the fleet, and a few figures for each site, so that a rule can name it.

Times are told as times (`…_timestamp_seconds`), never as ages: an age would be wrong by the time it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleet.connectivity import Mode, Reach
from fleet.limits import SECOND
from hub.state import SiteHere
from web.ports import Gauge


def gauge(name: str, words: str, value: float, **labels: str) -> Gauge:
    return Gauge(name=f"skerry_{name}", help=words, kind="gauge", value=value, labels=tuple(labels.items()))


def fleet(reach: Mapping[Reach, int], sites: Sequence[SiteHere], refused: Mapping[str, int]) -> list[Gauge]:
    modes = dict.fromkeys(Mode, 0)
    for site in sites:
        modes[site.mode] += 1
    words = "Parcels from links that were not taken, by reason."
    found = [gauge("nodes", "Nodes by reach.", count, reach=each.value) for each, count in reach.items()]
    found += [gauge("sites", "Sites by mode.", count, mode=mode.value) for mode, count in modes.items()]
    found += [
        Gauge(name="skerry_link_refused_total", help=words, kind="counter", value=count, labels=(("reason", reason),))
        for reason, count in tuple(refused.items())
    ]
    return [
        *found,
        gauge("sites_quarantined", "Sites held in quarantine.", sum(bool(site.quarantine) for site in sites)),
        gauge("missing_events", "Events that sites have and the hub lacks.", sum(site.backlog for site in sites)),
        gauge("missing_segments", "Segments not here yet.", sum(site.segments_missing for site in sites)),
        *(one for site in sites for one in _site(site)),
    ]


def _site(site: SiteHere) -> list[Gauge]:
    held = bool(site.quarantine)
    receipt_ns = site.certificate.at_ns if site.certificate is not None and site.certificate.countersigned else None
    times = (
        ("site_heard_timestamp_seconds", "When the hub last heard the site.", site.heard_ns),
        ("site_present_timestamp_seconds", "When the site's newest present was true, by its clock.", site.present_ns),
        ("site_missing_since_timestamp_seconds", "Since when events of the site are missing.", site.oldest_missing_ns),
        ("site_receipt_timestamp_seconds", "When the last receipt that both signed was made.", receipt_ns),
    )
    return [
        gauge("site_mode", "1 for the mode that the site is in.", 1, site=site.name, mode=site.mode.value),
        gauge("site_missing_events", "Events that the site has and the hub lacks.", site.backlog, site=site.name),
        gauge("site_quarantined", "1 while the site is held in quarantine.", held, site=site.name),
        *(gauge(name, words, at_ns / SECOND, site=site.name) for name, words, at_ns in times if at_ns is not None),
    ]
