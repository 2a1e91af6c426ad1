"""The command line's way to a running appliance: HTTP over the socket in its data folder."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class NotRunning(Exception):
    """No appliance answers on this folder."""


class Refusal(Exception):
    """The appliance said no; str() is its sentence."""


@contextlib.contextmanager
def short_address(path: Path) -> Iterator[str]:
    """A UNIX socket's address has at most 107 bytes (unix(7)), a data folder's path may have more: go by the folder."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        with short_address(self._path) as address:
            self.sock.connect(address)


def call(control: Path, method: str, path: str, body: Any = None) -> Any:
    """The JSON answer. NotRunning when nobody listens, Refusal for a 4xx or 5xx."""
    connection = _Connection(control)
    try:
        headers = {"content-type": "application/json", "accept": "application/json"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        raw = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise NotRunning(f"no appliance answers on {control.parent}; start it with: skerry appliance run") from error
    finally:
        connection.close()
    try:
        content = json.loads(raw) if raw else None
    except ValueError as error:
        raise Refusal(f"what answers on {control} is no appliance") from error
    if answer.status >= 400:
        words = content.get("error", "") if isinstance(content, dict) else ""
        raise Refusal(words or f"{method} {path} was answered with {answer.status}")
    return content
