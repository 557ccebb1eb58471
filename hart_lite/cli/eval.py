"""eval, benchmarks, compare, table, gallery: what a model can, and how sure that is."""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path

from hart_lite.cli import columns
from hart_lite.errors import HartError
from hart_lite.utils.libraries import quiet_libraries
from hart_lite.utils.terminal import fitted
from hart_lite.utils.text import printable

EXAMPLES = """examples:
  hart-lite eval runs/tiny_cpu --benchmark toy=scenes=40 --mode full,crops,full+crops,mgpo
  hart-lite eval toy --benchmark rows=my/rows.jsonl --limit 20
  hart-lite eval Qwen/Qwen2.5-VL-7B-Instruct --benchmark rows=my/rows.jsonl --mode deepeyes --as-published
  OPENAI_API_KEY=.. hart-lite eval api:gpt-4o --benchmark rows=my/rows.jsonl --box-format relative

An evaluation that was stopped goes on when it is run again.
"""


def add(commands: argparse._SubParsersAction) -> None:
    _add_eval(commands)
    _add_evaluations(commands)
    command = commands.add_parser("benchmarks", help="list the benchmarks", description=list_benchmarks.__doc__)
    command.set_defaults(run=list_benchmarks)


def _add_eval(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "eval",
        help="answer benchmarks with a model",
        description=inspect.cleandoc(evaluate.__doc__),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "model",
        help="run directory, adapter, checkpoint, Hub id, `toy`, or api:NAME (OPENAI_BASE_URL, .._API_KEY)",
    )
    several = {"action": "append", "metavar": "NAME[,NAME..]"}
    command.add_argument(
        "--benchmark", required=True, **several, help="NAME or NAME=SOURCE; see `hart-lite benchmarks`"
    )
    columns.add(command)
    command.add_argument("--mode", **several, help="full, crops, full+crops (these by default), crops-noise, "
                         "crops-control, mgpo, deepeyes, pixel-reasoner")  # fmt: skip
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
    command.add_argument(
        "--min-pixels", type=int, metavar="N", help="fewest pixels of either: smaller ones are enlarged"
    )
    command.add_argument("--max-tokens", type=int, metavar="N", help="longest response")
    command.add_argument(
        "--quant", choices=("none", "nf4"), help="4-bit weights, where the model's recipe does not say"
    )
    command.add_argument("--device", choices=("auto", "cpu", "cuda"))
    command.add_argument("--base-path", type=Path, metavar="DIR", help="where the model's base is now, if it has moved")
    command.add_argument("--family", choices=("qwen2_5_vl", "internvl3", "llava_onevision"),
                         help="of an api: model whose name does not say")  # fmt: skip
    command.add_argument("--box-format", choices=("absolute", "relative"),
                         help="of any other api: model: pixels of the image it is sent, or 0-1000")  # fmt: skip
    command.set_defaults(run=evaluate, go_on="the same command goes on where it was")


def _add_evaluations(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("compare", help="two evaluations, question by question", description=compare.__doc__)
    command.add_argument("a", type=Path, metavar="A", help="folder of an evaluation")
    command.add_argument("b", type=Path, metavar="B", help="another of the same benchmarks; differences are B - A")
    command.set_defaults(run=compare)

    command = commands.add_parser(
        "paper-table", help="the paper's tables with ours beside", description=paper_table.__doc__
    )
    command.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="evaluations; run directories for table 8")
    command.add_argument("--number", type=int, metavar="N", help="1 to 8; default: all")
    command.add_argument("--out", type=Path, metavar="DIR", help="write Markdown and CSV here, too")
    command.set_defaults(run=paper_table)

    command = commands.add_parser(
        "box-format", help="what the numbers of a model's boxes mean", description=box_format.__doc__
    )
    command.add_argument("model", help="toy, a Hub id, or a folder with a checkpoint")
    command.add_argument(
        "rows", help="questions with boxes: .jsonl, .json, .csv, .parquet, folder of parquet, or Hub data set"
    )
    columns.add(command)
    command.add_argument("--limit", type=int, default=200, help="how many rows are asked, drawn with a seed")
    command.add_argument("--pixels", type=int, help="budget of pixels of the image, as pixels.full")
    command.add_argument("--quant", choices=("none", "nf4"), default="none", help="nf4: 4-bit weights")
    command.add_argument("--json", action="store_true", help="print everything as JSON")
    command.set_defaults(run=box_format)

    command = commands.add_parser("gallery", help="look at an evaluation", description=gallery.__doc__)
    command.add_argument("folder", type=Path, metavar="EVAL", help="folder of an evaluation")
    command.add_argument("--limit", type=int, default=24, metavar="N", help="questions of each outcome; default: 24")
    command.add_argument("--before", type=Path, metavar="EVAL", help="an earlier evaluation, to show beside this one; "
                         "default: for one in RUN/evaluation, the one before training")  # fmt: skip
    command.set_defaults(run=gallery)


