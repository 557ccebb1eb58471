"""Small whole runs of the command line, and how two of them differ."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from hart_lite.report.run_report import write_report
from hart_lite.utils.phase import PHASES

ROOT = Path(__file__).parents[2]
SMALL = (  # three stages on the toy base in ten seconds, with a checkpoint after almost every step
    *("data.toy.scenes=16", "data.toy.eval_scenes=3", "rollout.samples=4", "model.lora.dropout=0.1"),
    *("evaluate.every=2", "evaluate.watch=2"),
    *("stages.0.steps=5", "stages.0.questions_per_step=4", "stages.0.save_every=1", "stages.0.log_rollouts_every=2"),
    *("stages.1.steps=4", "stages.1.batch_size=8", "stages.1.micro_batch_size=4", "stages.1.save_every=1"),
    *("stages.2.steps=3", "stages.2.batch_size=8", "stages.2.micro_batch_size=4", "stages.2.save_every=2"),
)
STEPS = [("1-rl", n) for n in range(1, 6)] + [("2-sft", n) for n in range(1, 5)] + [("3-sft", n) for n in range(1, 4)]
REPORTING = threading.Lock()  # matplotlib, which draws the charts of a report, is not safe in threads
LAUNCH = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")
POLL = 5e-4  # seconds


def begin(folder: Path, *words: str, processes: int = 1, **environment: str) -> subprocess.Popen:
    """`hart-lite train` of the small recipe in `folder`/run, from its beginning or from where it is; its notes lie
    beside it. The paths are relative, so that two runs differ in none."""
    notes = folder / "notes"
    notes.mkdir(parents=True, exist_ok=True)
    (notes / "now").unlink(missing_ok=True)
    launch = LAUNCH if processes == 2 else ()
    command = [sys.executable, "-m", *launch, "tests.reliability.noted_run", str(notes)]
    command += ["train", "tiny_cpu", "output=run", *SMALL, "--resume", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    with (folder / "log.txt").open("a") as log:  # through a pipe, since the run may lose the right to write files
        sink = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=sink.stdin, stderr=subprocess.STDOUT
    )
    sink.stdin.close()
    process.sink = sink
    return process


def exit_code(process: subprocess.Popen) -> int:
    """Waits until the process has ended and all that it printed has arrived."""
    code = process.wait()
    process.sink.wait()
    return code


def finish(folder: Path, *words: str, processes: int = 1) -> Path:
    """Run to the end; returns the run directory. Raises `RuntimeError` with the end of what was printed if it fails."""
    code = exit_code(begin(folder, *words, processes=processes))
    if code:
        raise RuntimeError(f"exit code {code} in {folder}: {printed(folder)[-3000:]}")
    return folder / "run"


def printed(folder: Path) -> str:
    return (folder / "log.txt").read_text(errors="replace")


def current_phase(folder: Path) -> tuple[str, int]:
    """(the phase a run is in, how often it has entered it). Before the first one it is loading."""
    try:
        name, _, count = (folder / "notes" / "now").read_text().strip().partition("\t")
    except FileNotFoundError:
        return "loading", 1
    return (name, int(count)) if count else ("loading", 1)


def reaches(wanted: str, folder: Path, process: subprocess.Popen, number: int = 1) -> bool:
    """Wait until a run has entered a phase so many times; False if it ends before."""
    while process.poll() is None:
        name, count = current_phase(folder)
        if name == wanted and count >= number:
            return True
        time.sleep(POLL)
    return False


def durations(folder: Path) -> dict[str, float]:
    """The longest time that a finished run has spent in each phase, in seconds.

    Raises `RuntimeError` if it has logged another set of phases than the package names: then no phase can be chosen.
    """
    lines = [line.split("\t") for line in (folder / "notes" / "log").read_text().splitlines()]
    out: dict[str, float] = {}
    for (name, began), (_, ended) in itertools.pairwise(lines):
        out[name] = max(out.get(name, 0.0), float(ended) - float(began))
    if set(out) != set(PHASES):
        raise RuntimeError(f"the run logged the phases {sorted(out)}; {sorted(PHASES)} were expected")
    return out


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def depends_on_machine(name: str) -> bool:
    """Whether a metric of a step is a time, or the memory that the machine had in use."""
    return name.startswith("seconds_") or name in ("tokens_per_second", "peak_memory_gib")


def differences(run: Path, other: Path) -> list[str]:
    """Of two finished runs: every file but the checkpoints, byte by byte; metrics and report without times."""
    mine, theirs = _files(run), _files(other)
    found = [f"{name} only in one" for name in sorted(mine ^ theirs)]
    compared = (mine & theirs) - {"metrics.jsonl", "timing.jsonl", "report.html"}
    found += [name for name in sorted(compared) if (run / name).read_bytes() != (other / name).read_bytes()]
    if [(row["stage"], row["step"]) for row in metrics(run)] != STEPS:
        found.append("metrics.jsonl lacks a step or has one twice")
    if _timeless(run) != _timeless(other):
        found.append("metrics.jsonl")
    if _report(run) != _report(other):
        found.append("report.html")
    return found


def _files(run: Path) -> set[str]:
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    return {name for name in names if "/checkpoint-" not in name}


def _timeless(run: Path) -> list[dict]:
    return [{name: value for name, value in row.items() if not depends_on_machine(name)} for row in metrics(run)]


def _report(run: Path) -> str:
    """The report of a copy of the run in which every time is 1."""
    rows = [{name: 1 if depends_on_machine(name) else value for name, value in row.items()} for row in metrics(run)]
    with tempfile.TemporaryDirectory() as folder, REPORTING:
        copy = Path(folder) / run.name
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoint-*"))
        (copy / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        timed = [json.loads(line) | {"seconds": 1} for line in (copy / "timing.jsonl").read_text().splitlines()]
        (copy / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in timed))
        return write_report(copy).read_text().replace(str(copy), "run")


def summary(found: Sequence[str]) -> str:
    """Differences in words, the first few of them."""
    return f"{len(found)} differences: {', '.join(found[:4])}" if found else "no difference"
