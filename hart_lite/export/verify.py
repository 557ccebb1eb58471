"""Is a merged checkpoint what it should be? Asked of the files on the disk, in two ways:

weights: rows of some of them are W + scale * B @ A in float64, to within the rounding of one sum; others are untouched.
logits:  the merged model, in its plain class, says what PEFT's adapter on the base says, about one picture.

Weights are in memory one at a time in both, so that the proof takes no more than the merge did.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from PIL import Image
from tqdm import tqdm

from hart_lite.data.images import ImageBytes
from hart_lite.errors import HartError
from hart_lite.export.lora_sum import Sum
from hart_lite.export.shards import FLOATS, Checkpoint
from hart_lite.export.streamed import streamed
from hart_lite.export.tensor_names import Names
from hart_lite.models.families.base import Family
from hart_lite.types import ImageView
from hart_lite.utils.progress import progress

SAMPLE, ROWS = 12, 32  # changed tensors looked at, rows of each; as many unchanged ones
# Mean difference of logits, as a share of their standard deviation: rounding each changed weight once. Measured on 28
# layers of random weights: 1e-6 in float32, 0.0012 in float16, 0.0074 in bfloat16.
ALLOWED = {torch.float32: 2e-5, torch.float16: 0.005, torch.bfloat16: 0.04}


@dataclass(frozen=True)
class Logits:
    """Both as a share of the logits' standard deviation; means over positions and words."""

    difference: float  # merged against adapter on the base
    moved: float  # adapter on the base against the base alone
    allowed: float
    positions: int


@dataclass(frozen=True)
class Proof:
    changed: int
    tensors: int
    sampled: int
    untouched: int
    worst: float  # the largest error, as a share of what rounding explains
    logits: Logits
    is_zero: bool  # the adapter changes nothing

    def text(self) -> str:
        lines = [
            f"weights: {self.changed} of {self.tensors} tensors changed; {ROWS} rows of {self.sampled} of them are W + "
            f"scale * B @ A (largest error {self.worst:.2f} of what rounding explains), {self.untouched} others are "
            "the base's byte for byte"
        ]
        if self.is_zero:
            lines.append("note: every B is zero, so this adapter changes nothing; was it saved before training?")
        lines.append(
            f"logits: merged against adapter on the base, float32 on CPU, {self.logits.positions} positions: mean "
            f"difference {self.logits.difference:.1e} of their standard deviation (allowed {self.logits.allowed:g}); "
            f"the adapter itself moves them by {self.logits.moved:.1e}"
        )
        if self.logits.moved < self.logits.allowed:
            lines.append("note: that is less than rounding may, so the logits say little of so small an adapter")
        return "\n".join(lines)


def prove(folder: Path, adapter: Path, base: Names, sums: Mapping[str, Sum], family: Family) -> Proof:
    """Of a merged checkpoint in `folder`, made of `base` by `sums`. Raises `HartError` where it fails."""
    merged = Checkpoint.open(folder)
    sampled, untouched, worst = prove_weights(merged, base.checkpoint, sums)
    return Proof(
        changed=len(sums),
        tensors=len(merged.places),
        sampled=sampled,
        untouched=untouched,
        worst=worst,
        logits=prove_logits(Names.of(folder, merged), adapter, base, sums, family),
        is_zero=not any(s.pair.B.any() for s in sums.values() if s.pair),
    )


def prove_weights(merged: Checkpoint, base: Checkpoint, sums: Mapping[str, Sum]) -> tuple[int, int, float]:
    """(changed tensors looked at, unchanged ones, largest error as a share of what rounding explains). Raises
    `HartError` for a tensor that is not what it should be."""
    if merged.places.keys() != base.places.keys():
        raise HartError("the merged checkpoint holds other tensors than the base")
    worst = 0.0
    sample = _spread(sorted(sums))
    for name in sample:
        error = _error(sums[name], base.read(name), merged.read(name))
        if not error <= 1:
            raise HartError(f"{name} is not W + scale * B @ A: the error is {error:.3g} times what rounding explains")
        worst = max(worst, error)
    untouched = _spread([name for name in base.places if name not in sums])
    for name in untouched:
        if merged.raw(name) != base.raw(name):
            raise HartError(f"{name} was to stay as it is in the base, and differs")
    return len(sample), len(untouched), worst


