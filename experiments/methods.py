"""HART against its baselines on the toy data: `python -m experiments.methods` (or `make methods`).

Trains every method at an equal budget (same questions, samples, steps, learning rate) from the same base over several
seeds, RL alone and RL + SFT, and prints two tables shaped like the paper's tables 6 (grounding) and 7 (answers): mean
and standard deviation over seeds, and the difference from GRPO paired by seed. Finished runs are kept and not repeated;
runs of other recipes are refused.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from hart_lite.config.recipe import load_recipe
from hart_lite.errors import HartError
from hart_lite.runs.run_dir import check_run

METHODS = {
    "GRPO": ["loop=direct", "objective=grpo"],
    "MGPO": ["loop=mgpo", "objective=grpo"],
    "HART, k = 0": ["loop=hart", "objective=grpo"],
    "HART, k = 0.15": ["k=0.15"],
    "HART, k = 0.30": ["k=0.3"],
    "HART, k = 0.60": ["k=0.6"],
}
GROUNDING = {"wrong (%)": "wrong_grounding", "mean IoU (%)": "mean_iou", "coverage (%)": "coverage"}
MODES = ("full", "crops", "full+crops")
RESULTS = Path(__file__).parent / "results"


def run_one(folder: Path, overrides: list[str], seed: int, threads: int) -> dict:
    """The summary of one training run, from its folder where it is finished."""
    summary = folder / "summary.json"
    if not summary.exists():
        command = [sys.executable, "-m", "hart_lite.cli.main", "train", "tiny_cpu", *placed(folder, seed)]
        resume = ["--resume"] if (folder / "recipe.yaml").exists() else []
        log = folder.with_name(folder.name + ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run([*command, *overrides, *resume], stdout=file, stderr=file, env=environment)
        if done.returncode:
            sys.exit(f"a run failed; {log} says why")
    return json.loads(summary.read_text(encoding="utf-8"))


def placed(folder: Path, seed: int) -> list[str]:
    return [f"output={folder}", f"seed={seed}"]


def measure(runs: Path, seeds: int, jobs: int, overrides: list[str]) -> dict[str, list[dict]]:
    """{method: one summary for each seed}. All runs of a seed share scenes, split and evaluation."""
    threads = max((os.cpu_count() or 1) // jobs, 1)
    tasks = [(name, seed) for seed in range(seeds) for name in METHODS]
    for name, seed in tasks:  # before the first one trains: what lies there was made by these very recipes
        folder = _folder(runs, name, seed)
        recipe = load_recipe("tiny_cpu", [*placed(folder, seed), *METHODS[name], *overrides])
        check_run(folder, recipe, resume=True)

    def run(task: tuple[str, int]) -> dict:
        name, seed = task
        summary = run_one(_folder(runs, name, seed), [*METHODS[name], *overrides], seed, threads)
        print(f"{name}, seed {seed}: wrong grounding {_last(summary)['grounding']['wrong_grounding']:.3f}", flush=True)
        return summary

    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(run, tasks))
    return {name: [r for (n, _), r in zip(tasks, results, strict=True) if n == name] for name in METHODS}


def _folder(runs: Path, name: str, seed: int) -> Path:
    return runs / f"{name.replace(', k = ', '-k').lower()}-{seed}"


def _last(summary: dict) -> dict:
    return summary[list(summary)[-1]]


def tables(results: dict[str, list[dict]]) -> str:
    """Both tables for every evaluation after a stage."""
    first = next(iter(results.values()))[0]
    parts = []
    for stage in list(first)[1:]:
        columns = {title: lambda s, k=key: s["grounding"][k] for title, key in GROUNDING.items()}
        parts.append(_table(f"Grounding {stage} (as the paper's table 6)", results, stage, columns))
        columns = {f"{mode} (%)": lambda s, m=mode: s["accuracy"][m] for mode in MODES}
        parts.append(_table(f"Answers right {stage} (as the paper's table 7)", results, stage, columns))
    return "\n\n".join(parts)


def _table(title: str, results: dict[str, list[dict]], stage: str, columns: dict) -> str:
    heads = [part for name in columns for part in (name, "- GRPO")]
    lines = [f"**{title}**", "", "| method | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    bases = next(iter(results.values()))
    lines.append(_row("base", [[get(s["before"]) for s in bases] for get in columns.values()], None))
    grpo = [[get(s[stage]) for s in results["GRPO"]] for get in columns.values()]
    for name, summaries in results.items():
        values = [[get(s[stage]) for s in summaries] for get in columns.values()]
        lines.append(_row(name, values, None if name == "GRPO" else grpo))
    return "\n".join(lines)


def _row(name: str, values: list[list[float]], against: list[list[float]] | None) -> str:
    cells = []
    for n, column in enumerate(values):
        cells.append(_spread([100 * v for v in column]))
        paired = [100 * (v - g) for v, g in zip(column, against[n], strict=True)] if against else []
        cells.append(_spread(paired, "+") if paired else "")
    return f"| {name} | " + " | ".join(cells) + " |"


def _spread(values: list[float], sign: str = "") -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{sign}.1f} ± {deviation:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time; each gets its share of the cores")
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"))
    parser.add_argument("--out", type=Path, default=RESULTS / "methods.md")
    parser.add_argument("overrides", nargs="*", help="recipe overrides for all methods, e.g. stages.0.steps=60")
    arguments = parser.parse_args()
    try:
        results = measure(arguments.runs, arguments.seeds, arguments.jobs, arguments.overrides)
    except HartError as error:
        sys.exit(f"{error}\nFor a benchmark of other recipes, choose another folder with --runs")
    about = (
        f"`python -m experiments.methods --seeds {arguments.seeds} {' '.join(arguments.overrides)}`".replace(" `", "`")
        + f" on CPU, torch {version('torch')}, transformers {version('transformers')}. Mean ± standard deviation over "
        f"{arguments.seeds} seeds of the run; `- GRPO`: difference from GRPO, paired by seed."
    )
    text = f"{about}\n\n{tables(results)}\n"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
