"""The stages in order, and how one is run: within its time, with whatever it raises written down."""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hart_lite.perf.card.context import Card

RESULTS, NOW = "results.jsonl", ".now"
BROKEN = 3  # exit code: the card answers no more in this process
AGAIN = 3.0  # seconds after which an alarm that something swallowed rings once more
LEAST = 4.0  # seconds left under which no stage begins


@dataclass(frozen=True)
class Stage:
    """`seconds`: its alarm. `place`: `module:function` below this package, which takes the `Card` and a dictionary to
    fill with what it finds; imported when its turn comes, so that a library that is missing fails stages, not the run.
    The first takes the dictionary alone: the card needs what it looks for.
    """

    name: str
    seconds: float
    place: str
    what: str


STAGES = (
    Stage("imports", 60, "imports:imports", "versions, and every library by name"),
    Stage("ceilings", 20, "probes:ceilings", "bandwidth and matrix products of the card"),
    Stage("sdpa", 35, "sdpa:sdpa", "SDPA's choices: NaN gradients under masks, seconds for each new shape"),
    Stage("load", 45, "probes:load", "a random 7B drawn and quantised on the card"),
    Stage("gate", 60, "gate:gate", "right at true width: packed, sampled, prefixes, graph, 16 bits"),
    Stage("rl", 100, "steps:rl", "hart steps of 8 x 8 on 12 megapixel photos"),
    Stage("decode", 45, "decode:decode", "milliseconds a token, launches, kernels"),
    Stage("attention", 30, "tree:tree", "attention of a real pack: today's blocks and others"),
    Stage("memory", 45, "memory:memory", "a step within half of what it takes"),
    Stage("sft", 30, "steps:sft", "two SFT steps"),
    Stage("stock", 75, "steps:stock", "a step of stock TRL against direct and hart"),
    Stage("merge", 45, "checkpoint:merged", "load, save and merge a checkpoint of four layers"),
    Stage("train", 120, "checkpoint:train", "the whole command on the tiny toy model"),
)


class StageTimeoutError(BaseException):
    """The stage's time is up. No `Exception`: libraries that catch those must not go on."""


def run(chosen: list[str], out: Path, deadline: float, tiny: bool) -> int:
    """Run stages until the deadline (`time.time()`), one line in `out` for each."""
    faulthandler.enable()
    cards: list[Card] = []
    for stage in STAGES:
        if stage.name not in chosen:
            continue
        seconds = min(stage.seconds, deadline - time.time() - 1)
        if seconds < LEAST:
            write(out, {"stage": stage.name, "status": "no time left"})
            continue
        print(f"card: {stage.name}: {stage.what} (at most {seconds:.0f} s)", file=sys.stderr, flush=True)
        line = {"stage": stage.name} | run_stage(stage, cards, tiny, seconds, out)
        alive = _cleared(cards, line)
        write(out, line)
        if not alive:
            return BROKEN
    return 0


def run_stage(stage: Stage, cards: list[Card], tiny: bool, seconds: float, out: Path) -> dict[str, Any]:
    """What the stage found, and how it ended. What it had found before it failed is kept. The first stage that needs
    the card puts it into `cards`: what that imports may be what is missing."""
    found: dict[str, Any] = {}
    began = time.perf_counter()
    _begins(stage, 2 * seconds, out)
    try:
        module, _, name = stage.place.partition(":")
        function = getattr(importlib.import_module(f"{__package__}.{module}"), name)
        # No alarm while something is imported: a library that is there by half fails whoever asks for it later.
        if stage is STAGES[0]:
            function(found)
        else:
            if not cards:
                cards.append(importlib.import_module(f"{__package__}.context").Card(tiny))
            _begins(stage, seconds, out)
            _within(seconds, function, cards[0], found)
        status, error = "ok", None
    except StageTimeoutError:
        status, error = "time is up", traceback.format_exc()
    except KeyboardInterrupt:
        raise
    # Everything else: a card is lent for minutes, and what one stage dies of is a result like any other.
    except BaseException:
        status, error = "failed", traceback.format_exc()
    if status == "ok" and has_failed(found):
        status = "in part"
    line = {"status": status, "seconds": round(time.perf_counter() - began, 2), "found": found}
    return line if error is None else line | {"error": error}


def _begins(stage: Stage, seconds: float, out: Path) -> None:
    """For the process that watches: where this one is, and until when (`time.time()`)."""
    (out / NOW).write_text(json.dumps({"stage": stage.name, "until": time.time() + seconds}), encoding="utf-8")


def _within(seconds: float, function: Callable, card: Card, found: dict[str, Any]) -> None:
    before = signal.signal(signal.SIGALRM, _time_is_up)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
        function(card, found)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _time_is_up(signum: int, frame: object) -> None:
    raise StageTimeoutError


def part(found: dict[str, Any], name: str, function, *arguments) -> Any:
    """`found[name]` becomes what the function returns, or the traceback of what it raised: the other parts of a stage
    go on. Returns it, or None."""
    try:
        found[name] = function(*arguments)
    except Exception:  # as of a stage
        found[name] = {"failed": traceback.format_exc()}
        return None
    return found[name]


def has_failed(found: Any) -> bool:
    """Whether a `part` of it is a traceback."""
    return isinstance(found, dict) and ("failed" in found or any(map(has_failed, found.values())))


def _cleared(cards: list[Card], line: dict[str, Any]) -> bool:
    """Free what the stage held, and note what stays. False where the card answers no more."""
    gc.collect()
    try:
        line["gib"] = cards[0].clear() if cards else {}
    except Exception:  # an illegal access shows in every later call of this process
        line["status"] += ", and the card answers no more"
        line["error"] = line.get("error", "") + traceback.format_exc()
        return False
    return True


def write(out: Path, line: dict[str, Any]) -> None:
    """Append a line, on the disk before anything else happens."""
    with (out / RESULTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, default=str) + "\n")
        file.flush()
        os.fsync(file.fileno())
