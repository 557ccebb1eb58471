"""Measures every promise and prints one table: `python -m tests.reliability [PART ..]` (or `make trust`).

Each part is a room of this folder with `promises(folder, quick)`: it works in `folder`, an empty one of its own, and
yields its lines as they are measured. `--quick` takes a few samples of each.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from hart_lite.utils.markdown import markdown_table
from tests.reliability.promise import Promise

PARTS = ("kills", "saves", "stops", "memory", "numbers", "long_runs", "bad_bytes", "hostile", "demo")
RESULTS = Path(__file__).parents[2] / "experiments" / "results"


def measure(part: str, quick: bool) -> list[Promise]:
    room = importlib.import_module(f"tests.reliability.{part}")
    found = []
    with tempfile.TemporaryDirectory(prefix=f"trust-{part}-") as folder:
        for promise in room.promises(Path(folder), quick):
            print(f"{part}: {promise.promise}: {promise.measured}: {said(promise)}", file=sys.stderr, flush=True)
            found.append(promise)
    return found


def said(promise: Promise) -> str:
    return "kept" if promise.kept else "BROKEN"


def table(found: Sequence[Promise]) -> str:
    return markdown_table(("promise", "measured", ""), [(p.promise, p.measured, said(p)) for p in found], words=3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a few samples of each")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    began = time.monotonic()
    found = [p for part in arguments.parts or PARTS for p in measure(part, arguments.quick)]
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "peft"))
    text = (
        f"`{'make trust' if not sys.argv[1:] else 'python -m tests.reliability ' + ' '.join(sys.argv[1:])}`, "
        f"{(time.monotonic() - began) / 60:.0f} minutes, Python {platform.python_version()}, {libraries}.\n\n"
        f"{table(found)}\n"
    )
    print(text)
    if not sys.argv[1:]:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "trust.md").write_text("# What is promised, measured\n\n" + text, encoding="utf-8")
    return 0 if all(p.kept for p in found) else 1


if __name__ == "__main__":
    sys.exit(main())
