"""HART against its baselines on the toy data: `python -m experiments.methods` (or `make methods`).

Trains every method at an equal budget (same questions, samples, steps, learning rate) from the same base over several
seeds, RL alone and RL + SFT, and prints two tables shaped like the paper's tables 6 (grounding) and 7 (answers): mean
and standard deviation over seeds, and the difference from GRPO, paired by seed and question, with its interval.
Finished runs are kept and not repeated; runs of other recipes are refused.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path

from experiments.paired import Asked, difference, right, wrong
from hart_lite.config.recipe import load_recipe
from hart_lite.errors import HartError
from hart_lite.eval.prediction import Prediction
from hart_lite.runs.layout import BEFORE, EVALUATION, SUMMARY
from hart_lite.runs.run_dir import check_run
from hart_lite.utils.markdown import markdown_table

METHODS = {
    "GRPO": ["loop=direct", "objective=grpo"],
    "MGPO": ["loop=mgpo", "objective=grpo"],
    "HART, k = 0": ["loop=hart", "objective=grpo"],
    "HART, k = 0.15": ["k=0.15"],
    "HART, k = 0.30": ["k=0.3"],
    "HART, k = 0.60": ["k=0.6"],
    "HART scored": ["rollout.verify=score"],
    "HART scored + control": ["rollout.verify=score", "rollout.control_region=true"],
}
Figures = dict[str, tuple[str, Callable[[Prediction], float]]]  # title -> (mode, figure)
GROUNDING: Figures = {
    "wrong (%)": ("crops", wrong),
    "mean IoU (%)": ("crops", lambda row: row.grounding.iou),
    "coverage (%)": ("crops", lambda row: row.grounding.coverage),
}
ANSWERS: Figures = {f"{mode} (%)": (mode, right) for mode in ("full", "crops", "full+crops")}
RESULTS = Path(__file__).parent / "results"


def run_one(folder: Path, overrides: list[str], threads: int) -> None:
    """Trains into `folder`, or goes on there; nothing is left to do where the run is finished."""
    if not (folder / SUMMARY).exists():
        command = [sys.executable, "-m", "hart_lite.cli.main", "train", "tiny_cpu"]
        resume = ["--resume"] if (folder / "recipe.yaml").exists() else []
        log = folder.with_name(folder.name + ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run([*command, *overrides, *resume], stdout=file, stderr=file, env=environment)
        if done.returncode:
            sys.exit(f"a run failed; {log} says why")


def measure(
    runs: Path, methods: Mapping[str, list[str]], seeds: int, jobs: int, overrides: Sequence[str]
) -> dict[str, list[Path]]:
    """{method: the folder of one run for each seed}. All runs of a seed share scenes, split and evaluation."""
    threads = max((os.cpu_count() or 1) // jobs, 1)
    tasks = []
    for seed in range(seeds):
        for name, own in methods.items():
            folder = runs / f"{name.replace(', k = ', '-k').replace(' ', '-').lower()}-{seed}"
            tasks.append((name, folder, [f"output={folder}", f"seed={seed}", *own, *overrides]))
    for _, folder, settings in tasks:  # before the first one trains: what lies there was made by these very recipes
        recipe = load_recipe("tiny_cpu", settings)
        if folder.exists():
            check_run(folder, recipe, resume=True)

    def run(task: tuple[str, Path, list[str]]) -> None:
        run_one(task[1], task[2], threads)
        print(f"{task[1]}: done", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, tasks))
    return {name: [folder for n, folder, _ in tasks if n == name] for name in methods}


def evaluations(results: Mapping[str, list[Path]]) -> list[str]:
    """Names of the evaluations after each stage, in order."""
    first = next(iter(results.values()))[0]
    return sorted(path.name for path in (first / EVALUATION).glob("after-*"))


def tables(results: Mapping[str, list[Path]]) -> str:
    """Both tables for every evaluation after a stage."""
    kinds = {"Grounding {} (as the paper's table 6)": GROUNDING, "Answers right {} (as the paper's table 7)": ANSWERS}
    return "\n\n".join(
        f"**{title.format(stage)}**\n\n{_table(results, stage, figures)}"
        for stage in evaluations(results)
        for title, figures in kinds.items()
    )


def _table(results: Mapping[str, list[Path]], stage: str, figures: Figures) -> str:
    base = Asked(next(iter(results.values())), BEFORE)
    grpo = Asked(results["GRPO"], stage)
    rows = [_row("base", base, figures, None)]
    for name, runs in results.items():
        rows.append(_row(name, Asked(runs, stage), figures, None if name == "GRPO" else grpo))
    return markdown_table(["method", *(part for title in figures for part in (title, "- GRPO"))], rows)


def _row(name: str, asked: Asked, figures: Figures, against: Asked | None) -> list[str]:
    cells = [name]
    for chosen in figures.values():
        values = asked.values(*chosen)
        cells.append(spread(100 * values.mean(axis=1)))
        cells.append(difference(asked.images, values, against.values(*chosen)) if against else "")
    return cells


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds; of one seed there is none."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def parser(about: str, name: str, seeds: int) -> argparse.ArgumentParser:
    """The options that the experiments share; `name` is that of their runs and of their file of results."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, default=seeds)
    made.add_argument("--jobs", type=int, default=2, help="runs at the same time; each gets its share of the cores")
    made.add_argument("--runs", type=Path, default=Path("runs") / name)
    made.add_argument("--out", type=Path, default=RESULTS / f"{name}.md")
    made.add_argument("overrides", nargs="*", help="recipe overrides for all runs, e.g. stages.0.steps=60")
    return made


def made_by(name: str, arguments: argparse.Namespace) -> str:
    """The sentence on command, date and versions that heads a file of results."""
    command = " ".join([f"python -m experiments.{name} --seeds {arguments.seeds}", *arguments.overrides])
    versions = f"torch {version('torch')}, transformers {version('transformers')}"
    return f"`{command}`, {date.today()}, on CPU, {versions}; seeds of the runs: {arguments.seeds}."


def write(text: str, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(f"{text}\n", encoding="utf-8")
    print(text)


def in_words(main: Callable[[], None]) -> None:
    """Runs a program; what it cannot measure ends it with a line and no traceback."""
    try:
        main()
    except HartError as error:
        sys.exit(f"{error}\nFor a benchmark of other recipes, choose another folder with --runs")


def main() -> None:
    arguments = parser(__doc__, "methods", 5).parse_args()
    results = measure(arguments.runs, METHODS, arguments.seeds, arguments.jobs, arguments.overrides)
    about = (
        f"{made_by('methods', arguments)} Mean ± standard deviation over seeds; `- GRPO`: difference from GRPO, paired "
        "by seed and question, with its 95 % interval by bootstrap over seeds and images."
    )
    write(f"{about}\n\n{tables(results)}", arguments.out)


if __name__ == "__main__":
    in_words(main)
