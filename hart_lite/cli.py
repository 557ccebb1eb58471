"""The command line: one function for each command. Heavy imports happen inside, so that --help answers at once."""

from __future__ import annotations

import argparse
import errno
import inspect
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
  hart-lite eval runs/tiny_cpu --benchmark world    a trained run in our three modes (hart-lite eval --help for more)
  hart-lite benchmarks                              what there is to evaluate on
"""
EVAL_EXAMPLES = """examples:
  hart-lite eval runs/tiny_cpu --benchmark world=scenes=40 --mode full,crops,full+crops,mgpo
  hart-lite eval embedded --benchmark rows=my/rows.jsonl --limit 20
  hart-lite eval Qwen/Qwen2.5-VL-7B-Instruct --benchmark rows=my/rows.jsonl --mode deepeyes --as-published
  OPENAI_API_KEY=.. hart-lite eval api:gpt-4o --benchmark rows=my/rows.jsonl --frame relative

An evaluation that was stopped goes on when it is run again.
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
        print(f"hart-lite: stopped; {_how_to_go_on(arguments)}", file=sys.stderr)
    except BrokenPipeError:  # whoever read the output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = str(error.filename or "the run directory")
        where = where if len(where) < 200 else where[:80] + " .. " + where[-80:]
        print(f"hart-lite: {error.strerror}: {where}; what was saved is intact", file=sys.stderr)
    return 1


def _how_to_go_on(arguments: argparse.Namespace) -> str:
    if arguments.run is evaluate:
        return "the same command goes on where it was"
    return "`hart-lite train RECIPE --resume` goes on from the last checkpoint"


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

    _add_eval(commands)
    _add_evaluations(commands)
    command = commands.add_parser("benchmarks", help="list the benchmarks", description=list_benchmarks.__doc__)
    command.set_defaults(run=list_benchmarks)

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


def _add_eval(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "eval",
        help="answer benchmarks with a model",
        description=inspect.cleandoc(evaluate.__doc__),
        epilog=EVAL_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "model",
        help="run directory, adapter, checkpoint, Hub id, `embedded`, or api:NAME (OPENAI_BASE_URL, .._API_KEY)",
    )
    several = {"action": "append", "metavar": "NAME[,NAME..]"}
    command.add_argument(
        "--benchmark", required=True, **several, help="NAME or NAME=SOURCE; see `hart-lite benchmarks`"
    )
    command.add_argument("--mode", **several, help="full, crops, full+crops (these by default), mgpo, deepeyes, "
                         "pixel-reasoner")  # fmt: skip
    command.add_argument("--out", type=Path, help="folder of the evaluation; default: runs/eval/MODEL")
    command.add_argument("--as-published", action="store_true", help="reproduce the known faults of peers' protocols")
    command.add_argument(
        "--prompt", choices=("own", "official"), default="own", help="words of modes full, pixel-reasoner"
    )
    command.add_argument("--limit", type=int, metavar="N", help="only the first N questions of each benchmark")
    command.add_argument("--strict", action="store_true", help="stop at the first bad row, instead of naming it")
    command.add_argument(
        "--full-pixels", type=int, metavar="N", help="most pixels seen of a whole image; 784: one token"
    )
    command.add_argument("--crop-pixels", type=int, metavar="N", help="most pixels seen of a crop")
    command.add_argument("--max-tokens", type=int, metavar="N", help="longest response")
    command.add_argument(
        "--quant", choices=("none", "nf4"), help="4-bit weights, where the model's recipe does not say"
    )
    command.add_argument("--device", choices=("auto", "cpu", "cuda"))
    command.add_argument("--frame", choices=("absolute", "relative"), default="absolute",
                         help="how an api: model writes boxes: pixels of the image it is sent, or 0-1000")  # fmt: skip
    command.set_defaults(run=evaluate)


