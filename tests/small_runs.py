"""Whole runs at a size for tests. An untrained base names no box and is never right, so both are made up from the
text it writes: what a run trains on then depends on every sampled token, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import hart_lite.eval.evaluator
import hart_lite.rl.rewards
from hart_lite.config.schema import Recipe
from hart_lite.models.families.qwen2_5_vl import Qwen25VL
from hart_lite.types import Example, Group, Tokens, Trajectory, Turn


def even_length(text: str, answer: str, choices: Sequence[str] = ()) -> bool:
    """A grader: right is what has an even number of characters."""
    return len(text) % 2 == 0


def boxes_from_any_text(family, text: str, seen, original) -> list[tuple[float, float, float, float, int]]:
    """A parser: any text names a box, but for every fifth."""
    number = sum(map(ord, text))
    if number % 5 == 4:
        return []
    width, height = original[0]
    x, y = width * (number % 7) / 10, height * (number % 6) / 10
    return [(x, y, x + 0.3 * width, y + 0.3 * height, 0)]


def make_up(set_attribute=setattr, family: type = Qwen25VL) -> None:
    """Put both in place; give `monkeypatch.setattr` to have them taken out again."""
    for module in (hart_lite.rl.rewards, hart_lite.eval.evaluator):
        set_attribute(module, "grade", even_length)
    set_attribute(family, "boxes_from_text", boxes_from_any_text)


def small_recipe(base: Path, output: Path, stages: list[dict] | None = None, **changes) -> Recipe:
    """Few steps on few small scenes; `changes` replace or, for sections, update. The base knows little and is sure of
    it: only at a high temperature do samples differ."""
    raw = {
        "name": "small",
        "output": str(output),
        "model": {"base": str(base), "dtype": "float32", "device": "cpu", "lora": {"r": 4}},
        "pixels": {"full": 4 * 784, "crop": 784, "min": 784},
        "data": {"toy": {"scenes": 8, "eval_scenes": 2, "questions_per_scene": 2, "size": 168}},
        "rollout": {"samples": 3, "temperature": 8.0, "max_tokens_locate": 4, "max_tokens_answer": 3},
        "evaluate": {"watch": 1},
        "stages": stages or [rl_stage(), sft_stage()],
    }
    for key, value in changes.items():
        raw[key] = raw.get(key, {}) | value if isinstance(value, dict) else value
    return Recipe.model_validate(raw)


def rl_stage(**changes) -> dict:
    return {"kind": "rl", "steps": 3, "questions_per_step": 2, "lr": 1e-2, "save_every": 2} | changes


def sft_stage(**changes) -> dict:
    stage = {"kind": "sft", "steps": 3, "batch_size": 2, "micro_batch_size": 1, "lr": 1e-2, "save_every": 2}
    return stage | {"keep_locate": 0.3} | changes


def distil_stage(**changes) -> dict:
    return {"kind": "distil", "steps": 3, "questions_per_step": 2, "lr": 1e-2, "save_every": 2} | changes


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def without_timings(rows: list[dict]) -> list[dict]:
    """All that does not depend on how busy the machine was."""
    return [{key: value for key, value in row.items() if not is_timing(key)} for row in rows]


def is_timing(name: str) -> bool:
    return name.startswith("seconds_") or name in ("tokens_per_second", "peak_memory_gib")


def group_of(example: Example, rewards: Sequence[float], lengths: Sequence[Sequence[int]]) -> Group:
    """A group by hand: `lengths[i]` are the sampled tokens in each turn of trajectory i, ids 10, 11, .."""
    trajectories, prompt = [], Tokens((1, 2, 3))
    for reward, turns in zip(rewards, lengths, strict=True):
        kinds = ["locate", "verify"][: len(turns)]
        made = tuple(
            Turn(kind, prompt, tuple(range(10, 10 + n)), "x" * n) for kind, n in zip(kinds, turns, strict=True)
        )
        trajectories.append(Trajectory(made, reward=reward, sequences=tuple(turn.tokens for turn in made)))
    return Group(example, tuple(trajectories))
