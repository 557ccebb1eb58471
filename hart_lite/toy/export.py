"""The toy data on disk: its scenes as PNG files, its questions as rows."""

from __future__ import annotations

from pathlib import Path

from hart_lite.data.writer import ROWS, data_folder
from hart_lite.errors import HartError
from hart_lite.toy.scenes import World, examples
from hart_lite.utils.progress import progress


def write_toy_data(out: str | Path, scenes: int, seed: int = 0, questions_per_scene: int = 2) -> Path:
    """Writes `out`/rows.jsonl and `out`/images; returns the rows' file.

    They are `examples(World(seed=seed), range(scenes), questions_per_scene)`; another seed gives a set to evaluate on.
    Raises `HartError`, and writes nothing, if `out` is there already or there is nothing to ask.
    """
    for name, count in (("scenes", scenes), ("questions_per_scene", questions_per_scene)):
        if count < 1:
            raise HartError(f"{name} = {count}; at least 1 is needed")
    with data_folder(out) as folder:
        asked = examples(World(seed=seed), range(scenes), questions_per_scene)
        for example in progress(asked, desc="drawing", unit=" rows", disable=None):
            folder.add(example)
    return Path(out, ROWS)
