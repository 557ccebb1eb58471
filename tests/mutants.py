"""How many small faults the tests notice: `make mutants` samples mutants of the modules that must be right, runs the
tests of each on it, and names those that pass them all.

cosmic-ray makes the mutants (a sign, a comparison, a number, a decorator or a branch changed) in a copy of the tree.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome

ROOT = Path(__file__).resolve().parents[1]
OUT = "experiments/results/mutants.md"
WANTED = 0.92  # share that is caught
TESTS = {  # of each module or package, the quickest first
    "hart_lite/rl": "tests/rl tests/training/test_rl.py",
    "hart_lite/boxes.py": "tests/test_boxes.py tests/eval/test_analysis.py",
    "hart_lite/grading": "tests/grading",
    "hart_lite/models/packing.py": "tests/models/test_packing.py tests/models/test_policy.py",
    "hart_lite/models/generation.py": "tests/models/test_generate.py tests/models/test_policy.py",
    "hart_lite/inference/rollout.py": "tests/inference/test_rollout.py tests/training/test_rl.py",
    "hart_lite/training/sft_data.py": "tests/training/test_sft.py",
    "hart_lite/training/sft_trainer.py": "tests/training/test_sft.py",
    "hart_lite/training/rl_trainer.py": "tests/training/test_rl.py tests/inference/test_decoding.py",
}


def modules(place: str) -> list[Path]:
    path = Path(place)
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def mutants_of(place: str, folder: Path) -> list[MutationSpec]:
    """All of a module or package, but for changes of annotations, which nothing reads while a program runs."""
    with use_db(str(folder / "mutants.sqlite")) as db:
        init(modules(place), db, {})
        found = [mutation for item in db.work_items for mutation in item.mutations]
    spans = {path: list(annotations(path)) for path in modules(place)}
    return [
        mutant
        for mutant in found
        if not any(start <= mutant.start_pos and mutant.end_pos <= end for start, end in spans[mutant.module_path])
    ]


def annotations(path: Path) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """(first, last) place of each, as (line, column)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if part is not None:
                yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)


def named(mutant: MutationSpec) -> str:
    line = mutant.module_path.read_text(encoding="utf-8").splitlines()[mutant.start_pos[0] - 1].strip()
    return f"{mutant.module_path}:{mutant.start_pos[0]}: {mutant.operator_name.removeprefix('core/')}: `{line}`"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=200, help="how many are tried")
    parser.add_argument("--seed", type=int, default=0, help="which")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for the tests of one; a mutant may not end")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="mutants-") as name:
        copy = Path(name) / "tree"
        for file in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, copy / file)
        os.chdir(copy)
        os.environ |= {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        every = [(place, mutant) for place in TESTS for mutant in mutants_of(place, Path(name))]
        chosen = random.Random(arguments.seed).sample(every, min(arguments.mutants, len(every)))
        report, share = run(chosen, arguments.timeout)
    print(report)
    if len(chosen) >= 200:
        (ROOT / OUT).write_text(f"# Mutants\n\n`make mutants`, seed {arguments.seed}.\n\n{report}\n", encoding="utf-8")
    return 0 if share >= WANTED else 1


def run(chosen: list[tuple[str, MutationSpec]], timeout: float) -> tuple[str, float]:
    """(what to print, the share that is caught)."""
    tried, caught, survivors = Counter(), Counter(), []
    for n, (place, mutant) in enumerate(chosen):
        command = f"{sys.executable} -m pytest -q -x -p no:cacheprovider -m '' --no-header {TESTS[place]}"
        outcome = mutate_and_test([mutant], command, timeout).test_outcome
        tried[place] += 1
        caught[place] += outcome != TestOutcome.SURVIVED  # one that makes an import fail or never ends is noticed, too
        if outcome == TestOutcome.SURVIVED:
            survivors.append(named(mutant))
        print(f"{n + 1} of {len(chosen)}: {outcome.value}: {named(mutant)}", file=sys.stderr, flush=True)
    share = sum(caught.values()) / sum(tried.values())
    rows = [f"| {place} | {tried[place]} | {caught[place]} |" for place in TESTS if tried[place]]
    table = "\n".join(["| module | tried | caught |", "| --- | ---: | ---: |", *rows])
    verdict = f"{sum(caught.values())} of {sum(tried.values())} are caught, {share:.1%}; wanted are {WANTED:.0%}."
    rest = "\n".join(f"- {line}" for line in survivors) or "- none"
    return "\n\n".join([verdict, table, "Not caught:", rest]), share


if __name__ == "__main__":
    sys.exit(main())
