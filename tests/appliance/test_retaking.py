"""What was turned away is taken in after a person has mended what was wrong: as it came, once, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import msgspec
import pytest

from appliance.config import Intake
from fleet.devices import EnrolWish
from fleet.events import QuarantineSettled
from fleet.node import Kind
from fleet.people import Identity, Refused, Role
from store.faults import Fault, StoreFault
from tests.cast import eventually_async
from tests.conftest import ALDER
from web.ports import QuarantineItem, RecordView

if TYPE_CHECKING:
    from appliance.compose import Appliance

ALICE = Identity(name="alice", role=Role.ADMIN, address="10.0.0.2")
BODY = '{"battery_pct": 64}'


@pytest.fixture
async def prod(tmp_path: Path) -> AsyncIterator[Appliance]:
    from appliance.compose import Appliance

    box = Appliance(tmp_path / "alder", msgspec.structs.replace(ALDER, intake=Intake(mode="prod")))
    await box.start()
    yield box
    await box.stop()


async def turned_away(box: Appliance, *bodies: str) -> Sequence[QuarantineItem]:
    """What lies in quarantine after a device without a credential has sent these."""
    async with httpx2.AsyncClient(base_url=f"http://{box.addresses['http']}", trust_env=False) as client:
        for body in bodies:
            answer = await client.post("/v1/ingest", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 401
    return await eventually_async(
        lambda: box.box.quarantine(ALICE, 0, 50, settled=False), lambda found: len(found) == len(bodies)
    )


async def enrol(box: Appliance, name: str) -> str:
    assert box.box.devices is not None
    return (await box.box.devices.enrol(ALICE, EnrolWish(name=name), "a test")).node_id


async def records(box: Appliance, node_id: str, count: int) -> Sequence[RecordView]:
    async def look() -> Sequence[RecordView]:
        return (await box.box.records_after(ALICE, 0, 100, node_id)).records

    return await eventually_async(look, lambda found: len(found) >= count)


async def test_what_was_kept_becomes_a_record_of_the_device_with_its_bytes_and_its_time(prod: Appliance) -> None:
    (item,) = await turned_away(prod, BODY)
    assert (item.outside, item.reason) == (True, "no credential")
    node_id = await enrol(prod, "drone-01")
    await prod.box.settle(ALICE, item.id, "retry", "drone-01")
    (record,) = await records(prod, node_id, 1)
    assert (record.source, record.at_ns) == (f"http/@{node_id}/", item.at_ns)
    (said,) = await prod.box.timeline(ALICE, 0, 10, kind="quarantine.settled")
    assert said.body == QuarantineSettled(item.id, "retry", "no credential", "alice", f"http/@{node_id}/")
    with pytest.raises(Refused, match="already settled"):
        await prod.box.settle(ALICE, item.id, "retry", "drone-01")


async def test_an_attempt_that_was_cut_off_is_finished_and_not_repeated(
    prod: Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    (item,) = await turned_away(prod, BODY)
    node_id = await enrol(prod, "drone-01")

    async def cut(*terms: object) -> None:
        raise StoreFault(Fault.IO, "site.db", "the power went")

    with monkeypatch.context() as patch:
        patch.setattr(prod.quarantine, "settle", cut)
        with pytest.raises(StoreFault):
            await prod.box.settle(ALICE, item.id, "retry", "drone-01")
    await records(prod, node_id, 1)
    await prod.box.settle(ALICE, item.id, "retry", "drone-01")
    assert len(await records(prod, node_id, 1)) == 1
    assert not await prod.box.quarantine(ALICE, 0, 50, settled=False)


async def test_it_stays_until_somebody_has_claimed_it(prod: Appliance) -> None:
    (item,) = await turned_away(prod, BODY)
    with pytest.raises(Refused, match="nobody has claimed"):
        await prod.box.settle(ALICE, item.id, "retry")
    with pytest.raises(Refused, match="no node"):
        await prod.box.settle(ALICE, item.id, "retry", "drone-77")
    node_id = await prod.box.adopt(ALICE, item.source, "drone-01", Kind.EDGE, ())
    with pytest.raises(Refused, match="no enrolled device"):
        await prod.box.settle(ALICE, item.id, "retry", "drone-01")
    await prod.box.settle(ALICE, item.id, "retry")
    (record,) = await records(prod, node_id, 1)
    assert record.source == item.source


async def test_all_that_came_from_there_is_taken_in_at_once(prod: Appliance) -> None:
    items = await turned_away(prod, *(f'{{"battery_pct": {number}}}' for number in range(20)))
    node_id = await enrol(prod, "drone-01")
    await prod.box.settle(ALICE, items[-1].id, "retry", "drone-01", alike=True)
    found = await records(prod, node_id, 20)
    assert len(found) == 20
    assert not await prod.box.quarantine(ALICE, 0, 50, settled=False)
