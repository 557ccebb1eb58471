"""RUN/report.html: a run or an evaluation on one page that needs nothing else, for a phone as for a wide screen."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from hart_lite.config.schema import Recipe, Stage
from hart_lite.config.sections import DistilStage, RLStage
from hart_lite.errors import HartError
from hart_lite.eval.results import is_evaluation
from hart_lite.report.before_after import numbers, table, verdict
from hart_lite.report.charts import charts
from hart_lite.report.cost import cost
from hart_lite.report.eval_report import evaluation_page
from hart_lite.report.html import Pictures, page, save_page
from hart_lite.report.reader import Run, read_run
from hart_lite.report.samples import samples, tracked
from hart_lite.report.warnings import cautions
from hart_lite.runs.layout import EVALUATION, RECIPE, TRACKED, is_run
from hart_lite.runs.time_left import duration

TITLES = {
    "watch": "What to look out for",
    "table": "Before and after",
    "tracked": "Where it looked",
    "charts": "Curves",
    "samples": "Samples in training",
    "cost": "What it took",
    "recipe": "Recipe and versions",
    "next": "How to go on",
}


def write_report(run: str | Path, refresh: int = 0) -> Path:
    """The page of a run directory, as far as the run got, or of the folder of an evaluation; written anew. `refresh`
    as for `run_page`.

    Raises `HartError` for a folder that is neither, and for files in it that cannot be read.
    """
    folder = Path(run)
    if is_run(folder):
        text = run_page(read_run(folder), refresh=refresh)
    elif is_evaluation(folder):
        text = evaluation_page(folder)
    else:
        raise HartError(f"{folder} holds neither a run (recipe.yaml) nor an evaluation (eval.json)")
    return save_page(folder, text)


def run_page(run: Run, pictures: Pictures | None = None, refresh: int = 0) -> str:
    """`refresh`: seconds after which a browser reads the page again; 0: never."""
    pictures = pictures or Pictures()
    recipe = run.recipe
    parts: dict[str, Any] = {
        "table": table(run),
        "tracked": tracked(run, pictures),
        "charts": charts(run),
        "samples": samples(run, pictures),
        "cost": cost(run),
    }
    last = list(run.evaluations.items())[-1:]
    return page(
        "run.html",
        title=f"{recipe.name}: report",
        refresh=refresh,
        run=run,
        recipe=recipe,
        recipe_text=(run.folder / RECIPE).read_text(encoding="utf-8"),
        what=_what(recipe),
        where=_where(run),
        verdict=verdict(run),
        cautions=cautions(run),
        numbers=numbers(run),
        questions="".join(f"{f['questions']:,} held-out questions, {moment.title}" for moment, f in last),
        about_looks=_about_looks(run),
        titles=TITLES,
        links=[(anchor, title) for anchor, title in TITLES.items() if parts.get(anchor, True)],
        settings=_settings(run),
        versions=[(name, str(value)) for name, value in run.versions.items()],
        next=_next(run),
        left_out=pictures.left_out,
        **parts,
    )


def _what(recipe: Recipe) -> str:
    """The run in a line: base, and stages in order."""
    base = "the toy base" if recipe.model.base == "toy" else recipe.model.base
    return f"{base}: {', then '.join(_stage(recipe, stage) for stage in recipe.stages)}"


def _stage(recipe: Recipe, stage: Stage) -> str:
    if isinstance(stage, RLStage):
        loop, objective = stage.loop or recipe.loop, stage.objective or recipe.objective
        k = f", k = {recipe.k:g}" if objective == "ap_grpo" else ""
        scored = ", scored" if recipe.rollout.verify == "score" else ""
        return f"{stage.steps:,} steps of RL (loop {loop}, {objective}{k}{scored})"
    if isinstance(stage, DistilStage):
        return f"{stage.steps:,} steps of distillation (teacher: {stage.teacher})"
    length = f"{stage.steps:,} steps" if stage.steps else f"{stage.epochs:g} epochs"
    return f"{length} of SFT ({stage.context})"


def _where(run: Run) -> list[str]:
    """How far the run got and how long the rest will take; nothing of a finished one."""
    if run.finished:
        return []
    begun = [stage for stage in run.stages if stage.rows]
    place = (
        f"at step {begun[-1].done:,} of {begun[-1].steps:,} in {begun[-1].name}" if begun else "before its first step"
    )
    lines = [f"When this page was written the run was {place}."]
    if left := run.seconds_left:
        lines.append(f"About {duration(left)} of work are left in the whole run.")
    return lines


def _about_looks(run: Run) -> str:
    kind = "held-out questions" if run.held_out else "questions from the training data (there are no held-out ones)"
    text = f"The same {kind}, answered greedily from the crops alone: first and last large, what lies between small. "
    text += "A picture opens large with its crops at their own pixels."
    failed = " Half of them, as far as there are any, went wrong before training; these come first."
    return text + failed if run.held_out else text


def _settings(run: Run) -> list[tuple[str, str]]:
    recipe = run.recipe
    base, rollout, lora = recipe.model, recipe.rollout, recipe.model.lora
    quant = "" if base.quant == "none" else f" in {base.quant}"
    stages = zip(run.stages, recipe.stages, strict=True)
    return [
        ("base", f"{base.base}{quant}" + (f", revision {base.revision}" if base.revision else "")),
        ("adapter", f"LoRA, rank {lora.r}, on {' and '.join(lora.parts)}"),
        *((stage.name, f"{_stage(recipe, spec)}, lr {spec.lr:g}") for stage, spec in stages),
        ("a step of RL", f"{rollout.samples} samples of each question, temperature {rollout.temperature:g}"),
        ("KL", f"beta = {recipe.beta:g}"),
        ("pixels", f"{recipe.pixels.full:,} of the image, {recipe.pixels.crop:,} of a crop"),
        ("data", recipe.data.trained_on + (f", held out: {recipe.data.eval}" if recipe.data.eval else "")),
        ("seed", str(recipe.seed)),
    ]


def _next(run: Run) -> list[tuple[str, str]]:
    """(what for, command) pairs with the paths of this run."""
    place = shlex.quote(str(run.folder))
    if not run.finished:
        recipe = shlex.quote(str(run.folder / RECIPE))
        return [
            ("Go on from the last checkpoint:", f"hart-lite train {recipe} --resume"),
            ("Follow a run that goes on:", f"hart-lite watch {place}"),
        ]
    photo, question, choices = _photo(run)
    lines = [
        ("Ask about a picture:", f"hart-lite ask {photo} {question}{choices} --model {place}"),
        ("Ask on a page, base beside trained, and draw boxes yourself:", f"hart-lite demo {place}"),
    ]
    if len(run.evaluations) > 1:
        first, *_, last = (shlex.quote(str(run.folder / EVALUATION / moment.name)) for moment in run.evaluations)
        lines += [
            (
                "See how far two evaluations differ, and whether that could be chance:",
                f"hart-lite compare {first} {last}",
            ),
            ("Look at the held-out questions, before beside after:", f"hart-lite gallery {last} --before {first}"),
        ]
    merged = shlex.quote(f"{run.folder}-merged")
    return [
        *lines,
        ("Add the adapter to its base, as one checkpoint:", f"hart-lite merge {place} --out {merged}"),
        (
            "Share it (this shows what would be uploaded):",
            f"hart-lite push {place} YOUR-NAME/{run.recipe.name} --dry-run",
        ),
    ]


def _photo(run: Run) -> tuple[str, str, str]:
    """A picture of the run itself with its question and choices, where it tracked one."""
    for rows in run.tracked.values():
        for question, row in zip(run.questions, rows, strict=False):
            path = run.folder / TRACKED / str(question["picture"])
            if path.is_file():
                words = "".join(f" --choices {shlex.quote(choice)}" for choice in row.choices)
                return shlex.quote(str(path)), shlex.quote(row.question), words
    return "photo.jpg", '"What does the sign say?"', ""
