"""The typed recipe: what a run is made of, and what may not be asked for at once.

Files, overrides and messages live in `hart_lite.config.recipe`. The defaults are the method's; shipped recipes differ
only where they say so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hart_lite.config.limits import SERVED_RANKS
from hart_lite.config.prompts import Prompts
from hart_lite.config.section import Section
from hart_lite.config.sections import (
    Count,
    DataSection,
    DistilStage,
    Evaluate,
    Loop,
    ModelSection,
    Objective,
    PixelBudgets,
    Positive,
    RLStage,
    Rollout,
    SFTStage,
)

Stage = RLStage | SFTStage | DistilStage


class Recipe(Section):
    name: str = Field(pattern=r"^[\w.-]+$")
    """Name of the run; the file's name where the recipe gives none."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of splits, sampling and adapters."""
    output: str = "runs/{name}"
    """Run directory; `{name}` stands for the name."""
    loop: Loop = "hart"
    """`hart`: locate, then answer from crops alone; `mgpo`: keep the image in sight; `direct`: answer at once."""
    objective: Objective = "ap_grpo"
    """`ap_grpo` weighs by k; `grpo` is the same with k = 0."""
    k: float = Field(0.6, ge=0, lt=1)
    """Strength of the asymmetric weights of ap_grpo."""
    beta: float = Field(0.01, ge=0)
    """Weight of the KL divergence from the base model."""
    clip_eps: float = Field(0.2, gt=0, lt=1)
    """The probability ratio is clipped to 1 +- this."""
    train_turns: list[Literal["locate", "verify"]] = Field(["locate", "verify"], min_length=1)
    """Turns whose sampled tokens are trained; answering counts as `verify`."""
    reward: str | None = Field(None, pattern=r".+:[A-Za-z_]\w*$")
    """A function of your own in place of the grader: `my_rewards.py:name`, or `module:name`. It is called with the
    example and the trajectory, and returns a number from 0 to 1."""
    reward_timeout: Positive = 60.0
    """Seconds that one call of the reward may take."""
    reward_workers: Count = 1
    """Calls of the reward under way at one time; more than 1 is for rewards that wait for a server."""
    model: ModelSection = ModelSection()
    prompts: Prompts = Prompts()
    pixels: PixelBudgets = PixelBudgets()
    data: DataSection = DataSection()
    rollout: Rollout = Rollout()
    stages: list[Annotated[Stage, Field(discriminator="kind")]] = Field(min_length=1)
    """What to train, in order."""
    evaluate: Evaluate = Evaluate()
    report_to: list[Literal["tensorboard", "wandb", "trackio", "mlflow", "comet_ml", "clearml", "swanlab"]] = Field([])
    """Trackers that get the metrics besides metrics.jsonl. `tensorboard` (RUN/tensorboard) and `wandb` get all stages
    as one run, evaluations and pictures, too; the others are transformers' own callbacks."""

    @property
    def run_dir(self) -> Path:
        return Path(self.output.replace("{name}", self.name))

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Recipe:
        problems = contradictions(self)
        if problems:
            raise ValueError("\n".join(problems))
        return self


def contradictions(recipe: Recipe) -> list[str]:
    """Values that are fine alone and wrong together, each with the way out."""
    problems = []
    lists = {"train_turns": recipe.train_turns, "model.lora.parts": recipe.model.lora.parts}
    lists |= {"evaluate.modes": recipe.evaluate.modes, "report_to": recipe.report_to}
    lists["rollout.servers"] = recipe.rollout.servers
    for key, names in lists.items():
        if len(set(names)) < len(names):
            problems.append(f"{key} = {names} names one twice; name each once")
    for small, large in (("min", "crop"), ("min", "full")):
        low, high = getattr(recipe.pixels, small), getattr(recipe.pixels, large)
        if low > high:
            problems.append(f"pixels.{small} = {low} is over pixels.{large} = {high}; lower the one or raise the other")
    for key, world in (("toy", recipe.data.toy), ("eval_toy", recipe.data.eval_toy)):
        if world and world.objects[0] > world.objects[1]:
            problems.append(f"data.{key}.objects = {list(world.objects)} should be [fewest, most]")
    if recipe.data.eval is not None and recipe.data.eval_toy is not None:
        problems.append(f"data.eval = {recipe.data.eval!r} and data.eval_toy both say what to evaluate on; set one")
    paths = [file.path for file in recipe.data.files]
    if len(set(paths)) < len(paths) or ("toy" in paths and len(paths) > 1):
        problems.append(f"data.train = {paths}: name each file once, with a weight perhaps, and no toy among them")
    if recipe.data.format != "auto" and len(paths) > 1:
        problems.append(f"data.format = {recipe.data.format!r} is for one file; of several the names tell")
    if recipe.data.sft is not None and any(same_source(recipe.data.sft, path) for path in paths):
        problems.append(
            f"data.sft = {recipe.data.sft!r} is data.train as well, so RL and SFT would share questions; leave "
            "data.sft out, and data.train is divided by image"
        )
    if (recipe.data.format == "mme_realworld") != (recipe.data.lite is not None):
        problems.append(
            "data.format = 'mme_realworld' and data.lite (the JSON of Lite) belong together; set both or neither"
        )
    problems += _evaluation_contradictions(recipe)
    if recipe.rollout.engine == "vllm" and recipe.model.lora.r > SERVED_RANKS[-1]:
        problems.append(
            f"model.lora.r = {recipe.model.lora.r} is over the {SERVED_RANKS[-1]} that vLLM serves; lower it, or use "
            "rollout.engine = 'local'"
        )
    for index, stage in enumerate(recipe.stages):
        problems += [f"stages.{index}: {problem}" for problem in _stage_contradictions(recipe, stage)]
    return problems


