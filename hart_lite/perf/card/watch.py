"""The process that computes may crash or hang; this one starts another for the stages that are left, and prints the
table at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from textwrap import wrap
from typing import Any

from hart_lite.perf.card.stages import BROKEN, NOW, RESULTS, write

GRACE = 20.0  # seconds that a stage may take to end after its alarm: a kernel under way is not interrupted
TABLE = "table.txt"
WIDEST = 150


def watch(chosen: list[str], out: Path, deadline: float, tiny: bool) -> int:
    """Run the stages in processes of their own. 0 where all of them were run and none failed."""
    (out / RESULTS).unlink(missing_ok=True)
    waiting = list(chosen)
    try:
        while waiting and time.time() < deadline:
            (out / NOW).unlink(missing_ok=True)
            code = run_child(waiting, out, deadline, tiny)
            done = {line["stage"] for line in read(out)}
            waiting = [name for name in waiting if name not in done]
            if waiting and code not in (0, BROKEN):  # the stage it was in took it down
                dead = _now(out).get("stage", waiting[0])
                dead = dead if dead in waiting else waiting[0]
                why = f"took its process down (exit code {code}, negative: a signal); the log above may say more"
                write(out, {"stage": dead, "status": "died", "error": why})
                waiting.remove(dead)
    finally:
        (out / NOW).unlink(missing_ok=True)
        text = table(read(out), chosen)
        (out / TABLE).write_text(text, encoding="utf-8")
        print(text, flush=True)
    lines = read(out)
    return int(len(lines) < len(chosen) or any(line["status"] != "ok" for line in lines))


def run_child(names: list[str], out: Path, deadline: float, tiny: bool) -> int:
    """The exit code of a process that runs these stages; it is killed where it does not end by itself."""
    command = [sys.executable, "-m", __package__, "--child", "--out", str(out), "--until", str(deadline)]
    command += ["--only", ",".join(names), *(["--tiny"] if tiny else [])]
    # Nothing here is on the Hub: a library that asks for it all the same would wait for an answer.
    child = subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"})
    try:
        while child.poll() is None:
            time.sleep(0.2)
            if time.time() > min(_now(out).get("until", deadline), deadline) + GRACE:
                child.kill()
        return child.wait()
    finally:
        if child.poll() is None:
            child.kill()


def _now(out: Path) -> dict[str, Any]:
    try:
        return json.loads((out / NOW).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # not begun, or read while it was written
        return {}


def read(out: Path) -> list[dict[str, Any]]:
    file = out / RESULTS
    return [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def table(lines: list[dict[str, Any]], chosen: list[str]) -> str:
    """Everything that was found, and of errors their ends."""
    out = []
    for line in lines:
        out.append(f"== {line['stage']}: {line['status']}, {line.get('seconds', 0)} s  {_flat(line.get('gib', ''))}")
        for name, value in line.get("found", {}).items():
            out += _rows(name, value, "   ")
        out += _end_of(line.get("error", ""), "   ")
    missing = [name for name in chosen if name not in {line["stage"] for line in lines}]
    out += [f"== {name}: not run" for name in missing]
    return "\n".join(text[:WIDEST] for text in out) + "\n"


def _rows(name: str, value: Any, margin: str) -> list[str]:
    """One line where that is enough, or where nothing lies deeper; else one for each thing inside."""
    if isinstance(value, dict) and "failed" in value:
        return [f"{margin}{name}: FAILED", *_end_of(value["failed"], margin)]
    line = f"{margin}{name}: {_flat(value)}"
    inner = [*(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())]
    deeper = any(isinstance(one, dict | list) or len(str(one)) > WIDEST // 2 for _, one in inner)
    if deeper and (len(line) > WIDEST or "failed" in line):
        return [f"{margin}{name}:", *(row for key, one in inner for row in _rows(str(key), one, margin + "  "))]
    return wrap(line, WIDEST, subsequent_indent=margin + "    ")


def _end_of(error: str, margin: str) -> list[str]:
    return [f"{margin}! {text}" for text in error.strip().splitlines()[-5:]]


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(map(_flat, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
