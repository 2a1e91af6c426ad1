"""Where does a box listen? TCP addresses and the control socket in its data folder; and what stands in the way, said so
that a person can do something about it.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from collections import deque
from pathlib import Path

from store.control import short_address

_BACKLOG = 1024
_CONTROL_BACKLOG = 16
# Below those that the kernel gives to whoever connects outwards (from 32768): in the moment between the look and the
# listening, any connection of this machine could have taken one of those.
_FIRST, _LAST = 24_000, 32_767
_TRIES = 200
_given: deque[int] = deque(maxlen=64)  # to this process, whose servers may not listen there yet


class ListenProblem(Exception):
    """A port cannot be had; str() says which, why, and what to do."""


def listen_problem(way: str, host: str, port: int, error: OSError) -> ListenProblem:
    if isinstance(error, PermissionError):
        why = "this user may not open ports below 1024; run with CAP_NET_BIND_SERVICE or choose a higher port"
    elif error.errno == errno.EADDRINUSE:
        why = "another program already listens there; stop it or choose another port"
    else:
        why = f"{error.strerror or error}; check the address"
    return ListenProblem(f"{way} cannot listen on {host}:{port}: {why}")


def tcp_listener(way: str, host: str, port: int) -> socket.socket:
    """ListenProblem when the address cannot be had. `way` is what people call it."""
    # asyncio sets TCP_NODELAY only where a socket names its protocol; without it each answer's body would wait 40 ms for
    # the acknowledgement of its head.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise listen_problem(way, host, port, error) from error
    made.listen(_BACKLOG)
    return made


def control_listener(path: Path) -> socket.socket:
    """The command line's way in; whoever may open this file is the console."""
    path.unlink(missing_ok=True)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with short_address(path) as address:
        control.bind(address)
    path.chmod(0o600)
    control.listen(_CONTROL_BACKLOG)
    return control


def shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def free_port(wanted: int = 0, *, host: str = "127.0.0.1") -> int:
    """`wanted` if it is free at `host` for TCP and UDP, or else another that is; 0 asks for any.

    For a box that is started now and listens in a moment. Raises ListenProblem if none was found.
    """
    if wanted and is_free(wanted, host=host):
        return wanted
    for _ in range(_TRIES):
        port = (
            random.SystemRandom().randrange(_FIRST, _LAST) // 8 * 8 + os.getpid() % 8
        )  # two who look at once share few
        if port not in _given and is_free(port, host=host):
            _given.append(port)
            return port
    raise ListenProblem(f"No free port was found at {host} between {_FIRST} and {_LAST}. Name one.")


def is_free(port: int, *, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now, by TCP and by UDP."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tcp, socket.socket(family, socket.SOCK_DGRAM) as udp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: one that just ended is free
        try:
            tcp.bind((host, port))
            udp.bind((host, port))
        except OSError:
            return False
    return True
