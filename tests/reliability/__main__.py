"""Runs the checks and prints one table: `python -m tests.reliability [PART ..]`, or `make reliability` for all of them.

Each part is a module of this package with `checks(folder, quick)`. It works in `folder`, an empty one of its own, and
yields each `Check` as soon as it is measured. What cannot be measured on this machine is said on stderr and left out of
the table. The exit code is 0 if every check passed. `--quick` takes a few samples of each.
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
from tests.reliability.check import Check

PARTS = ("kills", "saves", "stops", "memory", "numbers", "long_runs", "hostile", "demo")
RESULTS = Path(__file__).parents[2] / "experiments" / "results" / "reliability.md"


def run_part(part: str, quick: bool) -> list[Check]:
    module = importlib.import_module(f"tests.reliability.{part}")
    found = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"reliability-{part}-") as folder:
        for check in module.checks(Path(folder), quick):
            seconds = time.monotonic() - began
            line = f"{part}, {seconds:.0f} s: {check.claim}: {check.measured}: {check.verdict}"
            print(line, file=sys.stderr, flush=True)
            found.append(check)
    return found


def table(found: Sequence[Check]) -> str:
    return markdown_table(("check", "measured", ""), [(c.claim, c.measured, c.verdict) for c in found], words=3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a few samples of each")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    began = time.monotonic()
    found = [check for part in arguments.parts or PARTS for check in run_part(part, arguments.quick)]
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "peft"))
    text = (
        f"`{'make reliability' if not sys.argv[1:] else 'python -m tests.reliability ' + ' '.join(sys.argv[1:])}`, "
        f"{(time.monotonic() - began) / 60:.0f} minutes, Python {platform.python_version()}, {libraries}.\n\n"
        f"{table(found)}\n"
    )
    print(text)
    if not sys.argv[1:]:
        RESULTS.write_text("# Reliability, measured\n\n" + text, encoding="utf-8")
    return 0 if all(check.passed for check in found) else 1


if __name__ == "__main__":
    sys.exit(main())
