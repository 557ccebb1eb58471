"""Damaged input as hypothesis draws it: what disks, networks and people with bad intentions make of good files.

Every reader of what others wrote has to return or raise `HartError`, whatever it is given.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import signal
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hart_lite.errors import HartError

LIMIT_S = 2.0  # seconds of the processor for one input
LARGEST = 1 << 16  # bytes of a damaged input: work must not be explained by its length
SIZES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 20_000, 1_000_000)
DEPTHS = (200, 900, 980, 1_000)  # of nested lists; Python itself recurses to a thousand at most


@contextmanager
def processor_seconds(limit: float = LIMIT_S) -> Iterator[None]:
    """Breaks the block off, and fails, once it has used so many seconds of the processor. Time in which the machine
    does something else does not count."""

    def stop(*_: object) -> None:
        raise AssertionError(f"it took over {limit:g} seconds of the processor")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def check_reader(read: Callable[[bytes], object], *samples: bytes) -> None:
    """`read` takes the samples. Given damaged ones, it returns something or raises `HartError`, within LIMIT_S.

    Of samples that are JSON, each value is replaced by each of ODD, one at a time; the rest is drawn.
    """
    for sample in samples:
        read(sample)
    documents = [document for sample in samples if (document := _parsed(sample)) is not None]

    def returns_or_refuses(data: bytes) -> None:
        with processor_seconds(), suppress(HartError):
            read(data)

    for data in (changed for document in documents for changed in one_value_changed(document)):
        try:
            returns_or_refuses(data)
        except BaseException as error:
            error.add_note(f"given {data[:1000]!r}")
            raise
    given(st.one_of(damaged(*samples), *map(damaged_json, documents)))(returns_or_refuses)()


# -- bytes ---------------------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn, *samples: bytes) -> bytes:
    """One of the samples after one to four changes, some of which take from another one."""
    data, other = bytearray(draw(st.sampled_from(samples))), draw(st.sampled_from(samples))
    for change in draw(st.lists(st.sampled_from(_CHANGES), min_size=1, max_size=4)):
        if data:
            change(draw, data, other)
    return bytes(data[:LARGEST])


def _position(draw: st.DrawFn, data: Sequence[int]) -> int:
    return draw(st.integers(0, max(len(data) - 1, 0)))


def _flip_bit(draw: st.DrawFn, data: bytearray, _: bytes) -> None:
    data[_position(draw, data)] ^= 1 << draw(st.integers(0, 7))


def _overwrite(draw: st.DrawFn, data: bytearray, _: bytes) -> None:
    at = _position(draw, data)
    data[at : at + draw(st.integers(1, 8))] = draw(st.binary(min_size=1, max_size=8))


def _change_size(draw: st.DrawFn, data: bytearray, _: bytes) -> None:
    """A number of two or four bytes near the beginning, where headers say how large something is."""
    form = draw(st.sampled_from((">I", "<I", ">H", "<H")))
    number = draw(st.sampled_from(SIZES)) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF)
    at = _position(draw, data[: draw(st.sampled_from((32, 256, LARGEST)))])
    data[at : at + struct.calcsize(form)] = struct.pack(form, number)


def _cut(draw: st.DrawFn, data: bytearray, _: bytes) -> None:
    del data[_position(draw, data) :]


def _remove(draw: st.DrawFn, data: bytearray, _: bytes) -> None:
    at = _position(draw, data)
    del data[at : at + draw(st.sampled_from((1, 4, 16, 256)))]


def _repeat(draw: st.DrawFn, data: bytearray, _: bytes) -> None:
    at = _position(draw, data)
    data[at:at] = data[at : at + draw(st.sampled_from((1, 4, 64, 512)))] * draw(st.sampled_from((1, 2, 16)))


def _splice(draw: st.DrawFn, data: bytearray, other: bytes) -> None:
    """The beginning of the one, the end of the other."""
    data[_position(draw, data) :] = other[_position(draw, other) :]


def _insert(draw: st.DrawFn, data: bytearray, other: bytes) -> None:
    at, start = _position(draw, data), _position(draw, other)
    data[at:at] = other[start : start + draw(st.sampled_from((1, 8, 64)))]


_CHANGES = (_flip_bit, _overwrite, _change_size, _cut, _remove, _repeat, _splice, _insert)


# -- JSON ----------------------------------------------------------------------------------------------------------

_NEST = "@@"  # becomes lists in lists, which the encoder would refuse to write
ODD = (
    *(None, True, 0, -1, 0.5, 10**400, math.nan, -math.inf, "", "\0é\u2028\ud7ff", "../../a.png", "a" * 300),
    *([], {}, [[]], {"A": None}, _NEST),
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.sampled_from(ODD) | TEXTS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=4)
)


def one_value_changed(document: Any) -> Iterator[bytes]:
    """The document with each of its values removed, or replaced by each of ODD."""
    for place in _places(document):
        yield as_bytes(_changed(document, place, _removed))
        for value in ODD:
            yield as_bytes(_changed(document, place, functools.partial(_replaced, value=value)))


@st.composite
def damaged_json(draw: st.DrawFn, document: Any) -> bytes:
    """The document with two of its values replaced, removed or doubled."""
    for _ in range(2):
        if places := _places(document):
            change = draw(st.sampled_from((_replaced, _replaced, _removed, _doubled)))
            if change is _replaced:
                change = functools.partial(_replaced, value=draw(VALUES))
            document = _changed(document, draw(st.sampled_from(places)), change)
    return as_bytes(document, draw(st.sampled_from(DEPTHS)))


def _changed(document: Any, place: tuple, change: Callable[[Any, Any], None]) -> Any:
    document = copy.deepcopy(document)
    node = document
    for part in place[:-1]:
        node = node[part]
    change(node, place[-1])
    return document


def _replaced(node: Any, key: Any, value: Any) -> None:
    node[key] = value


def _removed(node: Any, key: Any) -> None:
    del node[key]


def _doubled(node: Any, key: Any) -> None:
    """An item 40 times over, a key under a second name."""
    if isinstance(node, list):
        node.extend([node[key]] * 40)
    else:
        node[f"{key} "] = node[key]


def as_bytes(document: Any, depth: int = max(DEPTHS)) -> bytes:
    """With NaN and integers of any size, as Python writes them."""
    text = json.dumps(document, ensure_ascii=False)
    return text.replace(f'"{_NEST}"', "[" * depth + "]" * depth).encode()


def _places(value: Any, above: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in inner for place in ((*above, key), *_places(item, (*above, key)))]


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def as_json(*values: object) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]