def _evaluation_contradictions(recipe: Recipe) -> list[str]:
    spec, data, problems = recipe.evaluate, recipe.data, []
    if spec.patience and not spec.keep_best:
        problems.append(
            f"evaluate.patience = {spec.patience} waits for something better; say what by evaluate.keep_best, such as "
            "crops"
        )
    if not spec.keep_best:
        return problems
    if not spec.every:
        problems.append(
            f"evaluate.keep_best = {spec.keep_best!r} needs evaluations along the way; set evaluate.every, such as 50"
        )
    if data.eval is None and data.eval_toy is None and data.train != "toy":
        problems.append(f"evaluate.keep_best = {spec.keep_best!r} needs held-out questions; give data.eval")
    looks = set(spec.modes) - {"full"}
    if spec.keep_best not in spec.modes and (spec.keep_best in ("full", "crops", "full+crops") or not looks):
        mode = spec.keep_best if spec.keep_best in ("full", "crops", "full+crops") else "crops"
        problems.append(f"evaluate.keep_best = {spec.keep_best!r} is not measured: add {mode!r} to evaluate.modes")
    return problems


def _stage_contradictions(recipe: Recipe, stage: Stage) -> list[str]:
    problems = []
    if stage.lr_scheduler == "constant" and stage.warmup_steps:
        problems.append("lr_scheduler = 'constant' has no warm-up; use 'constant_with_warmup' or warmup_steps = 0")
    if stage.kind == "sft":
        if stage.batch_size % stage.micro_batch_size:
            problems.append(
                f"batch_size = {stage.batch_size} is no multiple of micro_batch_size = {stage.micro_batch_size}"
            )
        return problems
    if stage.kind == "distil":
        return problems
    if recipe.rollout.samples < 2:
        problems.append(
            "RL compares the samples of a question: rollout.samples = 1 gives nothing to compare; use 2 or more"
        )
    if recipe.rollout.top_p < 1:
        problems.append(
            f"rollout.top_p = {recipe.rollout.top_p:g} draws from a part of the words, and RL's gradient is that of a "
            "draw from all of them; leave rollout.top_p at 1 (rollout.temperature is scored as it is drawn)"
        )
    if (stage.objective or recipe.objective) == "ap_grpo" and recipe.beta == 0:
        problems.append("objective = 'ap_grpo' with beta = 0 has no KL to weigh; use beta > 0 or objective = 'grpo'")
    if (stage.loop or recipe.loop) == "mgpo" and recipe.rollout.engine == "vllm":
        problems.append(
            "loop = 'mgpo' goes on in one conversation, and a chat server reads its own response anew from text, in "
            "other tokens perhaps; use loop = 'hart' or 'direct', or rollout.engine = 'local'"
        )
    if (stage.loop or recipe.loop) == "direct" and "verify" not in recipe.train_turns:
        problems.append("loop = 'direct' has no locate turn; add 'verify' to train_turns or use another loop")
    return problems + _reward_contradictions(recipe, stage.loop or recipe.loop)


def _reward_contradictions(recipe: Recipe, loop: Loop) -> list[str]:
    """What boxes cannot be paid by in this loop."""
    rollout, problems = recipe.rollout, []
    why = {
        "direct": "loop = 'direct' has no boxes",
        "mgpo": "loop = 'mgpo' answers with the image in sight, whatever its boxes show",
    }
    scored = {"verify = 'score'": rollout.verify == "score", "control_region = true": rollout.control_region}
    for key in (key for key, on in scored.items() if on):
        if loop in why:
            problems.append(f"rollout.{key} pays crops by what can be answered from them, and {why[loop]}; use "
                            "loop = 'hart'")  # fmt: skip
        if recipe.reward is not None:
            problems.append(f"rollout.{key} knows the probability of an answer and no text to give to reward = "
                            f"{recipe.reward!r}; leave one of them out")  # fmt: skip
    if rollout.verify == "score" and "locate" not in recipe.train_turns:
        problems.append("rollout.verify = 'score' draws no answer, so that only 'locate' can be in train_turns; add it")
    limits = {"max_overlap": rollout.max_overlap, "box_budget": rollout.box_budget}
    for key in (key for key, limit in limits.items() if limit is not None and loop == "direct"):
        problems.append(f"rollout.{key} is about boxes, and {why[loop]}; leave it out or use another loop")
    if rollout.box_budget is not None and rollout.box_budget >= rollout.max_boxes:
        problems.append(
            f"rollout.box_budget = {rollout.box_budget} is never passed, since rollout.max_boxes = {rollout.max_boxes} "
            "leaves out what is beyond; lower the one or raise the other"
        )
    return problems


def same_source(a: str, b: str) -> bool:
    return a == b or (os.path.exists(a) and os.path.exists(b) and os.path.samefile(a, b))  # no error for any name
