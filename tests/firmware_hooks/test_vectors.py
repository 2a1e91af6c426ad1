"""The contract's vectors, through the appliance's own parsers: these bytes mean this reading."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.compose import PARSERS as OF_THE_BOX
from appliance.intake import http, lines, syslog
from fleet.reading import Reading

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "firmware-hooks" / "vectors.json").read_text(encoding="utf-8")
)
PARSERS = {name: OF_THE_BOX[name] for name in ("mqtt", "attributes", "lines", "sensor")} | {
    "syslog": lambda raw, at_ns: syslog.parse(raw, received_ns=at_ns),
    "http": lambda raw, at_ns: http.parse(raw, received_ns=at_ns),
}
SENDERS = {"syslog": syslog.sender, "http": http.sender, "lines": lines.sender}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_bytes_mean_what_the_contract_says(vector: dict[str, Any]) -> None:
    raw = base64.b64decode(vector["raw_b64"], validate=True)
    reading = PARSERS[vector["intake"]](raw, vector["received_ns"])
    said = {field: json.loads(msgspec.json.encode(getattr(reading, field))) for field in vector["expect"]}
    assert said == vector["expect"]
    if "name" in said:
        assert SENDERS[vector["intake"]](raw) == (said["name"] or "")


def test_vectors_are_well_formed_and_told_apart_by_name() -> None:
    assert len({vector["name"] for vector in VECTORS}) == len(VECTORS) >= 25
    for vector in VECTORS:
        assert set(vector) == {"name", "intake", "raw_b64", "received_ns", "expect"}
        assert vector["intake"] in PARSERS
        assert set(vector["expect"]) <= set(Reading.__struct_fields__)
        assert vector["expect"]
