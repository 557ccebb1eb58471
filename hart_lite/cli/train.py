"""train, plan, bench, recipes: what a recipe asks for, and what it costs."""

from __future__ import annotations

import argparse
import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from hart_lite.errors import HartError
from hart_lite.utils.libraries import quiet_libraries
from hart_lite.utils.phase import begin_phase
from hart_lite.utils.terminal import fitted

if TYPE_CHECKING:
    from hart_lite.config.schema import Recipe

log = logging.getLogger(__name__)

MINUTES = 1_000_000  # less than two years
EXAMPLES = """examples:
  hart-lite train tiny_cpu
  hart-lite train qwen7b_lora data.train=my/rows.jsonl data.eval=my/held_out.jsonl output=runs/mine
  hart-lite train runs/mine/recipe.yaml --resume
  hart-lite train tiny_cpu evaluate.every=10 evaluate.keep_best=crops evaluate.patience=2 output=runs/best
  hart-lite train qwen7b_lora model.adapter=runs/mine/adapter output=runs/further
"""


def add(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "train",
        help="run the stages of a recipe",
        description=inspect.cleandoc(train.__doc__),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recipe = command.add_argument("recipe", help="a YAML file, or a shipped recipe's name (see `hart-lite recipes`)")
    recipe.completer = _recipes_and_files
    command.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. k=0.3 stages.0.steps=20")
    command.add_argument("--resume", action="store_true", help="continue the run in the recipe's output directory")
    command.add_argument(
        "--max-minutes", type=float, metavar="M", help="stop after so long, saved, to be continued with --resume"
    )
    go_on = "`hart-lite train RECIPE --resume` goes on from the last checkpoint"
    command.set_defaults(run=train, go_on=go_on)

    command = commands.add_parser("plan", help="will it fit? peak memory of a recipe", description=plan.__doc__)
    recipe = command.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
    recipe.completer = _recipes_and_files
    command.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. rollout.samples=4")
    command.add_argument("--json", action="store_true", help="print everything as JSON, sizes in bytes")
    command.set_defaults(run=plan)

    command = commands.add_parser("bench", help="what a step costs, beside stock TRL", description=bench.__doc__)
    command.add_argument("--preset", choices=("cpu", "cuda"), default="cpu", help="sizes of the model and of the work")
    command.add_argument("--steps", type=int, default=5, help="rounds that are timed, after one that is not")
    command.add_argument("--out", type=Path, help="write the tables to this Markdown file, too")
    command.set_defaults(run=bench)

    command = commands.add_parser("recipes", help="list the shipped recipes", description=recipes.__doc__)
    command.add_argument("--reference", action="store_true", help="every key, what it takes and means, as Markdown")
    command.set_defaults(run=recipes)


def train(arguments: argparse.Namespace) -> int:
    """Run the stages of a recipe and leave a self-contained run directory.

    Ctrl-C, SIGTERM and --max-minutes finish the step, save a checkpoint and print the command that goes on; a second
    signal kills. The exit code is 0 when the run is finished, 1 after an error, and where it can go on 130 (Ctrl-C),
    143 (SIGTERM) or 124 (--max-minutes).
    """
    if arguments.max_minutes is not None and not 0 < arguments.max_minutes < MINUTES:
        raise HartError(f"--max-minutes {arguments.max_minutes:g}: should be more than 0 and less than {MINUTES:,}")
    from hart_lite.config.environment import check_machine
    from hart_lite.config.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    check_machine(recipe)
    if recipe.model.backend == "unsloth":
        import unsloth  # noqa: F401, it patches transformers, peft and trl and has to come before them
    quiet_libraries()
    from hart_lite.eval.run_summary import run_summary_table
    from hart_lite.training import train as stages

    summary = stages.train(recipe, arguments.resume, arguments.max_minutes, predicted=_predicted(recipe))
    _write_report(recipe.run_dir)
    print(f"\n{fitted(run_summary_table(summary))}\n\nrun directory: {recipe.run_dir}")
    return 0


def _predicted(recipe: Recipe) -> str:
    """Memory and time by the plan; nothing of a base whose sizes are not known here."""
    from contextlib import suppress

    import torch

    from hart_lite.perf.model_sizes import Dimensions
    from hart_lite.perf.plan_report import predicted

    card = torch.cuda.get_device_name() if torch.cuda.is_available() and recipe.model.device != "cpu" else ""
    with suppress(HartError):
        return predicted(recipe, Dimensions.of(recipe.model.base, recipe.model.revision), card)
    return ""


def _recipes_and_files(prefix: str, **_) -> list[str]:
    """What a shell may complete: names of shipped recipes, files and folders."""
    from glob import escape, glob

    from hart_lite.config.resources import shipped_recipes

    return [path.stem for path in shipped_recipes()] + glob(escape(prefix) + "*")


def _write_report(run: Path) -> None:
    """The run is whole without it: a picture that has become unreadable, say, does not end it in an error. One of
    several processes writes."""
    from accelerate import PartialState

    from hart_lite.report.run_report import write_report

    if not PartialState().is_main_process:
        return
    begin_phase("report")
    try:
        log.info("report: %s", write_report(run))
    except HartError as error:
        log.warning("no report: %s\nOnce that is mended: hart-lite report %s", error, run)


def plan(arguments: argparse.Namespace) -> int:
    """Compute peak memory, tokens and FLOPs of a recipe from its numbers alone, and say which cards it fits.

    Nothing is downloaded and no model is built.
    """
    import json

    from hart_lite.config.recipe import load_recipe
    from hart_lite.perf.model_sizes import Dimensions
    from hart_lite.perf.plan_report import report, text

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    dims = Dimensions.of(recipe.model.base, recipe.model.revision)
    print(json.dumps(report(recipe, dims), indent=2) if arguments.json else text(recipe, dims))
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Time a step of stock trl.GRPOTrainer and of direct, mgpo and hart side by side on this machine, and check that
    packed training computes what unpacked training does. The weights are random; nothing is downloaded."""
    if arguments.steps < 1:
        raise HartError(f"--steps {arguments.steps}: at least 1 round has to be timed")
    if arguments.out and not arguments.out.parent.is_dir():
        raise HartError(f"--out {arguments.out}: there is no folder {arguments.out.parent}; make it first")
    quiet_libraries()
    from hart_lite.perf.step_time.presets import PRESETS
    from hart_lite.perf.step_time.report import report
    from hart_lite.perf.step_time.run import bench as measure

    text = report(measure(PRESETS[arguments.preset], arguments.steps))
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    return 0


def recipes(arguments: argparse.Namespace) -> int:
    """List the recipes that ship with hart-lite, with what each says of itself."""
    from hart_lite.config.reference import reference
    from hart_lite.config.resources import shipped_recipes

    if arguments.reference:
        print(reference(), end="")
        return 0
    for path in shipped_recipes():
        about = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        print(f"{path.stem:20} {about}")
    return 0