def _add_evaluations(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("compare", help="two evaluations, question by question", description=compare.__doc__)
    command.add_argument("a", type=Path, metavar="A", help="folder of an evaluation")
    command.add_argument("b", type=Path, metavar="B", help="another of the same benchmarks; differences are B - A")
    command.set_defaults(run=compare)

    command = commands.add_parser("table", help="the paper's tables with ours beside", description=table.__doc__)
    command.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="evaluations; run directories for table 8")
    command.add_argument("--number", type=int, metavar="N", help="1 to 8; default: all")
    command.add_argument("--out", type=Path, metavar="DIR", help="write Markdown and CSV here, too")
    command.set_defaults(run=table)

    command = commands.add_parser("gallery", help="look at an evaluation", description=gallery.__doc__)
    command.add_argument("folder", type=Path, metavar="EVAL", help="folder of an evaluation")
    command.add_argument("--limit", type=int, default=12, metavar="N", help="questions of each kind; default: 12")
    command.set_defaults(run=gallery)


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


def evaluate(arguments: argparse.Namespace) -> int:
    """Answer the questions of benchmarks with a model, in every mode, and grade the answers.

    Each answer is written at once, with its turns and boxes. The exit code is 1 when a server failed to answer some.
    """
    for name, least in (("limit", 1), ("full_pixels", 784), ("crop_pixels", 784), ("max_tokens", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise HartError(f"--{name.replace('_', '-')} {value}: at least {least} is needed")
    named = [word.partition("=") for words in arguments.benchmark for word in words.split(",")]
    asked = {name: source for name, _, source in named}
    modes = [mode for words in arguments.mode or [] for mode in words.split(",")]
    if len(asked) < len(named) or len(set(modes)) < len(modes):
        raise HartError("a benchmark or mode is named twice")
    _quiet_libraries()
    from hart_lite.eval_run import run_eval
    from hart_lite.eval_settings import EvalSettings

    same = ("as_published", "prompt", "limit", "strict", "full_pixels", "crop_pixels", "max_tokens", "quant", "device",
            "frame")  # fmt: skip
    chosen = {name: getattr(arguments, name) for name in same} | ({"modes": tuple(modes)} if modes else {})
    out = arguments.out or Path("runs/eval") / "".join(c if c.isalnum() or c in ".-_" else "-" for c in arguments.model)
    report = run_eval(arguments.model, EvalSettings(asked, **chosen), out)
    print(f"\n{report.table}\n\nevaluation: {out}")
    if report.bad:
        print(f"{report.bad} rows could not be asked; {out / 'bad_rows.jsonl'} says why")
    for reason, count in report.failures.most_common(5):
        print(f"hart-lite: {count} without an answer: {reason}", file=sys.stderr)
    if report.missing:
        print(
            f"hart-lite: {report.missing} answers are missing; run the same command again to ask for them",
            file=sys.stderr,
        )
    return 1 if report.missing else 0


def compare(arguments: argparse.Namespace) -> int:
    """Pair two evaluations question by question: how far they differ in answers and boxes, and whether that could be
    chance."""
    from hart_lite.compare import compare_text

    print(compare_text(arguments.a, arguments.b), end="")
    return 0


def table(arguments: argparse.Namespace) -> int:
    """Print the paper's tables 1 to 8 with our evaluations beside its rows, which are marked as the paper's, and with
    what is known of where each figure comes from."""
    from hart_lite.tables import NUMBERS, write_tables

    print(write_tables(arguments.runs, NUMBERS if arguments.number is None else [arguments.number], arguments.out))
    return 0


def gallery(arguments: argparse.Namespace) -> int:
    """Write a page of questions with their boxes, crops and answers, grouped by what was right, and the curve of
    grounding over IoU thresholds. The images are read where the evaluation read them."""
    from hart_lite.curves import write_iou_curve
    from hart_lite.eval_questions import images_of
    from hart_lite.gallery import write_gallery
    from hart_lite.predictions import read_evaluation

    evaluation = read_evaluation(arguments.folder)
    page = write_gallery(arguments.folder, images_of(evaluation.settings), arguments.limit)
    print(f"gallery: {page}")
    if any("grounding" in row for row in evaluation.rows):
        curve = arguments.folder / "iou_curve.png"
        write_iou_curve([arguments.folder], curve)
        print(f"curve: {curve}")
    return 0


def list_benchmarks(arguments: argparse.Namespace) -> int:
    """List the benchmarks with size, licence and source, and what is known of the paper's figures on each."""
    from hart_lite.benchmarks.listing import listing

    print(listing())
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
