"""The command line: one function for each command. Heavy imports happen inside, so that --help answers at once."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from pathlib import Path

from hart_lite.types import HartError

EXAMPLES = """examples:
  hart-lite train tiny_cpu                          the embedded world, on a laptop, in minutes
  hart-lite train tiny_cpu loop=mgpo objective=grpo a baseline, by overrides
  hart-lite plan qwen7b_lora rollout.samples=4      peak memory and fitting cards, before any download
  hart-lite bench                                   a step against stock TRL's, in minutes, without a download
  hart-lite train recipes/qwen7b_lora.yaml data.train=my/rows.jsonl
  hart-lite train runs/tiny_cpu/recipe.yaml --resume
  hart-lite data check my/rows.jsonl --preview sheet.png
"""


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 after an error that the message explains."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if any(word.startswith("-") for word in rest) or (rest and arguments.run not in (train, plan)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # overrides after an option: argparse takes a list of words in one piece only
        arguments.overrides += rest
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "bitsandbytes", "trl", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except HartError as error:
        print(f"hart-lite: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("hart-lite: stopped; `hart-lite train RECIPE --resume` goes on from the last checkpoint", file=sys.stderr)
    except BrokenPipeError:  # whoever read the output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = str(error.filename or "the run directory")
        where = where if len(where) < 200 else where[:80] + " .. " + where[-80:]
        print(f"hart-lite: {error.strerror}: {where}; what was saved is intact", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hart-lite",
        description="Teach a vision-language model where to look, on one GPU, from final answers alone.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = commands.add_parser("train", help="run the stages of a recipe", description=train.__doc__)
    command.add_argument("recipe", help="a YAML file, or the name of a shipped recipe (see `hart-lite recipes`)")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. k=0.3 stages.0.steps=20")
    command.add_argument("--resume", action="store_true", help="continue the run in the recipe's output directory")
    command.set_defaults(run=train)

    command = commands.add_parser("plan", help="will it fit? peak memory of a recipe", description=plan.__doc__)
    command.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. rollout.samples=4")
    command.add_argument("--json", action="store_true", help="print everything as JSON, sizes in bytes")
    command.set_defaults(run=plan)

    command = commands.add_parser("bench", help="what a step costs, beside stock TRL", description=bench.__doc__)
    command.add_argument("--preset", choices=("cpu", "cuda"), default="cpu", help="sizes of the model and of the work")
    command.add_argument("--steps", type=int, default=5, help="rounds that are timed, after one that is not")
    command.add_argument("--out", type=Path, help="write the tables to this Markdown file, too")
    command.set_defaults(run=bench)

    command = commands.add_parser("recipes", help="list the shipped recipes", description=recipes.__doc__)
    command.set_defaults(run=recipes)

    data = commands.add_parser("data", help="look at data sets", description="Work with data sets.")
    actions = data.add_subparsers(title="actions", metavar="ACTION", required=True)
    command = actions.add_parser("check", help="read a data set and name every bad row", description=data_check.__doc__)
    command.add_argument("source", help=".jsonl or .parquet file, folder of parquet, or Hub data set")
    command.add_argument("--format", default="auto", help="auto, jsonl, parquet, hub or mme_realworld")
    command.add_argument("--column", action="append", default=[], metavar="ours=theirs", help="e.g. question=Text")
    command.add_argument("--split", help="split of a Hub data set")
    command.add_argument("--image-dir", help="where relative image paths start")
    command.add_argument("--preview", type=Path, help="draw a sheet of questions and boxes to this PNG")
    command.set_defaults(run=data_check)
    return parser


def train(arguments: argparse.Namespace) -> int:
    """Run the stages of a recipe and leave a self-contained run directory."""
    from hart_lite.recipe import check_machine, load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if recipe.model.backend == "unsloth":
        check_machine(recipe)
        import unsloth  # noqa: F401, it patches transformers, peft and trl and has to come before them
    _quiet_libraries()
    from hart_lite import train as stages
    from hart_lite.summary import summary_table

    summary = stages.train(recipe, arguments.resume)
    print(f"\n{summary_table(summary)}\n\nrun directory: {recipe.run_dir}")
    return 0


def plan(arguments: argparse.Namespace) -> int:
    """Compute peak memory, tokens and FLOPs of a recipe from its numbers alone, and say which cards it fits.

    Nothing is downloaded and no model is built.
    """
    import json

    from hart_lite.dimensions import Dimensions
    from hart_lite.plan_report import report, text
    from hart_lite.recipe import load_recipe

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
    _quiet_libraries()
    from hart_lite.bench.presets import PRESETS
    from hart_lite.bench.report import report
    from hart_lite.bench.run import bench as measure

    text = report(measure(PRESETS[arguments.preset], arguments.steps))
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    return 0


def recipes(arguments: argparse.Namespace) -> int:
    """List the recipes that ship with hart-lite, with what each says of itself."""
    from hart_lite.recipe import shipped_recipes

    for path in shipped_recipes():
        about = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        print(f"{path.stem:14} {about}")
    return 0


def data_check(arguments: argparse.Namespace) -> int:
    """Read a whole data set, decode every image once, and print each bad row with its line and reason.

    Writes nothing but the preview. The exit code is 1 when a row is bad.
    """
    from hart_lite.data_check import check_dataset, format_report

    columns = dict(pair.split("=", 1) for pair in arguments.column if "=" in pair)
    if len(columns) != len(arguments.column):
        raise HartError(f"--column {arguments.column} should look like --column question=Text, each field once")
    report = check_dataset(
        arguments.source,
        format=arguments.format,
        columns=columns or None,
        split=arguments.split,
        image_dir=arguments.image_dir,
        preview=arguments.preview,
    )
    print(format_report(report))
    return 0 if report.ok else 1


def _quiet_libraries() -> None:
    """The libraries' own bars and notices would bury the figures of the run."""
    import warnings

    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft|trl")


if __name__ == "__main__":
    sys.exit(main())
