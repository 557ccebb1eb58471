"""Checks of a merged checkpoint, made on the files on the disk, in two ways:

weights: rows of some of them are W + scale * B @ A in float64, to within the rounding of one sum; others are untouched.
logits:  the merged model, in its plain class, gives the logits of PEFT's adapter on the base, for one image.

Both hold one weight in memory at a time, so the check takes no more memory than the merge.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from PIL import Image
from torch import nn
from torch.overrides import TorchFunctionMode
from tqdm import tqdm
from transformers import AutoModelForImageTextToText

from hart_lite.data.images import ImageBytes
from hart_lite.errors import ModelError
from hart_lite.export.lora import MergedTensor
from hart_lite.export.shards import Change, Checkpoint, raw
from hart_lite.export.tensor_names import TensorNames
from hart_lite.models.families.base import Family
from hart_lite.types import ImageView
from hart_lite.utils.progress import progress

SAMPLE, ROWS = 12, 32  # changed tensors that are checked, rows of each; as many unchanged ones
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
class MergeCheck:
    """What was checked of a merge, and passed."""

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


def check_merge(
    folder: Path, adapter: Path, base: TensorNames, changes: Mapping[str, MergedTensor], family: Family
) -> MergeCheck:
    """Of a merged checkpoint in `folder`, made of `base` by `changes`. Raises `ModelError` where it fails."""
    merged = Checkpoint.open(folder)
    sampled, untouched, worst = check_weights(merged, base.checkpoint, changes)
    return MergeCheck(
        changed=len(changes),
        tensors=len(merged.slots),
        sampled=sampled,
        untouched=untouched,
        worst=worst,
        logits=check_logits(TensorNames.of(merged), adapter, base, changes, family),
        is_zero=not any(change.pair.B.any() for change in changes.values() if change.pair),
    )


def check_weights(merged: Checkpoint, base: Checkpoint, changes: Mapping[str, MergedTensor]) -> tuple[int, int, float]:
    """(changed tensors checked, unchanged ones, largest error as a share of what rounding explains).

    Raises `ModelError` for a tensor that is not what it should be.
    """
    if merged.slots.keys() != base.slots.keys():
        raise ModelError("the merged checkpoint holds other tensors than the base")
    worst = 0.0
    sample = _spread(sorted(changes))
    for name in sample:
        error = _error(changes[name], base.read(name), merged.read(name))
        if not error <= 1:
            raise ModelError(f"{name} is not W + scale * B @ A: the error is {error:.3g} times what rounding explains")
        worst = max(worst, error)
    untouched = _spread([name for name in base.slots if name not in changes])
    for name in untouched:
        if not torch.equal(raw(merged.read(name)), raw(base.read(name))):
            raise ModelError(f"{name} was to stay as it is in the base, and differs")
    return len(sample), len(untouched), worst


def _error(change: MergedTensor, before: torch.Tensor, after: torch.Tensor) -> float:
    """The largest |after - (W + scale * B @ A)| in some rows, each over what rounding explains: half a unit in the last
    place of the result, and float32's errors in a sum of r + 1 terms before that."""
    rows = torch.linspace(0, len(after) - 1, min(ROWS, len(after))).long()
    exact = change.start(before)[rows].double()
    size = exact.abs()
    if change.pair is not None:
        A, B = change.pair.A.double(), change.pair.B[rows].double()
        exact = exact + change.scale * (B @ A)
        size = size + abs(change.scale) * (B.abs() @ A.abs())
    kind = torch.finfo(after.dtype)
    terms = 1 if change.pair is None else len(change.pair.A) + 1
    explained = kind.eps / 2 * exact.abs() + terms * torch.finfo(torch.float32).eps * size + kind.tiny * kind.eps
    return ((after[rows].double() - exact).abs() / explained).max().item()


