"""What a node is reached over: an edit that would close a circle is refused, with the circle by names."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.people import Refused
from tests.store.test_commands import KESTREL, MERLIN, Bridge, bridge

__all__ = ["bridge"]
OSPREY = "01SPREY0000000000000000001"


async def test_a_circle_is_refused_before_it_is_written_and_named(bridge: Bridge, tmp_path: Path) -> None:
    for node_id, name in ((KESTREL, "kestrel"), (MERLIN, "merlin"), (OSPREY, "osprey")):
        await bridge.adopt(node_id, name, f"syslog/10.0.0.7/{name}")
    await bridge.commands.change("alice", MERLIN, "upstream", KESTREL)
    await bridge.commands.change("alice", OSPREY, "upstream", MERLIN)
    before = len(bridge.told())
    with pytest.raises(Refused, match=r"kestrel → osprey → merlin → kestrel.*cut it"):
        await bridge.commands.change("alice", KESTREL, "upstream", OSPREY)
    with pytest.raises(Refused, match="kestrel → kestrel"):
        await bridge.commands.change("alice", KESTREL, "upstream", KESTREL)
    assert len(bridge.told()) == before
    await bridge.commands.change("alice", MERLIN, "upstream", "")
    await bridge.commands.change("alice", KESTREL, "upstream", OSPREY)
    (said,) = [one.body for one in bridge.told() if getattr(one.body, "field", "") == "upstream"][-1:]
    assert (said.former, said.value, said.actor) == ("", OSPREY, "alice")  # type: ignore[union-attr]
