"""The measurements of `hart-lite bench`, one after the other on one machine. Systems take turns within a round, so that
a machine that changes its speed changes that of all; ratios are paired by round."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from hart_lite.errors import HartError
from hart_lite.perf.peak_memory import peak_bytes
from hart_lite.perf.step_time.count import Count, our_count, sequences_of, stock_count
from hart_lite.perf.step_time.decode import Decode, decode
from hart_lite.perf.step_time.models import Workload, random_model, workload
from hart_lite.perf.step_time.presets import Preset, question
from hart_lite.perf.step_time.steps import Laps, Ours, Stock
from hart_lite.perf.step_time.update import differences, packed_pass, unpacked_pass, update_peak
from hart_lite.types import Example, Tokens

log = logging.getLogger(__name__)

LOOPS = ("direct", "mgpo", "hart")
SCORED = "hart, scored"  # the loop `hart` with rollout.verify=score
SYSTEMS = ("stock", *LOOPS, SCORED)
GROWTH_ROUNDS = 2


@dataclass(frozen=True)
class Steps:
    """Of each system: laps and counts of every round, and its peak in bytes beyond what it began with."""

    laps: dict[str, list[Laps]]
    counts: dict[str, list[Count]]
    peaks: dict[str, int]


@dataclass(frozen=True)
class Passes:
    """Packed against unpacked: seconds of each round, and tokens."""

    packed: list[float]
    unpacked: list[float]
    packed_tokens: int
    unpacked_tokens: int


@dataclass(frozen=True)
class Growth:
    """`direct` steps that differ in one thing: its two values, tokens of a prefix, seconds of each round, counts."""

    what: str
    values: tuple[int, int]
    seconds: tuple[list[float], list[float]]
    counts: tuple[Count, Count]


@dataclass(frozen=True)
class Results:
    work: Workload
    prefix: int  # tokens of the prompt of stock and `direct`
    steps: Steps
    passes: Passes
    equivalence: dict[str, tuple[float, float]]  # log-probs, gradients
    peaks: dict[str, tuple[int, int]]  # of updates: measured, planned
    sample_peaks: dict[int, int]  # of `direct` updates, by samples
    growth: list[Growth]
    decode: Decode


def bench(preset: Preset, rounds: int) -> Results:
    """Everything, `rounds` times where it is timed, after one round that does not count.

    Raises `HartError` when the preset's device is not there.
    """
    if preset.device == "cuda" and not torch.cuda.is_available():
        raise HartError(f"--preset {preset.name} needs a CUDA card, and torch sees none here; --preset cpu needs none")
    with TemporaryDirectory() as name:
        folder = Path(name)
        log.info("bench: a random model in memory, twice")
        work = workload(preset, folder)
        systems = {"stock": Stock(work, random_model(preset), folder)}
        systems |= {loop: Ours(work, loop, folder) for loop in LOOPS}
        systems[SCORED] = Ours(work, "hart", folder, verify="score")
        examples = [question(preset, folder, n) for n in range(rounds + 1)]
        steps = _steps(work, systems, examples)
        groups = {loop: sequences_of(systems[loop].groups) for loop in LOOPS}
        turn = systems["direct"].groups[0].trajectories[0].turns[0]
        passes = _passes(work, groups["direct"], rounds)
        log.info("bench: equivalence, memory, decoding")
        return Results(
            work=work,
            prefix=len(turn.prompt),
            steps=steps,
            passes=passes,
            equivalence=_equivalence(work, groups, question(preset, folder, 0, images=2)),
            peaks={loop: update_peak(work, sequences) for loop, sequences in groups.items()},
            sample_peaks=_sample_peaks(work, examples[0]),
            decode=decode(work, [turn.prompt] * preset.samples),
            growth=[
                _growth(work, folder, "samples", preset.grown_samples),
                _growth(work, folder, "full_tokens", preset.grown_full_tokens),
            ],
        )


def _steps(work: Workload, systems: dict[str, Stock | Ours], examples: list[Example]) -> Steps:
    laps, counts = {name: [] for name in systems}, {name: [] for name in systems}
    for round_, example in enumerate(examples):
        for name, system in systems.items():
            laps[name].append(system.step(example))
            counts[name].append(stock_count(work, example) if name == "stock" else our_count(work, system.groups))
            log.info("bench: round %d of %d, %s: %.2f s", round_, len(examples) - 1, name, laps[name][-1]["step"])
    peaks = {name: peak_bytes(lambda s=system: s.step(examples[-1]), work.device) for name, system in systems.items()}
    laps, counts = ({name: rows[1:] for name, rows in all_.items()} for all_ in (laps, counts))
    return Steps(laps, counts, peaks)


def _passes(work: Workload, sequences: list[Tokens], rounds: int) -> Passes:
    packed, unpacked = [], []
    for round_ in range(rounds + 1):
        packed.append(packed_pass(work, sequences))
        unpacked.append(unpacked_pass(work, sequences))
        seconds = packed[-1].seconds, unpacked[-1].seconds
        log.info("bench: round %d of %d, update pass packed %.2f s, unpacked %.2f s", round_, rounds, *seconds)
    return Passes(
        [one.seconds for one in packed[1:]], [one.seconds for one in unpacked[1:]], packed[0].tokens, unpacked[0].tokens
    )


def _equivalence(
    work: Workload, groups: dict[str, list[Tokens]], two_images: Example
) -> dict[str, tuple[float, float]]:
    """Differences between packed and unpacked, of every loop and of questions about two images."""
    cases = {f"{loop}, one image": sequences for loop, sequences in groups.items()}
    for loop in groups:
        cases[f"{loop}, two images"] = sequences_of(work.runner.rollout([two_images], loop, 2, seed=0))
    work.runner.policy.forget_images()
    return {name: differences(packed_pass(work, cases[name]), unpacked_pass(work, cases[name])) for name in cases}


def _sample_peaks(work: Workload, example: Example) -> dict[int, int]:
    """Bytes of an update, by the number of samples of one prompt."""
    few, many = work.preset.grown_samples
    large = work.at(samples=many)
    sequences = sequences_of(large.runner.rollout([example], "direct", many, seed=0))
    return {samples: update_peak(large, sequences[:samples])[0] for samples in (few, many)}


def _growth(work: Workload, folder: Path, what: str, values: tuple[int, int]) -> Growth:
    sizes = [work.at(**{what: value}) for value in values]
    systems = [Ours(size, "direct", folder) for size in sizes]
    seconds = ([], [])
    for round_ in range(GROWTH_ROUNDS):
        for value, size, system, times in zip(values, sizes, systems, seconds, strict=True):
            times.append(system.step(question(size.preset, folder, round_))["step"])
            log.info("bench: round %d of %d, %s %d: %.2f s", round_ + 1, GROWTH_ROUNDS, what, value, times[-1])
    counts = tuple(our_count(size, system.groups) for size, system in zip(sizes, systems, strict=True))
    return Growth(what, values, seconds, counts)