def _spread(names: Sequence[str]) -> list[str]:
    """At most `SAMPLE` of them, evenly spread."""
    if len(names) <= SAMPLE:
        return list(names)
    return [names[i * (len(names) - 1) // (SAMPLE - 1)] for i in range(SAMPLE)]


def check_logits(
    merged: TensorNames, adapter: Path, base: TensorNames, changes: Mapping[str, MergedTensor], family: Family
) -> Logits:
    """Runs the base with the adapter, the base alone, and the merged model. Raises `ModelError` where the first and the
    last differ by more than rounding. `changes` say what stands for a quantised weight, and which dtypes are stored.
    """
    batch = image_and_question(family)
    with progress(total=3, desc="check", unit="pass", leave=False) as bar:
        starts = {name: change.start for name, change in changes.items()}
        model = PeftModel.from_pretrained(streamed(base, starts), adapter).eval()
        with_adapter = _logits(model, batch, bar)
        with model.disable_adapter():
            alone = _logits(model, batch, bar)
        del model
        found = _logits(streamed(merged), batch, bar)
    spread = with_adapter.std()
    dtypes = {base.checkpoint.slots[name].dtype for name in changes}
    logits = Logits(
        difference=((found - with_adapter).abs().mean() / spread).item(),
        moved=((with_adapter - alone).abs().mean() / spread).item(),
        allowed=max(ALLOWED.get(dtype, ALLOWED[torch.float32]) for dtype in dtypes),
        positions=with_adapter.shape[1],
    )
    if not logits.difference <= logits.allowed:
        raise ModelError(
            "the merged model does not say what the adapter on its base says: logits differ by "
            f"{logits.difference:.2g} of their standard deviation, {logits.allowed:g} is allowed (the adapter moves "
            f"them by {logits.moved:.2g})"
        )
    return logits


@torch.no_grad()
def _logits(model: nn.Module, batch: dict[str, torch.Tensor], bar: tqdm) -> torch.Tensor:
    logits = model(**batch, use_cache=False).logits
    bar.update()
    return logits


def image_and_question(family: Family) -> dict[str, torch.Tensor]:
    """A batch of one image of gradients and a sentence, which every part of the model works on."""
    ramp = Image.linear_gradient("L")
    data = io.BytesIO()
    Image.merge("RGB", [ramp, Image.radial_gradient("L"), ramp.rotate(90)]).save(data, "PNG")
    source = ImageBytes(data.getvalue(), "gradients")
    view = ImageView(source, family.fit(source.size(), 1 << 20, 784))
    return family.collate([family.chat([view, "Which part of the picture is red, and what does it say there?"])])


def streamed(names: TensorNames, changes: Mapping[str, Change] | None = None) -> nn.Module:
    """The plain model class in float32 on CPU, whose weights stay in their files: those of a module are read when it
    runs, and let go when it has run. `changes`: what becomes of a weight when it is read, by its stored name.

    accelerate has both halves of this, and neither fits. The hooks of its `disk_offload` keep weights on the meta
    device, to which PEFT then moves A and B, and the logits are NaN. Its `init_empty_weights` makes every weight and
    lets go of it at some later garbage collection: 96 MB of address space did not do for a model of 346 MB.

    Raises `ModelError` for a checkpoint that lacks one of the model's weights.
    """
    with _EmptyWeights():
        model = AutoModelForImageTextToText.from_config(names.model.config, dtype=torch.float32)
    stored = names.with_tied()
    for path, module in model.named_modules():
        own = {key: f"{path}.{key}" if path else key for key, _ in module.named_parameters(recurse=False)}
        if missing := [parameter for parameter in own.values() if parameter not in stored]:
            raise ModelError(f"{names.checkpoint.folder} lacks {missing[0]}; it is not a whole checkpoint")
        if own:
            files = {key: stored[parameter] for key, parameter in own.items()}
            _stream(module, partial(_read, files, names.checkpoint, changes or {}))
    return model.eval()


class _EmptyWeights(TorchFunctionMode):
    """Weights, which begin as memory without values, are made without memory. Buffers are computed from the config, and
    so they are made as usual."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}) | ({"device": "meta"} if func is torch.empty else {}))


def _stream(module: nn.Module, read: Callable[[], dict[str, torch.Tensor]]) -> None:
    def put(weights: Mapping[str, torch.Tensor]) -> None:
        for key, weight in weights.items():
            setattr(module, key, nn.Parameter(weight, requires_grad=False))

    # One number in the place of a weight: it has the weight's shape, and is on the CPU, where PEFT makes A and B then.
    empty = {key: torch.zeros(()).expand(weight.shape) for key, weight in module.named_parameters(recurse=False)}
    put(empty)
    module.register_forward_pre_hook(lambda *_: put(read()))
    module.register_forward_hook(lambda *_: put(empty))


def _read(files: Mapping[str, str], checkpoint: Checkpoint, changes: Mapping[str, Change]) -> dict[str, torch.Tensor]:
    weights = {}
    for key, name in files.items():
        weight = checkpoint.read(name)
        weights[key] = (changes[name](weight) if name in changes else weight).float()
    return weights
