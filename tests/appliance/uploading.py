"""A device that uploads, step by step, for the tests: over HTTP, as curl would."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from typing import Any

import httpx2


def lines(first: int, last: int, **more: Any) -> bytes:
    return b"".join(json.dumps({"n": n, **more}).encode() + b"\n" for n in range(first, last + 1))


def digest(chunk: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(chunk).digest()).decode()}:"


def announcement(content: bytes, **more: Any) -> dict[str, Any]:
    said = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "stream": "q1", "chunk_bytes": 16_384}
    return {**said, **more}


def chunk_headers(offset: int, window: int, chunk: bytes) -> dict[str, str]:
    return {"upload-offset": str(offset), "upload-window": str(window), "content-digest": digest(chunk)}


class Sender:
    """Sends `content` under what was announced; `client` is synchronous, so it runs on a thread of the test."""

    def __init__(self, client: httpx2.Client, content: bytes, **more: Any) -> None:
        self.client, self.content, self.said = client, content, announcement(content, **more)
        self.id = ""

    def announce(self) -> dict[str, Any]:
        answer = self.client.post("/v1/uploads", json=self.said)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        self.id = found["id"]
        return found

    def chunk(self, offset: int, window: int = 1) -> httpx2.Response:
        chunk = self.content[offset : offset + int(self.said["chunk_bytes"])]
        return self.client.patch(f"/v1/uploads/{self.id}", content=chunk, headers=chunk_headers(offset, window, chunk))

    def chunks(self, answer: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Every chunk that is asked for, one at a time; the answers."""
        while ask := answer.get("ask"):
            for offset in ask["hints"]["missing"]:
                response = self.chunk(offset, ask["window_id"])
                assert response.status_code == 200, response.text
                answer = response.json()
                yield answer

    def finish(self) -> httpx2.Response:
        return self.client.post(f"/v1/uploads/{self.id}/finish")

    def all(self) -> dict[str, Any]:
        answer = self.announce()
        for _ in self.chunks(answer):
            pass
        if answer["state"] == "done":
            return answer
        response = self.finish()
        if response.status_code == 404:  # it came to its end meanwhile, and is forgotten: the announcement says how
            return self.announce()
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found
