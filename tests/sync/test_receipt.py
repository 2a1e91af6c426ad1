"""`sync.receipt`: what both sides sign, and what anybody can check of it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync import receipt
from sync.receipt import Lanes, Receipt, Signed, Span, Verdict
from tests.simulation.boxes import key_of

HARBOR, ALDER, MALLORY = key_of("harbor"), key_of("alder"), key_of("Mallory")
SPANS = (Span(1, 7, b"a" * 32), Span(2, 3, b"b" * 32))
SEGMENTS = receipt.segments_root([b"s" * 32])


def made(**changed: object) -> Receipt:
    root = receipt.root_of("fjord", "01ALDER", SPANS, SEGMENTS)
    lanes = Lanes(10, 0, 1, 99, 5)
    whole = Receipt(
        1,
        4,
        "fjord",
        "01ALDER",
        "01HARBOR",
        "alder",
        "harbor",
        5,
        1,
        SPANS,
        lanes,
        SEGMENTS,
        0,
        (),
        (),
        b"",
        b"p",
        root,
    )
    return msgspec.structs.replace(whole, **changed)


def signed(content: bytes) -> Signed:
    return Signed(content, receipt.sign(content, HARBOR), receipt.sign(content, ALDER))


def checked(one: Signed) -> Verdict:
    return receipt.check(one, HARBOR.public_key(), ALDER.public_key())


def test_a_receipt_that_both_signed_holds() -> None:
    assert checked(signed(receipt.content_of(made()))) is Verdict.GOOD


def test_each_signature_is_asked_for() -> None:
    content = receipt.content_of(made())
    good = signed(content)
    assert checked(good._replace(hub_signature=receipt.sign(content, MALLORY))) is Verdict.HUB
    assert checked(good._replace(site_signature=receipt.sign(content, MALLORY))) is Verdict.SITE
    assert checked(good._replace(site_signature=b"")) is Verdict.NOT_YET
    assert receipt.check(good._replace(site_signature=b""), HARBOR.public_key()) is Verdict.GOOD


@pytest.mark.parametrize("changed", [{"logs": SPANS[:1]}, {"site": "01BIRCH"}, {"segments_root": bytes(32)}])
def test_what_the_root_covers_cannot_be_changed_even_by_the_hub(changed: dict[str, object]) -> None:
    assert checked(signed(receipt.content_of(made(**changed)))) is Verdict.ROOT


@given(st.integers(0, 400), st.integers(1, 255))
def test_a_changed_byte_is_found(at: int, flip: int) -> None:
    good = signed(receipt.content_of(made()))
    raw = bytearray(good.content)
    raw[at % len(raw)] ^= flip
    assert checked(good._replace(content=bytes(raw))) in (Verdict.SHAPE, Verdict.HUB)


@given(st.binary(max_size=100))
def test_bytes_that_are_no_receipt_are_a_verdict(raw: bytes) -> None:
    assert checked(Signed(raw, bytes(64), bytes(64))) is Verdict.SHAPE


def test_it_is_held_against_the_data_of_either_side() -> None:
    here = {(1, 7): b"a" * 32, (2, 3): b"b" * 32}
    assert receipt.agrees(made(), here, SEGMENTS) is Verdict.GOOD
    assert receipt.agrees(made(), {**here, (2, 3): None}, None) is Verdict.SHORT
    assert receipt.agrees(made(), {**here, (1, 7): b"z" * 32}, None) is Verdict.LOG
    assert receipt.agrees(made(), here, bytes(32)) is Verdict.SEGMENTS