def _error(sum_: Sum, before: torch.Tensor, after: torch.Tensor) -> float:
    """The largest |after - (W + scale * B @ A)| in some rows, each over what rounding explains: half a unit in the last
    place of the result, and float32's errors in a sum of r + 1 terms before that."""
    rows = torch.linspace(0, len(after) - 1, min(ROWS, len(after))).long()
    exact = sum_.start(before)[rows].double()
    size = exact.abs()
    if sum_.pair is not None:
        A, B = sum_.pair.A.double(), sum_.pair.B[rows].double()
        exact = exact + sum_.scale * (B @ A)
        size = size + abs(sum_.scale) * (B.abs() @ A.abs())
    kind = torch.finfo(after.dtype)
    terms = 1 if sum_.pair is None else len(sum_.pair.A) + 1
    explained = kind.eps / 2 * exact.abs() + terms * torch.finfo(torch.float32).eps * size + kind.tiny * kind.eps
    return ((after[rows].double() - exact).abs() / explained).max().item()


def _spread(names: Sequence[str]) -> list[str]:
    """At most `SAMPLE`, from all over."""
    if len(names) <= SAMPLE:
        return list(names)
    return [names[i * (len(names) - 1) // (SAMPLE - 1)] for i in range(SAMPLE)]


def prove_logits(merged: Names, adapter: Path, base: Names, sums: Mapping[str, Sum], family: Family) -> Logits:
    """Runs the base with the adapter, the base alone, and the merged model. Raises `HartError` where the first and the
    last differ by more than rounding. `sums` say what stands for a quantised weight, and how changed ones are stored.
    """
    batch = picture_and_question(family)
    with progress(total=3, desc="prove", unit="pass", leave=False) as bar:
        model = PeftModel.from_pretrained(streamed(base, {name: s.start for name, s in sums.items()}), adapter).eval()
        with_adapter = _logits(model, batch, bar)
        with model.disable_adapter():
            alone = _logits(model, batch, bar)
        del model
        found = _logits(streamed(merged), batch, bar)
    spread = with_adapter.std()
    kinds = {FLOATS[base.checkpoint.places[name].dtype] for name in sums}
    logits = Logits(
        difference=((found - with_adapter).abs().mean() / spread).item(),
        moved=((with_adapter - alone).abs().mean() / spread).item(),
        allowed=max(ALLOWED.get(kind, ALLOWED[torch.float32]) for kind in kinds),
        positions=with_adapter.shape[1],
    )
    if not logits.difference <= logits.allowed:
        raise HartError(
            "the merged model does not say what the adapter on its base says: logits differ by "
            f"{logits.difference:.2g} of their standard deviation, {logits.allowed:g} is allowed (the adapter moves "
            f"them by {logits.moved:.2g})"
        )
    return logits


@torch.no_grad()
def _logits(model: torch.nn.Module, batch: dict[str, torch.Tensor], bar: tqdm) -> torch.Tensor:
    logits = model(**batch, use_cache=False).logits
    bar.update()
    return logits


def picture_and_question(family: Family) -> dict[str, torch.Tensor]:
    """A picture of gradients and a sentence: every part of the model takes part."""
    ramp = Image.linear_gradient("L")
    data = io.BytesIO()
    Image.merge("RGB", [ramp, Image.radial_gradient("L"), ramp.rotate(90)]).save(data, "PNG")
    source = ImageBytes(data.getvalue(), "gradients")
    view = ImageView(source, family.fit(source.size(), 1 << 20, 784))
    return family.collate([family.chat([view, "Which part of the picture is red, and what does it say there?"])])
