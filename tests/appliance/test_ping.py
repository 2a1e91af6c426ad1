"""Do echoes tell the truth: who answered, who did not, and who only pretends?

The line is real: loopback, and where silence or a liar is needed, an *island*, a network namespace of its own in which
the kernel answers no pings and a thread does it instead. That takes root; without it those tests say so and skip.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.intake import ping
from appliance.intake.ping import START, TABLE, Bounds, Echo, PingNotPermitted, PingState, Sweeper, advance
from fleet.connectivity import Reach

T = TypeVar("T")
ALICE, BOB, MALLORY = "127.0.0.11", "127.0.0.12", "127.0.0.66"
COOKIE = bytes(range(16))
ROOT = Path(__file__).parents[2]

# -- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("", "not an IP address"),
        ("alder.example", "not names"),
        ("127.1", "not an IP address"),
        ("2130706433", "not an IP address"),
        ("0x7f.0.0.1", "not an IP address"),
        ("010.0.0.1", "not an IP address"),
        ("10.0.0.1 ", "not an IP address"),
        ("224.0.0.1", "group of hosts"),
        ("ff02::1", "group of hosts"),
        ("255.255.255.255", "group of hosts"),
        ("0.0.0.0", "no host's address"),
        ("::", "no host's address"),
        ("::ffff:10.0.0.1", "write 10.0.0.1"),
        ("fe80::1", "fe80::1%eth0"),
        ("2001:db8::1%eth0", "leave out %eth0"),
    ],
)
def test_a_bad_address_is_refused_with_its_reason(address: str, reason: str) -> None:
    assert reason in (ping.refusal(address) or "")
    with pytest.raises(ValueError, match=re.escape(reason)):
        ping.target(address)


def test_an_address_is_read_as_the_kernel_spells_it() -> None:
    assert ping.refusal("10.0.0.1") is None
    assert ping.target("10.0.0.1") == (4, ("10.0.0.1", 0), "")
    assert ping.target("2001:0DB8:0:0::01") == (6, ("2001:db8::1", 0, 0, 0), "")
    assert ping.target("fe80::1%eth0") == (6, ("fe80::1", 0, 0, 0), "eth0")


# -- packets -------------------------------------------------------------------------------------------------------


def reply_to(request: bytes, *, cookie: bytes | None = None) -> bytes:
    """What a host makes of an echo request (RFC 792): type 0, and the sum anew."""
    body = b"\x00\x00\x00\x00" + request[4:8] + (request[8:] if cookie is None else cookie)
    return body[:2] + struct.pack("!H", 0xFFFF ^ internet_sum(body)) + body[4:]


def internet_sum(message: bytes) -> int:
    """RFC 1071, word by word."""
    total = 0
    for (word,) in struct.iter_unpack("!H", message):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_a_request_is_this_byte_for_byte() -> None:
    request = ping.echo_requests(4, 0x1234, b"\x00\x01" + b"\x00" * 14)
    assert request(2) == bytes.fromhex("0800 e5c8 1234 0002 0001 0000 0000 0000 0000 0000 0000 0000")


@given(ident=st.integers(0, 0xFFFF), seq=st.integers(0, 0xFFFF), cookie=st.binary(min_size=16, max_size=16))
def test_a_request_and_its_checksum_sum_to_ones(ident: int, seq: int, cookie: bytes) -> None:
    message = ping.echo_requests(4, ident, cookie)(seq)
    assert internet_sum(message) == 0xFFFF
    assert ping.echo_reply(4, reply_to(message), cookie) == seq


@given(message=st.binary(max_size=64))
def test_any_bytes_are_a_reply_or_nothing(message: bytes) -> None:
    assert ping.echo_reply(4, message, COOKIE) is None
    assert ping.echo_reply(6, message, COOKIE) is None


def test_a_foreign_message_is_not_a_reply() -> None:
    request = ping.echo_requests(4, 7, COOKIE)(9)
    assert ping.echo_reply(4, reply_to(request), COOKIE) == 9
    assert ping.echo_reply(4, request, COOKIE) is None, "our own request, looped back"
    assert ping.echo_reply(4, reply_to(request, cookie=bytes(16)), COOKIE) is None, "another sweep's cookie"
    assert ping.echo_reply(4, reply_to(request)[:-1], COOKIE) is None, "cut short"
    assert ping.echo_reply(4, reply_to(request) + b"x", COOKIE) is None, "more than was asked"
    assert ping.echo_reply(6, reply_to(request), COOKIE) is None, "of the other IP version"


# -- from echoes to a state ----------------------------------------------------------------------------------------

RTT_MS = {"a": 10.0, "e": 225.0, "s": 300.0, ".": None}  # answer, on the edge, slow, lost
LETTER = {Reach.UNKNOWN: "?", Reach.ONLINE: "O", Reach.DEGRADED: "D", Reach.OFFLINE: "X"}


def fold(rtts_ms: list[float | None], bounds: Bounds = ping.DEFAULT) -> list[PingState]:
    states = [START]
    for rtt_ms in rtts_ms:
        states.append(advance(states[-1], Echo(ALICE, rtt_ms), bounds))
    return states[1:]


@pytest.mark.parametrize(
    ("story", "echoes", "reaches"),
    [
        ("one answer is not yet online", "a", "?"),
        ("two answers in a row are", "aa", "?O"),
        ("answers that are not in a row are not", "a.a.a", "?????"),
        ("unknown and silent is offline after three", "...", "??X"),
        ("one loss, or two in a row, is not offline", "aa.aa..", "?OOOOOO"),
        ("three in a row are", "aa...", "?OOOX"),
        ("back only after two in a row", "...a.aa", "??XXXXO"),
        ("the outage does not count again as loss", "aa......aaaaaa", "?OOOXXXXXOOOOO"),
        ("a lone loss in a young window judges nothing", "aa.aaaaaaaaaa", "?OOOOOOOOOOOO"),
        ("two in ten for three sweeps degrade", "aaaaaaaaaa.aaa.aaa", "?OOOOOOOOOOOOOOODD"),
        ("losses must leave the window, and three sweeps pass", "aa.a.a" + "a" * 12, "?OOOOO" + "D" * 10 + "OO"),
        ("one slow answer degrades nothing", "aaaasaaaa", "?OOOOOOOO"),
        ("a slow median for three sweeps does", "aasssss", "?OOOOOD"),
        ("a link that is slow from the start is online first", "ssssss", "?OOODD"),
        ("a value on the edge degrades nothing", "ee" + "e" * 10, "?O" + "O" * 10),
        ("nor does it recover anything", "sssss" + "e" * 12, "?OOOD" + "D" * 12),
        ("a fast median for three sweeps recovers", "sssss" + "a" * 9, "?OOOD" + "DDDDDDOOO"),
        ("degraded and silent is offline", "sssss...", "?OOODDDX"),
    ],
)
def test_a_state_turns_only_when_it_has_lasted(story: str, echoes: str, reaches: str) -> None:
    told = "".join(LETTER[state.reach] for state in fold([RTT_MS[letter] for letter in echoes]))
    assert told == reaches, story


@given(st.lists(st.tuples(st.integers(10, 25), st.floats(0.01, 199.0)), max_size=12), st.integers(2, 30))
def test_a_lone_loss_never_turns_a_state(stretches: list[tuple[int, float]], first: int) -> None:
    rtts_ms: list[float | None] = [5.0] * first
    for answers, rtt_ms in stretches:
        rtts_ms += [None] + [rtt_ms] * answers
    assert {state.reach for state in fold(rtts_ms)[1:]} == {Reach.ONLINE}


@given(st.lists(st.one_of(st.none(), st.floats(0.01, 1000.0)), max_size=80))
def test_offline_takes_three_losses_and_the_way_back_two_answers(rtts_ms: list[float | None]) -> None:
    states = [START, *fold(rtts_ms)]
    for at, (before, after) in enumerate(itertools.pairwise(states), start=1):
        if after.reach is Reach.OFFLINE and before.reach is not Reach.OFFLINE:
            assert rtts_ms[at - 3 : at] == [None] * 3
        if before.reach in (Reach.OFFLINE, Reach.UNKNOWN) and after.reach is not before.reach:
            assert after.reach is Reach.OFFLINE or None not in rtts_ms[at - 2 : at]
        assert len(after.window) <= ping.DEFAULT.window_sweeps
        assert 0.0 <= after.loss_pct <= 100.0
        assert (after.rtt_ms is None) == (after.loss_pct == 100.0)


def test_the_figures_are_median_mean_step_and_share() -> None:
    state = fold([5.0, 10.0, None, 40.0, 12.0])[-1]
    assert state.rtt_ms == pytest.approx(11.0)
    assert state.jitter_ms == pytest.approx((5 + 30 + 28) / 3)
    assert state.loss_pct == pytest.approx(20.0)
    assert fold([5.0])[-1].jitter_ms is None


def test_nothing_becomes_unknown_again() -> None:
    assert Reach.UNKNOWN not in TABLE.values()


def test_bounds_that_would_flap_are_refused() -> None:
    with pytest.raises(ValueError, match="recovered"):
        Bounds(rtt_ms_recovered=300.0)
    with pytest.raises(ValueError, match="at least 1"):
        Bounds(window_sweeps=0)


# -- sweeps on loopback --------------------------------------------------------------------------------------------


@pytest.fixture
def sweeper() -> Iterator[Sweeper]:
    with closing(Sweeper()) as opened:
        try:
            opened.open()
        except PingNotPermitted as refused:
            pytest.skip(str(refused))
        yield opened


def test_every_address_answers_and_the_order_is_kept(sweeper: Sweeper) -> None:
    addresses = [f"127.0.{number // 250}.{number % 250 + 1}" for number in range(600)]
    for _ in range(2):
        echoes = sweeper.sweep(addresses)
        assert [echo.address for echo in echoes] == addresses
        assert all(echo.rtt_ms is not None and echo.rtt_ms >= 0 for echo in echoes)
    assert sweeper.dropped == 0


def test_one_address_asked_twice_answers_twice(sweeper: Sweeper) -> None:
    assert all(echo.rtt_ms is not None for echo in sweeper.sweep([ALICE, ALICE]))


def test_nobody_asked_is_nobody_heard(sweeper: Sweeper) -> None:
    assert sweeper.sweep([]) == []


def test_both_ip_versions_answer_in_one_sweep(sweeper: Sweeper) -> None:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 on loopback")
    assert [echo.rtt_ms is not None for echo in sweeper.sweep(["::1", ALICE, "0:0::1"])] == [True] * 3


def test_an_interface_that_is_not_there_is_no_answer(sweeper: Sweeper) -> None:
    echoes = sweeper.sweep([ALICE, "fe80::1%birch0"], timeout_s=0.05)
    assert [echo.rtt_ms is not None for echo in echoes] == [True, False]


def test_a_bad_address_stops_a_sweep_before_it_starts(sweeper: Sweeper) -> None:
    with pytest.raises(ValueError, match="not names"):
        sweeper.sweep([ALICE, "birch.example"])
    with pytest.raises(ValueError, match="at most 65536"):
        sweeper.sweep([ALICE] * (ping.TARGETS_MAX + 1))


def test_a_closed_sweeper_opens_anew(sweeper: Sweeper) -> None:
    sweeper.close()
    sweeper.close()
    assert sweeper.sweep([ALICE])[0].rtt_ms is not None


@pytest.mark.parametrize("jump_s", [-3600, 3600])
def test_a_wall_clock_that_jumped_spoils_no_round_trip(sweeper: Sweeper, jump_s: int) -> None:
    echoes = sweeper.sweep([ALICE, BOB], wall_ns=lambda: time.time_ns() + jump_s * 1_000_000_000)
    assert all(echo.rtt_ms is not None and echo.rtt_ms >= 0 for echo in echoes)


def test_replies_that_others_wait_for_are_not_ours(sweeper: Sweeper) -> None:
    with closing(Sweeper()) as other:
        other.sweep([BOB] * 50)  # its replies reach every raw socket of this machine
    assert [echo.address for echo in sweeper.sweep([ALICE]) if echo.rtt_ms is not None] == [ALICE]


def test_loss_that_is_our_own_is_counted() -> None:
    with closing(Sweeper(packets_per_s_max=1_000_000_000)) as hasty:
        try:
            hasty.open()
        except PingNotPermitted as refused:
            pytest.skip(str(refused))
        hasty._lines[4].socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel's least: a few packets
        echoes = hasty.sweep([ALICE] * 32, timeout_s=0.05)
        assert hasty.dropped >= sum(echo.rtt_ms is None for echo in echoes) > 0


# -- sweeps on an island -------------------------------------------------------------------------------------------

CLONE_NEWNET, SIOCSIFFLAGS, IFF_UP = 0x4000_0000, 0x8914, 1


def on_island(work: Callable[[], T]) -> T:
    """Run `work` in a thread with an empty network of its own: loopback is up, and nobody else is there."""

    def landed() -> T:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            pytest.skip(f"needs root, for a network of its own ({os.strerror(ctypes.get_errno())})")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
        return work()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(landed).result()


Answers = list[tuple[str, bytes]]  # who sends what


@contextmanager
def answering(answer: Callable[[str, bytes], Answers]) -> Iterator[None]:
    """On an island: the kernel falls silent and `answer(address asked, request)` says who sends what instead."""
    Path("/proc/sys/net/ipv4/icmp_echo_ignore_all").write_text("1")
    done = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as ear:
        ear.settimeout(0.01)

        def serve() -> None:
            while not done.is_set():
                try:
                    packet = ear.recv(256)
                except TimeoutError:
                    continue
                asked, message = socket.inet_ntoa(packet[16:20]), packet[(packet[0] & 15) * 4 :]
                for source, told in answer(asked, message) if message[0] == 8 else []:
                    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as mouth:
                        mouth.bind((source, 0))
                        mouth.sendto(told, (socket.inet_ntoa(packet[12:16]), 0))

        server = threading.Thread(target=serve)
        server.start()
        try:
            yield
        finally:
            done.set()
            server.join()


def heard(addresses: list[str], answer: Callable[[str, bytes], Answers], *, sweeps: int = 1) -> list[bool]:
    """Whether each address counts as answered in the last of the sweeps."""

    def work() -> list[bool]:
        with answering(answer), closing(Sweeper()) as sweeper:
            for _ in range(sweeps):
                echoes = sweeper.sweep(addresses, timeout_s=0.3)
        return [echo.rtt_ms is not None for echo in echoes]

    return on_island(work)


def test_a_host_that_does_not_answer_is_told_from_one_that_does() -> None:
    def bob_is_asleep(asked: str, request: bytes) -> Answers:
        return [(asked, reply_to(request))] if asked == ALICE else []

    assert heard([ALICE, BOB], bob_is_asleep) == [True, False]


def test_nobody_can_answer_for_another() -> None:
    assert heard([ALICE], lambda asked, request: [(MALLORY, reply_to(request))]) == [False]


def test_a_reply_without_the_cookie_is_foreign() -> None:
    assert heard([ALICE], lambda asked, request: [(asked, reply_to(request, cookie=COOKIE))]) == [False]


def test_a_reply_to_a_question_never_asked_is_ignored() -> None:
    def wrong_number(asked: str, request: bytes) -> Answers:
        return [(asked, reply_to(request[:6] + b"\xff\xff" + request[8:]))]

    assert heard([ALICE], wrong_number) == [False]


def test_a_second_reply_of_one_host_is_not_the_reply_of_another() -> None:
    def alice_stutters(asked: str, request: bytes) -> Answers:
        if asked == ALICE:
            return [(ALICE, reply_to(request))] * 2
        time.sleep(0.05)  # Alice's second reply is in before Bob's first: it must not end the sweep
        return [(BOB, reply_to(request))]

    assert heard([ALICE, BOB], alice_stutters) == [True, True]


def test_a_late_reply_of_an_earlier_sweep_is_not_an_answer_to_this_one() -> None:
    first: list[bytes] = []

    def late(asked: str, request: bytes) -> Answers:
        first.append(request)
        return [(asked, reply_to(first[0]))] if len(first) > 1 else []

    assert heard([ALICE], late, sweeps=2) == [False]


def test_a_word_of_unreachable_does_not_silence_a_host() -> None:
    def contradicted(asked: str, request: bytes) -> Answers:
        quoted = b"\x45\x00\x00\x2c" + bytes(8) + socket.inet_aton("127.0.0.1") + socket.inet_aton(asked) + request
        body = b"\x03\x01\x00\x00" + bytes(4) + quoted
        unreachable = body[:2] + struct.pack("!H", 0xFFFF ^ internet_sum(body)) + body[4:]
        return [(MALLORY, unreachable), (asked, reply_to(request))]

    assert heard([ALICE], contradicted) == [True]


def test_no_way_to_a_target_is_no_answer() -> None:
    def work() -> list[bool]:
        with closing(Sweeper()) as sweeper:
            return [echo.rtt_ms is not None for echo in sweeper.sweep(["10.1.2.3", ALICE, "2001:db8::1"])]

    assert on_island(work) == [False, True, False]


def test_a_target_that_could_not_be_asked_has_no_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("ip"):
        pytest.skip("needs iproute2, for a link with nobody at its end")
    monkeypatch.setattr(ping, "_STALL_NS", 100_000_000)  # seconds of waiting would prove no more
    link = (
        "link add alder0 type veth peer name birch0",
        "addr add 10.9.0.1/16 dev alder0",
        "link set alder0 up",
        "link set birch0 up",
    )

    def work() -> int:
        for step in link:
            subprocess.run(["ip", *step.split()], check=True)
        with closing(Sweeper()) as sweeper:
            sweeper.open()
            sweeper._lines[4].socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            return len(sweeper.sweep([ALICE, *(f"10.9.1.{host}" for host in range(1, 200)), BOB]))

    assert 1 <= on_island(work) < 201


# -- without privilege ---------------------------------------------------------------------------------------------

ASK = """
from appliance.intake.ping import PingNotPermitted, Sweeper
sweeper = Sweeper()
try:
    sweeper.open()
    print([echo.rtt_ms is not None for echo in sweeper.sweep(["127.0.0.11", "::1", "10.1.2.3"])])
except PingNotPermitted as refused:
    print(refused)
sweeper.close()
"""


def asked_without_capabilities(groups: str) -> str:
    """What a program says that holds no capability, on an island where `groups` may open ping sockets."""
    setpriv = shutil.which("setpriv")
    if not setpriv:
        pytest.skip("needs setpriv (util-linux)")

    def work() -> str:
        Path("/proc/sys/net/ipv4/ping_group_range").write_text(groups)
        dropped = [setpriv, "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
        command = [*dropped, sys.executable, "-c", ASK]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    return on_island(work)


def test_without_any_permission_the_sentence_says_what_to_do() -> None:
    told = asked_without_capabilities("1 0")
    assert "does not let this program send pings" in told
    assert f"sudo setcap cap_net_raw+ep {os.path.realpath(sys.executable)}" in told
    assert f'sudo sysctl net.ipv4.ping_group_range="{os.getegid()} {os.getegid()}"' in told


def test_the_datagram_socket_serves_where_only_that_is_allowed() -> None:
    assert asked_without_capabilities("0 2147483647").strip() == "[True, True, False]"
