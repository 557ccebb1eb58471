"""Cells of the notebooks, as Python."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
ON_CPU, ON_A_CARD = ("tour", "own_data"), ("colab_t4", "kaggle_t4x2")
UNSTORED = ("why_hart",)  # runs on a CPU, and is stored without its outputs
LINE = re.compile(r"^( *)([!%])(.+)$", re.MULTILINE)


def cells(name: str, kind: str = "code") -> list[dict]:
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def as_python(text: str) -> str:
    """`!` and `%` lines as calls, their {expressions} filled in as IPython does."""
    return LINE.sub(lambda m: f"{m[1]}{'shell' if m[2] == '!' else 'magic'}(f{m[3]!r})", text)
