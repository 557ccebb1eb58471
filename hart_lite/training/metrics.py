"""What a step of RL prints. Figures are about all questions of the step, whichever process rolled them out; seconds and
memory are those of the process that prints."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from accelerate.utils import gather_object

from hart_lite.boxes import coverage
from hart_lite.models.packing import Pack
from hart_lite.types import Example, Group

Shares = dict[str, tuple[float, int]]  # a total, and the number it is a mean over; 0: it adds up over processes


def measure(
    groups: Sequence[Group], replaced: Sequence[Group], packs: Sequence[Pack], metrics: dict[str, float], clock: Clock
) -> dict[str, float]:
    """Figures of the step's first draw: what was drawn instead of flat groups would flatter them. `metrics` are the
    losses and whether the step was skipped."""
    figures = over_processes(_shares(groups, replaced) | _of_the_update(packs, metrics))
    figures["tokens_per_second"] = figures.pop("sampled") / clock.laps["rollout"]
    figures |= peak_memory(clock.device)
    return figures | {f"seconds_{name}": seconds for name, seconds in clock.laps.items()}


def over_processes(shares: Shares) -> dict[str, float]:
    """Each figure over what every process measured of it: one with more turns counts for more."""
    totals: Shares = {}
    for part in gather_object([shares]):
        for name, (total, count) in part.items():
            before, others = totals.get(name, (0, 0))
            totals[name] = (before + total, others + count)
    return {name: total / count if count else total for name, (total, count) in totals.items()}


def _shares(groups: Sequence[Group], replaced: Sequence[Group]) -> Shares:
    trajectories = [t for group in groups for t in group.trajectories]
    looked = [(g.example, t) for g in groups for t in g.trajectories if t.turns[0].kind == "locate"]
    turns = [turn for t in trajectories for turn in t.turns]
    if not turns:  # the rollout came to nothing, and earned neither much nor little
        return {"sampled": (0, 0)}
    drawn_again = [turn for group in replaced for t in group.trajectories for turn in t.turns]
    shares = {
        "reward": (sum(t.reward for t in trajectories), len(trajectories)),
        "flat_groups": (sum(group.flat for group in groups), len(groups)),
        "replaced_groups": (len(replaced), len(groups)),
        "sampled": (sum(len(turn.response) for turn in (*turns, *drawn_again)), 0),
    }
    if looked:
        shares["valid_box"] = (sum(bool(t.boxes) for _, t in looked), len(looked))
        shares["rejected_boxes"] = (sum(t.rejected for _, t in looked), len(looked))
        shares["coverage"] = (sum(coverage_share(e, t.boxes) for e, t in looked), len(looked))
    for name in dict.fromkeys(name for t in trajectories for name in t.terms):  # how the reward came about
        values = [t.terms[name] for t in trajectories if name in t.terms]
        shares[name] = (sum(values), len(values))
    for name in dict.fromkeys(turn.kind for turn in turns):
        lengths = [len(turn.response) for turn in turns if turn.kind == name]
        shares[f"tokens_{name}"] = (sum(lengths), len(lengths))
    return shares


def _of_the_update(packs: Sequence[Pack], metrics: dict[str, float]) -> Shares:
    """Weights sum to 1 over the whole step, so its losses are the sums of those of the processes."""
    shares = {name: (metrics.get(name, 0.0), 0) for name in ("loss", "policy_loss")}
    if "kl" in metrics:  # neither without a reference nor where every group is flat was it measured
        shares["kl"] = (metrics["kl"], 0)
    if metrics.get("drawn_tokens"):
        shares["sampling_gap"] = (metrics["sampling_gap"], metrics["drawn_tokens"])
        if "reweighted_tokens" in metrics:
            shares["reweighted"] = (metrics["reweighted_tokens"], metrics["drawn_tokens"])
    return shares | {"packed_tokens": (sum(map(len, packs)), 0), "skipped": (metrics["skipped"], 1)}


def coverage_share(example: Example, boxes) -> float:
    """Mean share of the example's images that the boxes cover."""
    sizes = [image.size() for image in example.images]
    return sum(coverage([b for b in boxes if b.image == n], size) for n, size in enumerate(sizes)) / len(sizes)


def peak_memory(device: torch.device) -> dict[str, float]:
    """Most memory held so far, in GiB: of a card by tensors, and by torch's allocator, which takes more; of the process
    on CPU."""
    if device.type == "cuda":
        allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
        return {"peak_memory_gib": allocated / 2**30, "peak_reserved_gib": reserved / 2**30}
    import resource  # not on Windows, where only cards are measured

    return {"peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


class Clock:
    """Wall seconds of named laps, those of one name together, with the device's queue drained at each."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.laps = device, {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self.last
        self.last = now
