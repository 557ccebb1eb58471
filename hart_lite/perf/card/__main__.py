"""The command line of the check, and the process that watches over the one that computes."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from hart_lite.perf.card import stages, watch


def main() -> int:
    arguments = _arguments()
    chosen = arguments.only.split(",") if arguments.only else [stage.name for stage in stages.STAGES]
    unknown = sorted(set(chosen) - {stage.name for stage in stages.STAGES})
    if unknown:
        names = ", ".join(stage.name for stage in stages.STAGES)
        print(f"card: no stage is called {', '.join(unknown)}; --only takes some of {names}", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    deadline = arguments.until or time.time() + 60 * arguments.minutes
    if arguments.child:
        return stages.run(chosen, arguments.out, deadline, arguments.tiny)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a call that is cut off prints its table, too
    return watch.watch(chosen, arguments.out, deadline, arguments.tiny)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m hart_lite.perf.card", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="when to stop; a stage that is under way is ended")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.jsonl and table.txt")
    parser.add_argument("--only", default="", help="stages to run, with commas between them; without it all are run")
    parser.add_argument("--tiny", action="store_true", help="every stage on the CPU at a size that ends in a minute")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
