"""Coverage-guided: atheris (libFuzzer) keeps every input that reaches a new edge of hart_lite's code, and goes on from
it. `guided` runs this room as a process of its own, since libFuzzer ends the process it runs in.

The first byte of an input says which of the parsers gets the rest.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_STATUS = re.compile(r"^#(\d+)\s+DONE\s+cov: (\d+) ft: \d+ corp: (\d+)", re.MULTILINE)
_MOST_S = 600


@dataclass(frozen=True)
class Guided:
    """`edges` of the instrumented code that were reached; `kept` inputs, each of which reached one first."""

    inputs: int
    edges: int
    kept: int
    slowest_s: float
    outcomes: Counter[str]
    faults: list[str]


def installed() -> bool:
    return find_spec("atheris") is not None


def guided(what: str, seed: int, inputs: int, folder: Path) -> Guided:
    """`what`: "parsers" or "planted". `folder`, a new one, keeps what broke a reader."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.reliability.fuzz_guided", what, str(seed), str(inputs), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", timeout=_MOST_S)
    status = _STATUS.search(ended.stderr)
    if ended.returncode or status is None:
        raise RuntimeError(f"{what}: the fuzzer ended with {ended.returncode}: {ended.stderr[-2000:]}")
    account = json.loads((folder / "account.json").read_text())
    account["outcomes"] = Counter(account["outcomes"])
    return Guided(edges=int(status[2]), kept=int(status[3]), **account)


def _main(what: str, seed: str, inputs: str, folder: str) -> None:
    import atheris

    work = Path(folder)
    with atheris.instrument_imports(include=["hart_lite", "tests.reliability.fuzz_planted"]):
        from tests.reliability.fuzz_planted import PLANTED
        from tests.reliability.fuzz_watch import STOP_S, Watch

        found = [PLANTED]
        if what == "parsers":
            from tests.reliability.fuzz_targets import PARSERS, targets

            made = targets(work / "scratch")
            found = [made[name] for name in PARSERS]
    warnings.simplefilter("ignore")
    logging.disable()
    (work / "seeds").mkdir()
    for number, target in enumerate(found):
        for n, data in enumerate(target.seeds):
            (work / "seeds" / f"{number}-{n}").write_bytes(bytes([number]) + data)
    watch = Watch(work / "faults")

    def give(data: bytes) -> None:
        watch.give(found[data[0] % len(found) if data else 0], data[1:])
        if watch.inputs % 100 == 0 or watch.inputs >= int(inputs):  # libFuzzer ends the process without a word to us
            names = ("inputs", "slowest_s", "outcomes", "faults")
            (work / "account.json").write_text(json.dumps({name: getattr(watch, name) for name in names}))

    flags = [f"-seed={seed}", f"-runs={inputs}", "-max_len=4096", f"-timeout={STOP_S:.0f}", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], str(work / "seeds"), *flags, f"-artifact_prefix={work}/"], give)
    atheris.Fuzz()


if __name__ == "__main__":
    _main(*sys.argv[1:])
