"""What `import hart_lite` offers, as functions: each is the command of the same name, for scripts and notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from hart_lite.config.recipe import load_recipe, recipe_from
from hart_lite.config.schema import Recipe
from hart_lite.data.images import ImageFile, LoadedImage
from hart_lite.errors import ConfigError
from hart_lite.eval.results import Evaluation, read_evaluation
from hart_lite.inference.ask import DEFAULT_MODE, Answer
from hart_lite.inference.load import OpenModel
from hart_lite.rl.rewards import Reward
from hart_lite.runs.layout import ADAPTER, EVALUATION
from hart_lite.utils.libraries import quiet_libraries

AnyRecipe = Recipe | str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class TrainingRun:
    """A finished run: its folder, and {name of evaluation: figures} of its held-out questions."""

    folder: Path
    summary: dict[str, dict]

    @property
    def adapter(self) -> Path:
        return self.folder / ADAPTER

    def evaluation(self, name: str) -> Path:
        """Folder of an evaluation: "before", "after-1-rl", .."""
        return self.folder / EVALUATION / name


@dataclass(frozen=True)
class Comparison:
    """`values` as `hart_lite.eval.compare.compare` gives them; printed, they are Markdown."""

    values: dict[str, Any]

    def __str__(self) -> str:
        from hart_lite.eval.compare import compare_text

        return compare_text(self.values)


@dataclass(frozen=True)
class MemoryReport:
    """`values` as `hart_lite.perf.plan_report.report` gives them, in bytes; printed, they are a table."""

    values: dict[str, Any]
    table: str

    @property
    def peak_gib(self) -> float:
        """Of the worst case."""
        return self.values["worst"]["peak"] / 2**30

    def __str__(self) -> str:
        return self.table


def train(
    recipe: AnyRecipe,
    *overrides: str,
    resume: bool = False,
    max_minutes: float | None = None,
    reward: Reward | None = None,
) -> TrainingRun:
    """Run the stages of a recipe: a `Recipe`, the name or file of one with overrides such as "stages.0.steps=20", or a
    dict. `reward(example, trajectory)` stands in for the recipe's. Raises `HartError` where it cannot begin or go on,
    and `hart_lite.training.signals.Stopped` after a signal or `max_minutes`, with what was done saved."""
    quiet_libraries()
    from hart_lite.training.train import train as run_stages

    chosen = _recipe(recipe, overrides)
    return TrainingRun(chosen.run_dir, run_stages(chosen, resume, max_minutes, reward))


def plan(recipe: AnyRecipe, *overrides: str) -> MemoryReport:
    """Peak memory, tokens and FLOPs of a recipe, and the cards it fits; nothing is downloaded, no model is built."""
    from hart_lite.perf.model_sizes import Dimensions
    from hart_lite.perf.plan_report import report, text

    chosen = _recipe(recipe, overrides)
    dims = Dimensions.of(chosen.model.base, chosen.model.revision)
    return MemoryReport(report(chosen, dims), text(chosen, dims))


def load(
    model: str | Path,
    *,
    quant: Literal["none", "nf4"] | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    box_format: Literal["absolute", "relative"] | None = None,
    family: Literal["qwen2_5_vl", "internvl3", "llava_onevision"] | None = None,
    base_path: str | Path | None = None,
) -> OpenModel:
    """A model to ask and evaluate: a run directory, an adapter, a checkpoint, a Hub id, `toy`, or `api:NAME` for a
    model behind an OpenAI-compatible server, whose `family` or `box_format` has to be said where its name does not
    tell. `base_path` is where the base of a run or an adapter is now, if it has moved. Raises `HartError`."""
    quiet_libraries()
    from hart_lite.inference.load import open_model

    moved = Path(base_path) if base_path else None
    return open_model(str(model), quant=quant, device=device, box_format=box_format, family=family, base_path=moved)


def ask(
    model: OpenModel,
    image: str | Path | Image.Image,
    question: str | Sequence[str],
    choices: Sequence[str] | None = None,
    mode: str = DEFAULT_MODE,
) -> Answer | list[Answer]:
    """The answer to a question about an image, with the boxes (original pixels of the upright image) and crops it rests
    on; of several questions, a list. The questions of a list share the encoded image."""
    from hart_lite.inference.ask import ask as ask_all

    source = LoadedImage(image) if isinstance(image, Image.Image) else ImageFile(Path(image))
    questions = [question] if isinstance(question, str) else list(question)
    answers = ask_all(model, source, questions, tuple(choices or ()), mode)
    return answers[0] if isinstance(question, str) else answers


def evaluate(
    model: OpenModel | str | Path,
    benchmarks: Mapping[str, str] | Sequence[str],
    out: str | Path,
    modes: Sequence[str] = ("full", "crops", "full+crops"),
    **settings: Any,
) -> Evaluation:
    """Ask a model the questions of benchmarks (`hart-lite benchmarks` lists them; {name: source} where they have one)
    in every mode, into the folder `out`, going on where an earlier call was broken off. `settings` are further fields
    of `hart_lite.eval.settings.EvalSettings`, such as `limit`."""
    quiet_libraries()
    from hart_lite.eval.evaluator import evaluate_benchmarks
    from hart_lite.eval.settings import EvalSettings

    named = dict(benchmarks) if isinstance(benchmarks, Mapping) else dict.fromkeys(benchmarks, "")
    evaluate_benchmarks(model, EvalSettings(benchmarks=named, modes=tuple(modes), **settings), Path(out))
    return read_evaluation(out)


def compare(a: str | Path | Evaluation, b: str | Path | Evaluation) -> Comparison:
    """Two evaluations question by question; differences are b - a, with intervals and p values."""
    from hart_lite.eval.compare import compare as compared

    return Comparison(compared(*(one if isinstance(one, Evaluation) else read_evaluation(one) for one in (a, b))))


def merge(
    source: str | Path, out: str | Path, base: Literal["plain", "dequant"] = "plain", force: bool = False
) -> Path:
    """A run's adapter and its base as one plain checkpoint in `out`, which is compared with the two before it appears.
    `base`: what the adapter is added to, see `hart_lite.export.merge.merge`. Returns `out`."""
    quiet_libraries()
    from hart_lite.export.merge import merge as merged

    merged(source, out, base, force)
    return Path(out)


def push(source: str | Path, repo: str, *, dry_run: bool = False, private: bool = False, pictures: bool = True) -> str:
    """Upload a run's adapter or a merge to the Hub; returns what the command prints, the address last."""
    from hart_lite.export.push import push as pushed

    return pushed(source, repo, dry_run, private, pictures)


def _recipe(recipe: AnyRecipe, overrides: Sequence[str]) -> Recipe:
    if isinstance(recipe, str | Path):
        return load_recipe(recipe, overrides)
    if isinstance(recipe, Recipe):
        if overrides:
            raise ConfigError("overrides go with a recipe's name, file or dict; this is a finished Recipe")
        return recipe
    return recipe_from(dict(recipe), overrides, "the recipe")