def evaluate(arguments: argparse.Namespace) -> int:
    """Answer the questions of benchmarks with a model, in every mode, and grade the answers.

    Each answer is written at once, with its turns and boxes. The exit code is 1 when a server failed to answer some.
    """
    pixels = ("full_pixels", "crop_pixels", "min_pixels")
    for name, least in (("limit", 1), *((name, 784) for name in pixels), ("max_tokens", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise HartError(f"--{name.replace('_', '-')} {value}: at least {least} is needed")
    named = [word.partition("=") for words in arguments.benchmark for word in words.split(",")]
    asked = {name: source for name, _, source in named}
    modes = [mode for words in arguments.mode or [] for mode in words.split(",")]
    if len(asked) < len(named) or len(set(modes)) < len(modes):
        raise HartError("a benchmark or mode is named twice")
    quiet_libraries()
    from hart_lite.eval.evaluator import evaluate_benchmarks
    from hart_lite.eval.results import is_finished
    from hart_lite.eval.settings import EvalSettings
    from hart_lite.report.eval_report import write_evaluation_page

    same = (*pixels, "as_published", "prompt", "limit", "strict", "max_tokens", "quant", "device", "box_format",
            "family")  # fmt: skip
    chosen = (
        {"columns": columns.read(arguments)}
        | {name: getattr(arguments, name) for name in same}
        | ({"modes": tuple(modes)} if modes else {})
    )
    out = arguments.out or Path("runs/eval") / "".join(c if c.isalnum() or c in ".-_" else "-" for c in arguments.model)
    settings = EvalSettings(benchmarks=asked, **chosen)
    result = evaluate_benchmarks(arguments.model, settings, out, arguments.base_path)
    if is_finished(out):  # else there is no answer, and below it says why
        write_evaluation_page(out)
    print("\n".join(["", fitted(result.table), "", *map(printable, result.notes), f"evaluation: {out}"]))
    if result.bad:
        print(f"{result.bad} rows could not be asked; {out / 'bad_rows.jsonl'} says why")
    for reason, count in result.failures.most_common(5):
        print(f"hart-lite: {count} without an answer: {printable(reason)}", file=sys.stderr)
    if result.missing:
        print(
            f"hart-lite: {result.missing} answers are missing; run the same command again to ask for them",
            file=sys.stderr,
        )
    return 1 if result.missing else 0


def compare(arguments: argparse.Namespace) -> int:
    """Pair two evaluations question by question: how far they differ in answers and boxes, and whether that could be
    chance."""
    from hart_lite.eval.compare import compare as compared
    from hart_lite.eval.compare import compare_text
    from hart_lite.eval.results import read_evaluation

    print(fitted(compare_text(compared(read_evaluation(arguments.a), read_evaluation(arguments.b)))), end="")
    return 0


def paper_table(arguments: argparse.Namespace) -> int:
    """Print the paper's tables 1 to 8 with our evaluations beside its rows, which are marked as the paper's, and with
    what is known of where each figure comes from."""
    from hart_lite.report.paper_tables.tables import NUMBERS, write_tables

    text = write_tables(arguments.runs, NUMBERS if arguments.number is None else [arguments.number], arguments.out)
    print(fitted(text))
    return 0


def gallery(arguments: argparse.Namespace) -> int:
    """Write a page of questions with their boxes, crops and answers, by outcome, and the curve of grounding over IoU
    thresholds. The images are read where the evaluation read them."""
    from hart_lite.eval.questions import images_of
    from hart_lite.eval.results import read_evaluation
    from hart_lite.report.charts import write_iou_curve
    from hart_lite.report.gallery import write_gallery
    from hart_lite.runs.layout import evaluation_before

    evaluation = read_evaluation(arguments.folder)
    before = arguments.before or evaluation_before(arguments.folder)
    page = write_gallery(arguments.folder, images_of(evaluation), arguments.limit, before)
    print(f"gallery: {page}")
    if any(row.grounding for row in evaluation.rows):
        curve = arguments.folder / "iou_curve.png"
        write_iou_curve({"before": read_evaluation(before), "after": evaluation} if before else {"": evaluation}, curve)
        print(f"curve: {curve}")
    return 0


def box_format(arguments: argparse.Namespace) -> int:
    """Ask a checkpoint where things are whose boxes are known, and say which convention its numbers follow."""
    import json

    quiet_libraries()
    from hart_lite.config.sections import ModelSection
    from hart_lite.eval.box_format_probe import measure, text

    section = ModelSection(base=arguments.model, quant=arguments.quant)
    report = measure(section, arguments.rows, arguments.limit, arguments.pixels, columns=columns.read(arguments))
    print(json.dumps(report, indent=2) if arguments.json else text(report))
    return 0


def list_benchmarks(arguments: argparse.Namespace) -> int:
    """List the benchmarks with size, licence and source, and what is known of the paper's figures on each."""
    from hart_lite.eval.benchmarks.listing import listing

    print(listing())
    return 0
