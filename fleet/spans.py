"""Which whole numbers are here, as ranges? Pairs of first and last, ascending, apart from each other. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Span = tuple[int, int]
Spans = tuple[Span, ...]


def add(spans: Sequence[Span], first: int, last: int) -> Spans:
    """With `first` to `last` as well; neighbours become one."""
    before = tuple(one for one in spans if one[1] < first - 1)
    after = tuple(one for one in spans if one[0] > last + 1)
    for one in spans[len(before) : len(spans) - len(after)]:
        first, last = min(first, one[0]), max(last, one[1])
    return (*before, (first, last), *after)


def above(spans: Sequence[Span], floor: int) -> Spans:
    """What of it is at or above `floor`."""
    return tuple((max(first, floor), last) for first, last in spans if last >= floor)


def missing(spans: Sequence[Span], first: int, last: int) -> Iterator[Span]:
    """What of `first` to `last` is not here."""
    for start, end in spans:
        if end < first or start > last:
            continue
        if start > first:
            yield first, start - 1
        first = max(first, end + 1)
    if first <= last:
        yield first, last


def holds(spans: Sequence[Span], first: int, last: int) -> bool:
    return next(missing(spans, first, last), None) is None
