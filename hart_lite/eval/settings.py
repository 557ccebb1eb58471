"""What an evaluation was asked to do, and what that means for a question in a mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hart_lite.config.schema import PixelBudgets
from hart_lite.eval.questions import Question, digest
from hart_lite.inference.load import OpenModel
from hart_lite.inference.prompts import question_lines
from hart_lite.inference.protocols.base import Setting
from hart_lite.inference.protocols.registry import OURS
from hart_lite.runs.run_dir import versions

NO_LIMIT = 10**9  # of pixels or tokens: a peer's protocol then goes by its own


@dataclass(frozen=True)
class EvalSettings:
    """What to ask, and how. Budgets that are None: those of the model's recipe; without a recipe the usual ones for our
    modes, and for a peer's protocol its published limits.

    `prompt`: the words of the modes `full` and `pixel-reasoner`, our own or the benchmark's official ones.
    """

    benchmarks: dict[str, str]  # name -> source; "" is the benchmark's own
    modes: tuple[str, ...] = OURS
    as_published: bool = False
    prompt: Literal["own", "official"] = "own"
    limit: int | None = None  # questions of each benchmark, the first ones
    strict: bool = False  # stop at the first bad row
    full_pixels: int | None = None
    crop_pixels: int | None = None
    max_tokens: int | None = None  # of every response
    quant: str | None = None
    device: str | None = None
    frame: str = "absolute"


def setting_of(question: Question, mode: str, settings: EvalSettings, model: OpenModel) -> Setting:
    words = question.benchmark.prompt if settings.prompt == "official" else question_lines
    return setting_for(words(question.example), mode, settings, model)


def setting_for(words: str, mode: str, settings: EvalSettings, model: OpenModel) -> Setting:
    """For a question asked in these words."""
    pixels, decoding, ours = _pixels(settings, model), _decoding(settings, model), mode in OURS
    return Setting(
        frame=model.engine.frame,
        question=words,
        full_pixels=pixels["full" if ours else "peers_full"] or NO_LIMIT,
        crop_pixels=pixels["crop" if ours else "peers_crop"] or NO_LIMIT,
        min_pixels=pixels["min"],
        **_boxes(model),
        max_tokens_locate=decoding["max_tokens_locate" if ours else "max_tokens_peers"] or NO_LIMIT,
        max_tokens_answer=decoding["max_tokens_answer" if ours else "max_tokens_peers"] or NO_LIMIT,
        as_published=settings.as_published,
    )


def record(spec: str, settings: EvalSettings, model: OpenModel, questions: Sequence[Question]) -> dict:
    """eval.json: all that the rows depend on. For a peer's protocol null means its published limit."""
    rows = {name: [q.example for q in questions if q.benchmark.name == name] for name in settings.benchmarks}
    return {
        "model": spec,
        "family": model.family,
        "weights": model.weights,
        "frame": model.engine.frame.name,
        "benchmarks": settings.benchmarks,
        "rows": {name: digest(examples) for name, examples in rows.items()},
        "limit": settings.limit,
        "modes": list(settings.modes),
        "as_published": settings.as_published,
        "pixels": _pixels(settings, model),
        "prompt": settings.prompt,
        "decoding": _decoding(settings, model),
        "boxes": _boxes(model),
        "quant": settings.quant,
        "seed": 0,
        "versions": versions(),
    }


def _pixels(settings: EvalSettings, model: OpenModel) -> dict[str, int | None]:
    usual = model.pixels or PixelBudgets()
    full, crop = settings.full_pixels or usual.full, settings.crop_pixels or usual.crop
    peers = (full, crop) if model.pixels else (settings.full_pixels, settings.crop_pixels)
    least = min(usual.min, full, crop)
    return {"full": full, "crop": crop, "min": least, "peers_full": peers[0], "peers_crop": peers[1]}


def _decoding(settings: EvalSettings, model: OpenModel) -> dict[str, int | None]:
    return {
        "temperature": 0,
        "max_tokens_locate": settings.max_tokens or model.rollout.max_tokens_locate,
        "max_tokens_answer": settings.max_tokens or model.rollout.max_tokens_answer,
        "max_tokens_peers": settings.max_tokens,
    }


def _boxes(model: OpenModel) -> dict:
    return {name: getattr(model.rollout, name) for name in ("crop_pad", "max_boxes", "max_box_share")}
