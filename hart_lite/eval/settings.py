"""What an evaluation was asked to do, and what that means for a question in a mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hart_lite.eval.questions import Question, digest
from hart_lite.inference.load import OpenModel
from hart_lite.inference.protocols.base import Setting
from hart_lite.inference.protocols.registry import OURS
from hart_lite.inference.settings import AskSettings, box_limits, pixel_limits, setting_for, token_limits
from hart_lite.runs.versions import versions


@dataclass(frozen=True, kw_only=True)
class EvalSettings(AskSettings):
    """What to ask, and how.

    `prompt`: the words of the modes `full` and `pixel-reasoner`, our own or the benchmark's official ones.
    """

    benchmarks: Mapping[str, str] = field(default_factory=dict)  # name -> source; "" is the benchmark's own
    columns: Mapping[str, str] | None = None  # our field -> the name it has in rows of one's own
    modes: tuple[str, ...] = OURS
    prompt: Literal["own", "official"] = "own"
    limit: int | None = None  # questions of each benchmark, the first ones
    strict: bool = False  # stop at the first bad row
    quant: str | None = None
    device: str | None = None
    box_format: str | None = None  # of a model behind an API, whose family may be known instead
    family: str | None = None


def setting_of(question: Question, mode: str, settings: EvalSettings, model: OpenModel) -> Setting:
    wording = question.benchmark.prompt if settings.prompt == "official" else None
    return setting_for(mode, model, settings, wording)


def record(spec: str, settings: EvalSettings, model: OpenModel, questions: Sequence[Question]) -> dict:
    """eval.json: all that the rows depend on. For a peer's protocol null means its published limit."""
    rows = {name: [q.example for q in questions if q.benchmark.name == name] for name in settings.benchmarks}
    columns = {"columns": dict(settings.columns)} if settings.columns else {}
    return {
        "model": spec,
        "family": model.family,
        "weights": model.weights,
        "box_format": model.engine.interface.name,
        "benchmarks": dict(settings.benchmarks),
        **columns,
        "rows": {name: digest(examples) for name, examples in rows.items()},
        "limit": settings.limit,
        "modes": list(settings.modes),
        "as_published": settings.as_published,
        "pixels": pixel_limits(settings, model),
        "prompt": settings.prompt,
        "prompts": model.prompts.model_dump(),
        "decoding": {"temperature": 0, **token_limits(settings, model)},
        "boxes": box_limits(model),
        "quant": settings.quant,
        "seed": 0,
        "versions": versions(),
    }
