"""JSON documents with one or two values that are not what they should be, as hypothesis draws them."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.reliability.fuzz_watch import Target, Watch

NUMBERS = st.sampled_from((0, -1, 1, 0.5, 2**31, 2**63, 10**400, -(10**400), 1e308, float("nan"), float("inf")))
TEXTS = st.sampled_from(
    (
        "",
        " ",
        "\0",
        "A",
        "../../a.png",
        "a" * 300,
        "é\u2028\ud7ff",
        "\ufeff",
        "<script>",
        "(A) x\n(B) y",
        "[[",
        "1e999",
        "⑨",
    )
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ODD = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(ODD, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=4))


def _places(value: Any, above: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in inner for place in ((*above, key), *_places(item, (*above, key)))]


@st.composite
def bent(draw: st.DrawFn, document: Any) -> Any:
    """The document with one or two of its values replaced, taken out or doubled."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        places = _places(document)
        if not places:
            return draw(VALUES)
        *above, key = draw(st.sampled_from(places))
        node = document
        for part in above:
            node = node[part]
        match draw(st.integers(0, 9)):
            case 0:
                del node[key]
            case 1 if isinstance(node, list):
                node.extend([node[key]] * draw(st.integers(1, 40)))
            case 1:
                node[draw(TEXTS)] = node[key]
            case _:
                node[key] = draw(VALUES)
    return document


def as_json(value: Any) -> bytes:
    """With NaN and integers of any size, as Python writes them."""
    return json.dumps(value, ensure_ascii=False).encode()


def give_bent(watch: Watch, target: Target, draws: int, count: int) -> None:
    """`count` variants of every seed that is JSON, and nests of up to 3,000 levels in the place of its first values."""
    documents = [document for data in target.seeds if (document := _parsed(data)) is not None]
    for document in documents:

        @seed(draws)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(bent(document))
        def give(value: Any) -> None:
            watch.give(target, as_json(value))

        give()
        for depth, place in itertools.product((200, 900, 980, 1_000, 3_000), _places(document)[:4]):
            watch.give(target, _nested_in(document, place, depth))


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _nested_in(document: Any, place: tuple, depth: int) -> bytes:
    """Written by hand: the encoder would not go so deep."""
    document = copy.deepcopy(document)
    *above, key = place
    node = document
    for part in above:
        node = node[part]
    node[key] = "@@"
    return as_json(document).replace(b'"@@"', b"[" * depth + b"]" * depth)
