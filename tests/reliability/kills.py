"""Killed anywhere, a run goes on and ends as if nothing had been.

Runs are killed with SIGKILL again and again at random moments of phases that are taken in turn, and resumed. A moment
is drawn within the time the phase took in the unbroken run; where the run is when it is hit is what counts.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.reliability.promise import Promise
from tests.reliability.runs import begin, comes_to, differences, durations, finish, kept, phase

SEED = 20260222
CHAINS = (  # phases to be killed in, in the order in which a run comes to them
    ("loading", "evaluation", "rollout", "save", "update", "adapter", "SFT", "report"),
    ("rollout", "metrics", "save", "update", "locate", "save", "SFT", "adapter"),
    ("watching", "rollout", "update", "save", "pictures", "adapter", "SFT", "evaluation"),
    ("update", "save", "rollout", "adapter", "SFT", "save", "locate", "summary"),
)
GROUPS = {"locate": "stage change", "adapter": "stage change", "pictures": "writing", "metrics": "writing"}
GROUPS |= {"summary": "ending", "report": "ending", "watching": "evaluation", "SFT": "update"}


def promises(folder: Path, quick: bool) -> Iterator[Promise]:
    with ThreadPoolExecutor(2) as pool:
        [unbroken, again] = pool.map(finish, [folder / "unbroken", folder / "again"])
        found = differences(again, unbroken)
        yield Promise("same seed, same run, twice on one machine", kept(found), not found)
        seconds = durations(folder / "unbroken")
        chains = [chain[::3] for chain in CHAINS[:1]] if quick else CHAINS
        work = [(folder / f"chain-{n}", chain, random.Random(f"{SEED}/{n}"), seconds) for n, chain in enumerate(chains)]
        ended = list(pool.map(lambda words: killed(*words), work))
        hit = sum(ended, Counter())
        compared = [differences(place / "run", unbroken) for place, *_ in work]
    found = [difference for one in compared for difference in one]
    where = ", ".join(f"{count} in {name}" for name, count in hit.most_common())
    yield Promise(
        "kill -9 at random moments, at least 25: the final run is the unbroken one, bit by bit",
        f"{hit.total()} kills of {len(work)} runs ({where}; seed {SEED}): {kept(found)}",
        not found and (quick or hit.total() >= 25),
    )


def killed(folder: Path, phases: tuple[str, ...], chance: random.Random, seconds: dict[str, float]) -> Counter:
    """Start, kill, start, kill, .., and finish; where it was hit."""
    hit: Counter = Counter()
    for wanted in phases:
        process = begin(folder)
        length = 6.0 if wanted == "loading" else seconds[wanted]
        if comes_to(wanted, folder, process):
            time.sleep(chance.uniform(0, length))
            process.kill()
        if process.wait() == -signal.SIGKILL:
            name, _ = phase(folder)
            hit[GROUPS.get(name, name)] += 1
    finish(folder)
    return hit
