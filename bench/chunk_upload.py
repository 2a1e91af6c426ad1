"""Verified megabytes a second of chunked upload: from the first announcement to the answer that the last file is whole,
on the disk and recorded. Every chunk is hashed as it comes, every file once more as a whole, and synced before its answer.

The sender is a process of its own with several connections and hashes nothing meanwhile: its digests are made before.
Beside it, as the ceiling of this disk: the same bytes written to one file and synced.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

from bench.island import island

_MIB = 1024 * 1024
_FILE_BYTES = 128 * _MIB
_CHUNK_BYTES = 4 * _MIB
_CONNECTIONS = 4
_RUNS = 3


def run() -> dict[str, object]:
    size = int(os.environ.get("SKERRY_BENCH_MIB", "512")) * _MIB
    files = max(size // _FILE_BYTES, 1)
    with island() as made:
        rates, spent = [], []
        for number in range(_RUNS):
            before = _cpu_s(made.process.pid)
            command = [sys.executable, "-m", "bench.chunk_upload", str(made.http), str(files), str(number)]
            said = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds = float(said.stdout)
            rates.append(files * _FILE_BYTES / 1e6 / seconds)
            spent.append((_cpu_s(made.process.pid) - before) / seconds)
        kept = [path for path in (made.data / "files").iterdir() if path.stat().st_size == _FILE_BYTES]
        assert len(kept) == files * _RUNS, "every file is there"
        for path in kept[:2]:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name, "and is what its name says"
        disk, hashing = _disk(made.data), _hashing()
    best = sorted(rates)[len(rates) // 2]
    return {
        "bench": "chunk_upload",
        "ours": round(best, 1),
        "peer": round(disk, 1),
        "ratio": round(best / disk, 3),
        "unit": "MB/s verified and durable",
        "detail": {
            "runs": [round(rate, 1) for rate in rates],
            "appliance_cores_busy": [round(share, 2) for share in spent],
            "peer": "the same bytes into one file, synced every window",
            "sha256_mb_per_s_of_a_core": round(hashing),
            "hashes_of_each_byte": 2,
            "connections": _CONNECTIONS,
            "chunk_bytes": _CHUNK_BYTES,
            "bytes": files * _FILE_BYTES,
        },
    }


def _cpu_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _disk(folder: Path) -> float:
    piece, path = os.urandom(_CHUNK_BYTES), folder / "peer"
    began = time.perf_counter()
    with path.open("wb", 0) as file:
        for place in range(_FILE_BYTES // _CHUNK_BYTES):
            file.write(piece)
            if place % 4 == 3:
                os.fdatasync(file.fileno())
    took = time.perf_counter() - began
    path.unlink()
    return _FILE_BYTES / 1e6 / took


def _hashing() -> float:
    piece = bytes(_CHUNK_BYTES)
    began = time.perf_counter()
    for _ in range(16):
        hashlib.sha256(piece)
    return 16 * _CHUNK_BYTES / 1e6 / (time.perf_counter() - began)


# -- the sender -----------------------------------------------------------------------------------------------------


def _ask(line: http.client.HTTPConnection, method: str, path: str, body: bytes = b"", **more: str) -> dict[str, object]:
    headers = {"skerry-device": "kestrel-1", **{name.replace("_", "-"): value for name, value in more.items()}}
    line.request(method, path, body, headers)
    answer = line.getresponse()
    found: dict[str, object] = json.loads(answer.read())
    assert answer.status == 200, found
    return found


def _send(port: int, content: bytes, digests: list[str], sha256: str, name: str) -> None:
    """One file over one connection."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    said = {"bytes": len(content), "sha256": sha256, "form": "file", "name": name, "chunk_bytes": _CHUNK_BYTES}
    answer = _ask(line, "POST", "/v1/uploads", json.dumps(said).encode())
    with memoryview(content) as whole:
        while ask := answer.get("ask"):
            assert isinstance(ask, dict)
            for offset in ask["hints"]["missing"]:
                chunk = whole[offset : offset + _CHUNK_BYTES]
                answer = _ask(
                    line,
                    "PATCH",
                    f"/v1/uploads/{answer['id']}",
                    chunk,  # type: ignore[arg-type]
                    upload_offset=str(offset),
                    upload_window=str(ask["window_id"]),
                    content_digest=digests[offset // _CHUNK_BYTES],
                )
    answer = _ask(line, "POST", f"/v1/uploads/{answer['id']}/finish")
    assert answer["state"] == "done"
    line.close()


def main() -> None:
    port, files, run_number = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    made = []
    for number in range(files):
        content = os.urandom(_MIB) * (_FILE_BYTES // _MIB - 1) + f"{run_number} {number}".encode().ljust(_MIB)
        starts = range(0, _FILE_BYTES, _CHUNK_BYTES)
        hashes = [hashlib.sha256(content[start : start + _CHUNK_BYTES]).digest() for start in starts]
        digests = [f"sha-256=:{base64.b64encode(one).decode()}:" for one in hashes]
        made.append((content, digests, hashlib.sha256(content).hexdigest(), f"{run_number}-{number}"))
    waiting = list(made)

    def work() -> None:
        while waiting:
            _send(port, *waiting.pop())

    began = time.perf_counter()
    threads = [Thread(target=work) for _ in range(_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main()
