"""A device, a gateway and a newcomer of ThingsBoard's own client library, unchanged: a process of its own, run by
`test_thingsboard.py` with the library on its path. It says what it hears as lines of JSON, and ends when its input does.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

HOST = "127.0.0.1"
_SAYING = threading.Lock()


def say(what: str, heard: Any) -> None:
    with _SAYING:
        sys.stdout.write(json.dumps({"what": what, "heard": heard}, default=str) + "\n")
        sys.stdout.flush()


def until_told() -> None:
    """The other side of the pipe says when it has seen enough."""
    sys.stdin.read()


def device(port: int, token: str) -> None:
    from tb_device_mqtt import TBDeviceMqttClient

    client = TBDeviceMqttClient(HOST, port, token)

    def called(request_id: str, body: dict[str, Any]) -> None:
        say("called", body)
        client.send_rpc_reply(request_id, {"echo": body["params"]})

    client.set_server_side_rpc_request_handler(called)
    client.subscribe_to_all_attributes(lambda content, error: say("told", content))
    client.connect()
    while not client.rate_limits_received:
        time.sleep(0.02)
    say("limits", client.max_payload_size)
    say("telemetry", client.send_telemetry({"temperature": 21.5, "ok": True}).get())
    say("telemetry", client.send_telemetry({"ts": 1_795_253_400_123, "values": {"humidity": 44}}).get())
    say("attributes", client.send_attributes({"fw": "2.4.1", "model": "K"}).get())
    client.request_attributes(
        ["fw", "model"], ["name"], callback=lambda content, error: say("attributes asked", content)
    )
    client.send_rpc_call("getCurrentTime", {}, lambda number, content, error: say("time", content))
    client.send_rpc_call("openDoor", {}, lambda number, content, error: say("no such method", content))
    say("claim", client.claim("tern-42", 600_000).get())
    until_told()
    client.disconnect()
    client.stop()


def gateway(port: int, token: str) -> None:
    from tb_gateway_mqtt import TBGatewayMqttClient

    client = TBGatewayMqttClient(HOST, port, token)

    def called(_: Any, body: dict[str, Any]) -> None:
        say("called", body)
        data = body["data"]
        client.gw_send_rpc_reply(body["device"], data["id"], {"echo": data["params"]})

    client.gw_set_server_side_rpc_request_handler(called)
    client.connect()
    while not client.rate_limits_received or client.get_subscriptions_in_progress():
        time.sleep(0.02)
    for name in ("buoy-1", "buoy-2", "buoy-3"):
        client.gw_connect_device(name, "float")
    client.gw_request_shared_attributes("buoy-1", ["name"], lambda content, error: say("who am I", content))
    client.gw_subscribe_to_all_attributes(lambda content: say("told", content))
    say(
        "telemetry",
        client.gw_send_telemetry("buoy-1", [{"ts": 1_795_253_400_123, "values": {"temperature": 4.5}}]).get(),
    )
    say("telemetry", client.gw_send_telemetry("buoy-2", {"temperature": 5.5}).get())
    say("attributes", client.gw_send_attributes("buoy-1", {"depth": 12}).get())
    say("ready", True)
    sys.stdin.readline()
    client.gw_request_client_attributes("buoy-1", ["depth"], lambda content, error: say("client", content))
    client.gw_request_shared_attributes("buoy-1", ["name", "tags"], lambda content, error: say("shared", content))
    until_told()
    client.gw_disconnect_device("buoy-2")
    client.disconnect()
    client.stop()


def newcomer(port: int, code: str) -> None:
    from tb_device_mqtt import TBDeviceMqttClient

    say("credentials", TBDeviceMqttClient.provision(HOST, "skerry", code, port=port, device_name="merlin"))


def http(port: int, token: str) -> None:
    from tb_device_http import TBHTTPDevice

    client = TBHTTPDevice(f"http://{HOST}:{port}", token, "osprey")
    say("connected", client.connect())
    client.send_telemetry({"temperature": 21.5})
    client.send_telemetry({"humidity": 44}, queued=False)
    client.send_attributes({"fw": "2.4.1"})
    say("attributes asked", client.request_attributes())
    say("time", client.send_rpc("getCurrentTime"))

    def called(body: dict[str, Any]) -> None:
        say("called", body)
        client.send_rpc("reply", {"echo": body["params"]}, body["id"])

    client.subscribe("attributes", lambda content: say("told", content))
    client.subscribe("rpc", called)
    say("ready", True)
    until_told()


def http_newcomer(port: int, code: str) -> None:
    from tb_device_http import TBHTTPDevice

    client = TBHTTPDevice.provision(f"http://{HOST}:{port}", "hobby", "skerry", code)
    say("credentials", client.token)
    say("connected", client.connect())


_PARTS = {"device": device, "gateway": gateway, "newcomer": newcomer, "http": http, "http_newcomer": http_newcomer}

if __name__ == "__main__":
    _PARTS[sys.argv[1]](int(sys.argv[2]), sys.argv[3])
