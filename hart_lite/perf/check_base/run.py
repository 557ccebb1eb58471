"""Loads a base as training does, and takes every figure there is of it, the cheap and deciding ones first."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from hart_lite.config.schema import Recipe
from hart_lite.config.sections import Rollout
from hart_lite.errors import ModelError, NotFiniteError
from hart_lite.inference.load import OpenModel
from hart_lite.inference.local_engine import Generate, LocalEngine
from hart_lite.inference.protocols import hart
from hart_lite.inference.rollout import Runner
from hart_lite.models.generation import generate
from hart_lite.models.loading import load_policy, pick_attention
from hart_lite.models.oom import within_memory
from hart_lite.models.packing import pack
from hart_lite.models.policy import Policy
from hart_lite.perf.check_base import decode, verdicts
from hart_lite.perf.check_base.boxes import Boxes, probe
from hart_lite.perf.check_base.decode import Decoding, Speed
from hart_lite.perf.check_base.layers import Largest, largest_values
from hart_lite.perf.check_base.memory import Memory, held_bytes, measured, planned
from hart_lite.perf.check_base.pictures import QUESTIONS, questions
from hart_lite.perf.check_base.settings import settings
from hart_lite.perf.check_base.verdicts import Check
from hart_lite.types import Tokens

PICTURES = 2  # of those that are drawn, for what is not about boxes: a square one and a wide one
LONGEST_LOCATE = 96  # tokens: a box in JSON takes about 60
T = TypeVar("T")


@dataclass(frozen=True)
class Report:
    """Figures that are None could not be taken, as `checks` says. `subject`: what was loaded, and where."""

    subject: str
    largest: Largest
    decoding: Decoding | None
    boxes: Boxes | None
    memory: Memory | None
    speed: Speed | None
    checks: tuple[Check, ...]

    @property
    def sound(self) -> bool:
        return all(check.status != "fail" for check in self.checks)


def check_base(base: str, overrides: Sequence[str] = (), locate: Generate = generate) -> Report:
    """The report on a base: `toy`, a folder or a Hub id; `overrides` are `model.*` and `pixels.*` of a recipe.

    `locate` draws the answers of the box probe. Raises `HartError` for what is no base, does not fit this machine, or
    runs out of its memory.
    """
    recipe = settings(base, overrides)
    policy = _within_memory(partial(load_policy, recipe.model), "loading the weights", "set model.quant=nf4")
    work = partial(check_policy, policy, recipe, locate)
    return _within_memory(work, "reading and sampling", "lower pixels.full, or set model.quant=nf4")


def _within_memory(work: Callable[[], T], doing: str, advice: str) -> T:
    out = within_memory(work)
    if out is None:
        raise ModelError(f"out of memory in {doing}: {advice}; `hart-lite plan` says what fits")
    return out


def check_policy(policy: Policy, recipe: Recipe, locate: Generate = generate) -> Report:
    """The same of a policy with a fresh adapter that was just loaded as `recipe.model` says."""
    held, dtype = held_bytes(policy.model, policy.device), str(policy.model.dtype).removeprefix("torch.")
    examples = questions(recipe.pixels.full)
    runner = _runner(policy, recipe, locate)
    prompts = [runner.prompt(examples[n * QUESTIONS], hart.locate) for n in range(PICTURES)]
    largest = largest_values(policy, prompts)
    subject = _subject(policy, recipe, dtype)
    of_plan = planned(recipe, policy, PICTURES, decode.SAMPLES, decode.LONGEST)
    checks = [verdicts.activations(largest, dtype), verdicts.scores(largest, dtype)]
    try:
        memory = measured(policy, held, partial(_work, policy, prompts), of_plan)
        decoding = decode.compare(policy, prompts)
        speed = decode.speed(policy, prompts)
        boxes = probe(runner, examples)
    except NotFiniteError as error:
        return Report(subject, largest, None, None, None, None, (*checks, verdicts.lost(str(error))))
    checks += [verdicts.sampling_gap(decoding, dtype), verdicts.library(decoding, dtype), verdicts.adapter(decoding)]
    checks += [verdicts.box_format(boxes), verdicts.memory(memory)]
    return Report(subject, largest, decoding, boxes, memory, speed, tuple(checks))


def _runner(policy: Policy, recipe: Recipe, locate: Generate) -> Runner:
    rollout = Rollout(max_boxes=1, max_tokens_locate=LONGEST_LOCATE)
    engine = LocalEngine(policy, rollout.tokens_per_batch, 1, rollout.cuda_graph, locate)
    return Runner(OpenModel(recipe.model.base, engine, policy.family.name, {}, recipe.pixels, rollout))


def _work(policy: Policy, prompts: Sequence[Tokens]) -> None:
    """A turn of a rollout and the forward pass of its pack."""
    [packed] = pack(decode.drawn(policy, decode.rows_of(prompts)), policy.family.positions, decode.WHOLE)
    with torch.no_grad():
        policy.logps(packed)


def _subject(policy: Policy, recipe: Recipe, dtype: str) -> str:
    device, model = policy.device, recipe.model
    cpu = f"the CPU, {torch.get_num_threads()} threads ({platform.machine()})"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    vision = pick_attention(model.attention, device)["vision_config"]
    base = f"{model.base} ({policy.family.name}, {len(policy.decoder.layers)} layers)"
    return f"{base}: {dtype}, quant {model.quant}, vision {vision}, on {where}"
