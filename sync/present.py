"""In what bytes does the present of nodes go over a link? Only what has changed, small, and absolute, so that it may be
lost, repeated and overtaken.

    rows = zstd( MessagePack [[node id, {field: value, …}], …] )

A field is a column of `fleet.present.Present` by its number, a metric by its name. Times are milliseconds before the
message's `at_ns`, or `true` for when the node was last seen (a metric as a bare number: then, and by the same way);
degrees are ten-millionths; a number with at most three decimals is sent as thousandths. So what a
hub shows is what the site shows, to the millisecond and the centimetre.

Rules of the file
  1  A row says what is, not what changed by how much.
  2  What has been sent and not confirmed is sent again with the next: the sender remembers what is confirmed, and what
     may have arrived since.
  3  Sizes are checked before they are believed; what makes no sense is a ValueError, and nothing of it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from backports import zstd

from fleet import limits
from fleet.limits import MS
from fleet.present import Present, Told, lean
from fleet.reading import Position

ROWS_BYTES_MAX = 16 * 1024 * 1024  # inflated
NODES_MAX = 100_000
_LEVEL = 9
_ORIGIN_NS = 1_577_836_800 * limits.SECOND  # a time before 2020, or none that a clock could show, is sent as it is
_FIELDS = Present.__struct_fields__
_PLACE = {name: number for number, name in enumerate(_FIELDS)}
_TIMES = frozenset(_PLACE[name] for name in ("since_ns", "seen_ns", "heartbeat_missing_ns", "position_ns", "text_ns"))
_SEEN, _VIA = _PLACE["seen_ns"], _PLACE["seen_via"]
_POSITION, _VALUES = _PLACE["position"], _PLACE["values"]
_GONE = -1  # the node is no longer there

Row = tuple[str, dict[int | str, Any]]


class Change(NamedTuple):
    """What a row says about one node: fields of `Present` and metrics that are new; `gone` when it is no longer there."""

    node_id: str
    fields: dict[str, Any]
    values: dict[str, Told]
    gone: bool


def rows_of(
    now: Mapping[str, Present],
    confirmed: Mapping[str, Present],
    at_ns: int,
    doubted: Sequence[Mapping[str, Present]] = (),
) -> list[Row]:
    """What differs between `confirmed` (by the other side) and `now`. `doubted` was sent since and may have arrived:
    what it said is said anew, even where it has changed back meanwhile."""
    rows: dict[str, dict[int | str, Any]] = {}
    for base in (confirmed, *doubted):
        for node_id, present in now.items():
            held = base.get(node_id)
            if present is not held:
                fields = _differences(present, held, at_ns)
                if fields:
                    rows[node_id] = {**rows.get(node_id, {}), **fields}
        for node_id in base:
            if node_id not in now:
                rows[node_id] = {_GONE: True}
    return list(rows.items())


def _differences(present: Present, held: Present | None, at_ns: int) -> dict[int | str, Any]:
    found: dict[int | str, Any] = {}
    seen_ns, seen_via = present.seen_ns, present.seen_via
    for number, name in enumerate(_FIELDS):
        value = getattr(present, name)
        former = getattr(held, name) if held is not None else None
        if number == 0 or number == _VALUES or (value == former and held is not None):
            continue
        if number in _TIMES:
            found[number] = True if value == seen_ns and number != _SEEN else _ago(value, at_ns)
        elif number == _POSITION and value is not None:
            found[number] = _place(value)
        elif value is not None or held is not None:
            found[number] = value
    known = held.values if held is not None else {}
    for metric, told in present.values.items():
        if known.get(metric) != told:
            thousandths = _thousandths(told.value)
            same = told.at_ns == seen_ns and told.via == seen_via
            found[metric] = thousandths if same else (thousandths, _ago(told.at_ns, at_ns), told.via)
    if found and seen_ns is not None:
        found[_SEEN] = _ago(seen_ns, at_ns)
        found[_VIA] = seen_via
    return found


def pack(rows: Sequence[Row]) -> bytes:
    return zstd.compress(_encode(rows), level=_LEVEL)


def unpack(data: bytes, at_ns: int) -> list[Change]:
    """ValueError when the bytes are no rows."""
    inflater = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 24})
    try:
        raw = inflater.decompress(data, max_length=ROWS_BYTES_MAX + 1)
        if len(raw) > ROWS_BYTES_MAX or not inflater.eof:
            raise ValueError("the rows are cut off, or larger than they may be")
        rows = _decode(raw)
        if len(rows) > NODES_MAX:
            raise ValueError(f"{len(rows):,} rows are more than there may be")
        return [_change(node_id, fields, at_ns) for node_id, fields in rows]
    except (zstd.ZstdError, msgspec.MsgspecError, RecursionError, TypeError, OverflowError, IndexError) as error:
        raise ValueError(f"not rows of the present: {error}") from error


def _change(node_id: str, raw: Mapping[Any, Any], at_ns: int) -> Change:
    if not node_id or len(node_id) > limits.subject_chars_max:
        raise ValueError("a row names no node")
    seen_ns, via = _when(raw.get(_SEEN), at_ns), str(raw.get(_VIA, ""))[:64]
    fields: dict[str, Any] = {}
    values: dict[str, Told] = {}
    for key, value in raw.items():
        if isinstance(key, str):
            number, ago, told_via = value if isinstance(value, list) else (value, True, via)
            at = seen_ns if ago is True else _when(ago, at_ns)
            if at is not None and len(values) < limits.metrics_per_node_max:
                values[key[: limits.name_chars_max]] = Told(_number(number), at, str(told_via)[:64])
        elif key in _TIMES:
            fields[_FIELDS[key]] = seen_ns if value is True else _when(value, at_ns)
        elif 0 < key < len(_FIELDS) and key != _VALUES:
            fields[_FIELDS[key]] = _degrees(value) if key == _POSITION else value
    checked = msgspec.convert([node_id, *(fields.get(name, _EMPTY[name]) for name in _FIELDS[1:])], type=Present)
    return Change(node_id, {name: getattr(checked, name) for name in fields}, values, bool(raw.get(_GONE)))


_EMPTY = msgspec.structs.asdict(Present("", ""))


def apply(change: Change, held: Present | None) -> Present | None:
    """The node after a change; None when it is gone, or was never named."""
    if change.gone:
        return None
    if held is None:
        fresh = Present(change.node_id, change.fields.get("name", ""))
        return lean(msgspec.structs.replace(fresh, **change.fields, values=change.values))
    values = {**held.values, **change.values} if change.values else held.values
    return msgspec.structs.replace(held, **change.fields, values=values)


def parts_of(rows: Sequence[Row], bytes_max: int) -> Iterable[Sequence[Row]]:
    """Rows in lists that pack into about `bytes_max` each."""
    step = max(bytes_max // 90, 1)
    for first in range(0, max(len(rows), 1), step):
        yield rows[first : first + step]


def _ago(ns: int | None, at_ns: int) -> int | None:
    return None if ns is None else (at_ns - ns) // MS


def _when(ms: Any, at_ns: int) -> int | None:
    if ms is None:
        return None
    if not isinstance(ms, int) or abs(ms) > 1 << 43:
        raise ValueError("a time that no clock could show")
    return at_ns - ms * MS


def _thousandths(value: float) -> int | float:
    if value != value or abs(value) > 1e12:
        return value
    whole = round(value * 1000)
    return whole if whole / 1000 == value else value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a value that is no number")
    return value / 1000 if isinstance(value, int) else value


def _place(position: Position) -> tuple[Any, ...]:
    rest = (None if value is None else _thousandths(value) for value in position[2:])
    return (round(position.lat_deg * 1e7), round(position.lon_deg * 1e7), *rest)


def _degrees(raw: Any) -> Position | None:
    if raw is None:
        return None
    lat, lon, *rest = raw
    return Position(lat / 1e7, lon / 1e7, *(None if value is None else _number(value) for value in rest[:3]))


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[str, dict[int | str, Any]]]).decode
