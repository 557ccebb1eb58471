"""A run that is killed goes on and ends as if nothing had been.

Runs are killed with SIGKILL again and again, at random moments of phases that are taken in turn, and resumed. A moment
is drawn within the time that the phase takes in an unbroken run; the phase that the run turns out to be in is counted.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.reliability.check import Check
from tests.reliability.runs import begin, current_phase, differences, durations, finish, reaches, summary

SEED = 20260222
LOADING = 6.0  # seconds from the start of the process to its first phase
LEAST, LEAST_QUICK = 25, 3  # kills
CHAINS = (  # phases to be killed in, in the order in which a run comes to them
    ("loading", "evaluation", "rollout", "checkpoint", "update", "adapter", "SFT", "report"),
    ("rollout", "metrics", "checkpoint", "update", "locate", "checkpoint", "SFT", "adapter"),
    ("tracking", "rollout", "update", "checkpoint", "rollout log", "adapter", "SFT", "evaluation"),
    ("update", "checkpoint", "rollout", "adapter", "SFT", "checkpoint", "locate", "summary"),
)


def checks(folder: Path, quick: bool) -> Iterator[Check]:
    with ThreadPoolExecutor(2) as pool:
        [unbroken, again] = pool.map(finish, [folder / "unbroken", folder / "again"])
        found = differences(again, unbroken)
        yield Check("the same seed twice on one machine gives the same run", summary(found), not found)
        seconds = durations(folder / "unbroken") | {"loading": LOADING}
        chains = [chain[::3] for chain in CHAINS[:1]] if quick else CHAINS
        work = [(folder / f"chain-{n}", chain, random.Random(f"{SEED}/{n}"), seconds) for n, chain in enumerate(chains)]
        hits = sum(pool.map(lambda arguments: killed(*arguments), work), Counter())
        found = [difference for place, *_ in work for difference in differences(place / "run", unbroken)]
    least = LEAST_QUICK if quick else LEAST
    where = ", ".join(f"{count} in {name}" for name, count in hits.most_common())
    yield Check(
        f"kill -9 at random moments, at least {least} times: the final run is the unbroken one, to the bit",
        f"{hits.total()} kills of {len(work)} runs ({where}; seed {SEED}): {summary(found)}",
        not found and hits.total() >= least,
    )


def killed(folder: Path, phases: tuple[str, ...], chance: random.Random, seconds: dict[str, float]) -> Counter[str]:
    """Start, kill, start, kill, .., and finish; returns in which phases the run was hit."""
    hits: Counter[str] = Counter()
    for wanted in phases:
        process = begin(folder)
        if reaches(wanted, folder, process):
            time.sleep(chance.uniform(0, seconds[wanted]))
            process.kill()
        if process.wait() == -signal.SIGKILL:
            hits[current_phase(folder)[0]] += 1
    finish(folder)
    return hits
