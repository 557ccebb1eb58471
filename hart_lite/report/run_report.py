"""RUN/report.html: a run or an evaluation on one page that needs nothing else, for a phone as for a wide screen."""

from __future__ import annotations

import shlex
from html import escape
from pathlib import Path

from hart_lite.config.schema import Recipe
from hart_lite.config.sections import RLStage, SFTStage
from hart_lite.errors import HartError
from hart_lite.eval.results import is_evaluation
from hart_lite.report.before_after import numbers, table, verdict
from hart_lite.report.charts import charts, drawn_charts
from hart_lite.report.eval_report import evaluation_page
from hart_lite.report.html import LEGEND, Pictures, facts, navigation, page, save_page, section, unfold
from hart_lite.report.reader import Run, read_run
from hart_lite.report.samples import samples, tracked
from hart_lite.report.warnings import Caution, cautions
from hart_lite.runs.layout import is_run


def write_report(run: str | Path) -> Path:
    """The page of a run directory, as far as the run got, or of the folder of an evaluation; written anew.

    Raises `HartError` for a folder that is neither, and for files in it that cannot be read.
    """
    folder = Path(run)
    if is_run(folder):
        text = run_page(read_run(folder))
    elif is_evaluation(folder):
        text = evaluation_page(folder)
    else:
        raise HartError(f"{folder} holds neither a run (recipe.yaml) nor an evaluation (eval.json)")
    return save_page(folder, text)


def run_page(run: Run) -> str:
    pictures = Pictures()
    seen = tracked(run, pictures)
    drawn = samples(run, pictures)
    sections = [
        ("watch", "What to look out for", _cautions(cautions(run)), ""),
        (
            "table",
            "Before and after",
            table(run),
            "The same held-out questions each time, answered greedily. p says how often chance alone would change as "
            "many, taking the questions for independent.",
        ),
        ("looks", "Where it looked", LEGEND + seen if seen else "", _about_looks(run)),
        ("curves", "Curves", drawn_charts(charts(run)), "Faint: each step. Strong: the mean of its neighbours."),
        (
            "samples",
            "Samples in training",
            drawn,
            "Several tries at one question: their boxes, the crops that the second turn saw, its answer. Green was "
            "right and rewarded, red was not.",
        ),
        ("recipe", "What was run", _recipe(run), ""),
        ("next", "How to go on", _next(run), ""),
    ]
    left = f'<p class="soft">{pictures.left_out} pictures are left out to keep this file small.</p>\n'
    body = (
        _head(run)
        + navigation([(anchor, title, html) for anchor, title, html, _ in sections])
        + numbers(run)
        + "".join(section(anchor, title, about, html) for anchor, title, html, about in sections)
        + (left if pictures.left_out else "")
    )
    return page(f"{run.recipe.name}: report", f"<main>\n{body}</main>\n")


def _head(run: Run) -> str:
    state = '<span class="badge">finished</span>' if run.finished else '<span class="badge open">not finished</span>'
    words = f'<p class="lead">{escape(verdict(run))}</p>\n' if verdict(run) else ""
    return (
        f'<header>\n<h1>{escape(run.recipe.name)} {state}</h1>\n<p class="soft">{escape(_what(run.recipe))}</p>\n'
        f"{words}{_where(run)}</header>\n"
    )


def _what(recipe: Recipe) -> str:
    """The run in a line: base, and stages in order."""
    base = "the embedded base" if recipe.model.base == "embedded" else recipe.model.base
    return f"{base}: {', then '.join(_stage(recipe, stage) for stage in recipe.stages)}"


def _stage(recipe: Recipe, stage: RLStage | SFTStage) -> str:
    if isinstance(stage, RLStage):
        loop, objective = stage.loop or recipe.loop, stage.objective or recipe.objective
        k = f", k = {recipe.k:g}" if objective == "ap_grpo" else ""
        return f"{stage.steps:,} steps of RL (loop {loop}, {objective}{k})"
    length = f"{stage.steps:,} steps" if stage.steps else f"{stage.epochs:g} epochs"
    return f"{length} of SFT ({stage.context})"


def _where(run: Run) -> str:
    if run.finished:
        return ""
    begun = [stage for stage in run.stages if stage.rows]
    place = (
        f"at step {begun[-1].done:,} of {begun[-1].steps:,} in {begun[-1].name}" if begun else "before its first step"
    )
    return f'<p class="soft">When this page was written the run stood {escape(place)}.</p>\n'


def _cautions(found: list[Caution]) -> str:
    if not found:
        return (
            '<p class="card fine">Nothing. Looked at: rewards that do not rise, boxes that grow, groups without a '
            "signal, a policy that leaves its base, samples without a usable box, responses cut short, lost steps, "
            "and held-out figures that got worse.</p>\n"
        )
    cards = (
        f'<div class="card caution"><h3>{escape(c.title)}</h3><p>{escape(c.seen)}</p>'
        f"<p><strong>What to do:</strong> {escape(c.advice)}</p></div>\n"
        for c in found
    )
    return f'<div class="cautions">\n{"".join(cards)}</div>\n'


def _about_looks(run: Run) -> str:
    kind = "held-out questions" if run.held_out else "questions from the training data (there are no held-out ones)"
    words = f"The same {kind} along the way, answered greedily from the crops alone; the crops are below each photo."
    missed = "Half of them, as far as there are any, had gone wrong before training; these come first."
    return f"{words} {missed}" if run.held_out else words


def _recipe(run: Run) -> str:
    recipe = run.recipe
    quant = "" if recipe.model.quant == "none" else f" in {recipe.model.quant}"
    pairs = [
        (
            "base",
            f"{recipe.model.base}{quant}" + (f", revision {recipe.model.revision}" if recipe.model.revision else ""),
        ),
        ("adapter", f"LoRA, rank {recipe.model.lora.r}, on {' and '.join(recipe.model.lora.parts)}"),
        *(
            (stage.name, f"{_stage(recipe, spec)}, lr {spec.lr:g}")
            for stage, spec in zip(run.stages, recipe.stages, strict=True)
        ),
        (
            "a step of RL",
            f"{recipe.rollout.samples} samples of each question, temperature {recipe.rollout.temperature:g}",
        ),
        ("KL", f"beta = {recipe.beta:g}"),
        ("pixels", f"{recipe.pixels.full:,} of the image, {recipe.pixels.crop:,} of a crop"),
        ("data", recipe.data.train + (f", held out: {recipe.data.eval}" if recipe.data.eval else "")),
        ("seed", str(recipe.seed)),
    ]
    text = (run.folder / "recipe.yaml").read_text(encoding="utf-8")
    versions = facts([(name, str(value)) for name, value in run.versions.items()])
    return (
        f'<div class="card">{facts(pairs)}{unfold("every value of the recipe", f"<pre>{escape(text)}</pre>")}'
        f"{unfold('versions', versions) if run.versions else ''}</div>\n"
    )


def _next(run: Run) -> str:
    place = shlex.quote(str(run.folder))
    if run.finished:
        lines = [
            f'hart-lite ask photo.jpg "What does the sign say?" --model {place}',
            f"hart-lite eval {place} --benchmark rows=my/rows.jsonl",
        ]
    else:
        recipe = shlex.quote(str(run.folder / "recipe.yaml"))
        lines = [f"hart-lite train {recipe} --resume", f"hart-lite report {place}"]
    return f"<pre>{escape(chr(10).join(lines))}</pre>\n"
