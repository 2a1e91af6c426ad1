"""What programs are promised: cursors without gap or repeat, sentences for bad input, a description that is true."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from tests.web.conftest import bearer
from tests.web.island import Island
from web.metrics import text as metrics_text
from web.openapi import SPOKEN, described
from web.ports import Durations, Gauge
from web.routes import TABLE

ALICE, OLGA, BOB = bearer("alice"), bearer("olga"), bearer("bob")
DOCS = Path(__file__).parents[2] / "docs" / "api.md"


def pull(ask: TestClient, path: str, name: str, key: str, limit: int) -> list[Any]:
    found: list[Any] = []
    after: Any = None
    while True:
        cursor = "" if after is None else f"&after={after}"
        answer = ask.get(f"{path}?limit={limit}{cursor}", headers=BOB).json()
        found += [one["node"]["id"] if name == "nodes" else one[key] for one in answer[name]]
        if answer["next"] is None or not answer[name]:
            return found
        after = answer["next"]


@pytest.mark.parametrize("limit", [1, 7, 25, 26, 500])
def test_a_cursor_neither_skips_nor_repeats(ask: TestClient, island: Island, limit: int) -> None:
    assert pull(ask, "/api/v1/nodes", "nodes", "id", limit) == sorted(island.rows)
    assert pull(ask, "/api/v1/events", "events", "position", limit) == [one.position for one in island.log]
    if limit > 5:
        assert pull(ask, "/api/v1/telemetry", "records", "id", limit) == [one.id for one in island.records]


def test_telemetry_tells_its_gaps(ask: TestClient) -> None:
    answer = ask.get("/api/v1/telemetry?limit=2", headers=BOB).json()
    assert answer["gaps"] == [{"first": 11, "last": 19, "reason": "budget"}]
    assert set(answer["records"][0]) == {"id", "at_ns", "source", "raw", "raw_b64", "marks", "node_id"}


def test_telemetry_of_one_node_is_only_its(ask: TestClient, island: Island) -> None:
    node_id = next(iter(island.rows))
    answer = ask.get(f"/api/v1/telemetry?node={node_id}&limit=10000", headers=BOB).json()
    assert {one["node_id"] for one in answer["records"]} == {node_id}


def test_a_node_comes_with_its_drift(ask: TestClient, island: Island) -> None:
    answer = ask.get("/api/v1/nodes?limit=500", headers=BOB).json()
    drifting = [one["drift"] for one in answer["nodes"] if one["drift"]]
    said = {"pointer": "/actual/reported_version", "wanted": "1.4.2", "found": "1.4.1", "standing": "out of spec"}
    assert {name: drifting[0][0][name] for name in said} == said
    one = ask.get(f"/api/v1/nodes/{next(iter(island.rows))}", headers=BOB).json()
    assert one["row"]["name"] == "kestrel-1"


def test_a_series_is_columns(ask: TestClient, island: Island) -> None:
    path = f"/api/v1/nodes/{next(iter(island.rows))}/series"
    answer = ask.get(f"{path}?metric=battery_pct&hours=6", headers=BOB).json()
    assert len(answer["at_s"]) == len(answer["low"]) == len(answer["mean"]) == len(answer["high"])
    assert ask.get(path, headers=BOB).status_code == 422
    assert ask.get(f"{path}?metric=x&from=5&to=5", headers=BOB).status_code == 400


@pytest.mark.parametrize(
    "query",
    ["events?after=-1", "events?after=x", "events?limit=0", "events?limit=10001", "nodes?limit=501", "telemetry?limit=1e3",
     "telemetry?after=99999999999999999999", "nodes?limit=", "quarantine?before=1.5"],
)  # fmt: skip
def test_a_bad_cursor_or_limit_gets_a_sentence(ask: TestClient, query: str) -> None:
    answer = ask.get(f"/api/v1/{query}", headers=BOB)
    if query.endswith("="):
        assert answer.status_code == 200
    else:
        assert answer.status_code == 400
        assert "whole number from" in answer.json()["error"]


def test_adopting_answers_with_the_new_id(ask: TestClient, island: Island) -> None:
    source = next(iter(island.unclaimed))
    assert source in [one["key"] for one in ask.get("/api/v1/sources", headers=BOB).json()["sources"]]
    answer = ask.post("/api/v1/adopt", json={"source": source, "name": "kestrel-9", "tags": ["drone"]}, headers=OLGA)
    assert answer.status_code == 201
    assert island.rows[answer.json()["id"]].tags == ("drone",)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"source": 5, "name": "x"}', "application/json", 400),
        (b'{"source": "x", "name": "x", "colour": "red"}', "application/json", 400),
        (b'{"source": "x", "name": "x", "kind": "TOASTER"}', "application/json", 400),
        (b'{"source": "x", "name": ""}', "application/json", 422),
        (b"[" * 20_000, "application/json", 400),
        (b'{"name": NaN}', "application/json", 400),
        (b'"\xff"', "application/json", 400),
        (b"source=x", "application/x-www-form-urlencoded", 415),
        (b'"' + b"x" * 70_000 + b'"', "application/json", 413),
    ],
)
def test_bad_json_gets_a_sentence(ask: TestClient, body: bytes, kind: str, status: int) -> None:
    answer = ask.post("/api/v1/adopt", content=body, headers=OLGA | {"content-type": kind})
    assert answer.status_code == status
    assert answer.json()["error"]


def test_a_node_is_changed_and_moved(ask: TestClient, island: Island) -> None:
    path = f"/api/v1/nodes/{next(iter(island.rows))}"
    assert ask.patch(path, json={"field": "name", "value": "kite"}, headers=OLGA).json() == {"done": True}
    assert ask.patch(path, json={"field": "id", "value": "x"}, headers=OLGA).status_code == 422
    assert ask.post(f"{path}/move", json={"target": "UPDATING", "reason": "test"}, headers=OLGA).status_code == 200
    assert ask.post(f"{path}/move", json={"target": "MOON", "reason": "test"}, headers=OLGA).status_code == 422
    assert ask.post("/api/v1/quarantine/1", json={"decision": "eat"}, headers=OLGA).status_code == 422


def test_tokens_come_and_go(ask: TestClient) -> None:
    made = ask.post("/api/v1/tokens", json={"name": "grafana"}, headers=ALICE)
    secret = made.json()["secret"]
    assert ask.get("/api/v1/me", headers={"authorization": f"Bearer {secret}"}).json()["role"] == "viewer"
    assert secret not in ask.get("/api/v1/tokens", headers=ALICE).text
    assert ask.request("DELETE", "/api/v1/tokens?name=grafana", headers=ALICE).status_code == 200
    refused = ask.get("/api/v1/me", headers={"authorization": f"Bearer {secret}"})
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"


def test_an_account_is_made_with_a_password_worth_the_name(ask: TestClient) -> None:
    wish = {"name": "carol", "password": "four words are good", "role": "operator"}
    assert ask.post("/api/v1/accounts", json=wish | {"password": "short"}, headers=ALICE).status_code == 422
    assert ask.post("/api/v1/accounts", json=wish | {"role": "king"}, headers=ALICE).status_code == 422
    assert ask.post("/api/v1/accounts", json=wish, headers=ALICE).status_code == 201
    assert ask.post("/api/v1/accounts", json=wish, headers=ALICE).status_code == 409


def test_the_description_is_valid_and_knows_every_route(ask: TestClient) -> None:
    document = ask.get("/api/v1/openapi.json", headers=BOB).json()
    validate(document)
    rows = {(entry.method, entry.path) for entry in TABLE if described(entry)}
    assert rows == set(SPOKEN)
    assert {(method.upper(), path) for path, methods in document["paths"].items() for method in methods} == rows
    ids = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
    assert len(ids) == len(set(ids))


def test_the_page_about_the_api_names_every_route() -> None:
    told = DOCS.read_text()
    for entry in TABLE:
        if described(entry):
            assert f"`{entry.method} {entry.path}`" in told


def test_metrics_are_what_prometheus_expects(ask: TestClient) -> None:
    answer = ask.get("/metrics", headers=BOB)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'skerry_records_total{intake="http"} 41209.0' in answer.text
    assert ask.get("/metrics").status_code in (303, 401)
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed here (Debian package prometheus)")
    checked = subprocess.run([promtool, "check", "metrics"], input=answer.content, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr.decode()
    assert not checked.stderr


def test_a_label_with_anything_in_it_stays_one_line() -> None:
    gauge = Gauge(name="skerry_x", help="A thing.\nTwo lines.", kind="gauge", value=1.5, labels=(("why", 'a"b\nc\\d'),))
    lines = metrics_text([gauge]).decode().splitlines()
    assert lines[-1] == 'skerry_x{why="a\\"b\\nc\\\\d"} 1.5'
    assert len(lines) == 3


def test_the_client_library_of_prometheus_reads_every_figure_as_it_was_meant() -> None:
    said = (("site", 'a"b\nc\\d'), ("mode", "å"))
    values = (0.0, 1, True, 1_764_500_000.123, 1e20, 1e-9, math.inf, -math.inf)
    figures: list[Gauge | Durations] = [
        Gauge(
            name=f"skerry_{number % 3}_total", help="", kind="counter", value=value, labels=(*said, ("n", str(number)))
        )
        for number, value in enumerate(values)
    ]
    figures.append(Gauge(name="skerry_x", help="A \\ thing.\nTwo lines.", kind="gauge", value=math.nan))
    buckets = ((0.5, 2), (2.0, 3), (math.inf, 4))
    figures.append(Durations(name="skerry_s", help="Long.", buckets=buckets, sum_s=7.25, labels=said))
    told = {family.name: family for family in text_string_to_metric_families(metrics_text(figures).decode())}
    assert {name: (one.type, one.documentation) for name, one in told.items()} == {
        **{f"skerry_{number}": ("counter", "") for number in range(3)},
        "skerry_x": ("gauge", "A \\ thing.\nTwo lines."),
        "skerry_s": ("histogram", "Long."),
    }
    counted = {one.labels["n"]: one for number in range(3) for one in told[f"skerry_{number}"].samples}
    assert [counted[str(number)].value for number in range(len(values))] == [*map(float, values)]
    assert all(one.labels.items() >= dict(said).items() for one in counted.values())
    assert math.isnan(told["skerry_x"].samples[0].value)
    assert {(one.name[9:], one.labels.get("le"), one.value) for one in told["skerry_s"].samples} == {
        *(("bucket", bound, count) for bound, count in (("0.5", 2.0), ("2.0", 3.0), ("+Inf", 4.0))),
        ("count", None, 4.0),
        ("sum", None, 7.25),
    }


def test_health_needs_nobody_and_readiness_says_why_not(ask: TestClient, island: Island) -> None:
    assert ask.get("/healthz").json() == {"alive": True, "version": "0.1.0"}
    assert ask.get("/readyz").json()["ready"] is True
    island.down = "The disk is full."
    answer = ask.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["problems"] == ["The disk is full."]


def test_a_device_is_called_and_its_answer_comes_back(ask: TestClient, island: Island) -> None:
    path = f"/api/v1/nodes/{next(iter(island.rows))}/rpc"
    wish = {"method": "setGpio", "params": {"pin": 4}}
    assert ask.post(path, json=wish, headers=bearer("olga")).json() == {"answer": {"heard": {"pin": 4}}}
    assert ask.post(path, json={**wish, "one_way": True}, headers=bearer("olga")).json() == {"answer": None}
    for wrong in ({"method": ""}, {**wish, "timeout_ms": 0}, {**wish, "timeout_ms": 60_001}):
        assert ask.post(path, json=wrong, headers=bearer("olga")).status_code == 422
    assert ask.post(path, json={**wish, "later": 1}, headers=bearer("olga")).status_code == 400


def test_a_device_is_claimed_with_its_secret(ask: TestClient, alice: TestClient, island: Island) -> None:
    node = next(iter(island.rows))
    path = f"/api/v1/nodes/{node}/claimed"
    assert ask.post(path, json={"secret": "guess"}, headers=bearer("olga")).status_code == 403
    assert ask.post(path, json={"secret": ""}, headers=bearer("olga")).status_code == 422
    assert ask.post(path, json={"secret": "first-light"}, headers=bearer("olga")).json() == {"done": True}
    form = {"csrf": "csrf-alice", "secret": "first-light"}
    assert alice.post(f"/nodes/{node}/claim-device", data=form).headers["location"].endswith("done=device-claimed")
    wrong = alice.post(f"/nodes/{node}/claim-device", data=form | {"secret": "guess"})
    assert (wrong.status_code, "not the secret" in wrong.text) == (403, True)
