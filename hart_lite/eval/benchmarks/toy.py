"""The toy data as a benchmark: held-out scenes with exact boxes, of which a source says how many."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hart_lite.errors import HartError
from hart_lite.eval.benchmarks.base import BadRow, own
from hart_lite.toy.scenes import HELD_OUT, World, examples
from hart_lite.types import Example
from hart_lite.utils.text import shown

SCENES = 150  # of two questions each
MOST_SCENES = 1_000_000
_SOURCE = re.compile(r"scenes=(\d{1,7})")


def read(source: str) -> Iterator[Example | BadRow]:
    scenes = SCENES
    if source:
        found = _SOURCE.fullmatch(source)
        scenes = int(found[1]) if found else 0
        if not 1 <= scenes <= MOST_SCENES:
            raise HartError(f"the toy data has no {shown(source)}; give toy or toy=scenes=40")
    for index in range(HELD_OUT, HELD_OUT + scenes):
        yield from examples(World(), range(index, index + 1))


BENCHMARK = own(
    "toy",
    "Toy data",
    "Apache-2.0",
    read,
    questions=2 * SCENES,
    tables="none: scenes are drawn, not taken from anywhere",
)
