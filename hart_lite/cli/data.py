"""data check, data convert and toy-data: rows to train and evaluate on."""

from __future__ import annotations

import argparse
from pathlib import Path

from hart_lite.cli import columns
from hart_lite.utils.text import printable


def add(commands: argparse._SubParsersAction) -> None:
    data = commands.add_parser("data", help="look at data sets", description="Work with data sets.")
    actions = data.add_subparsers(title="actions", metavar="ACTION", required=True)
    command = actions.add_parser("check", help="read a data set and name every bad row", description=data_check.__doc__)
    command.add_argument("source", help=".jsonl, .json, .csv or .parquet file, folder of parquet, or Hub data set")
    command.add_argument("--format", default="auto", help="auto, jsonl, parquet, hub or mme_realworld")
    columns.add(command)
    command.add_argument("--split", help="split of a Hub data set")
    command.add_argument("--image-dir", help="where relative image paths start")
    command.add_argument("--preview", type=Path, help="draw a sheet of questions and boxes to this PNG")
    command.set_defaults(run=data_check)

    command = actions.add_parser(
        "convert", help="other layouts to rows: LLaVA, MGPO, COCO, CSV, ..", description=data_convert.__doc__
    )
    command.add_argument("source", help="the file (for csv: or its folder; for llava, mgpo: or a Hub data set)")
    command.add_argument("out", metavar="OUT", help="a new folder; it receives rows.jsonl")
    command.add_argument("--format", required=True, help="rows (our own), llava, sharegpt, mgpo, coco, csv or "
                         "mme_realworld")  # fmt: skip
    command.add_argument("--image-dir", help="where relative image paths start, unless beside the source")
    columns.add(command)
    command.add_argument("--split", help="split of a Hub data set")
    command.add_argument("--question", help='coco: what to ask where nothing is, e.g. "Where is the {category}?"')
    command.add_argument("--category-answer", action="store_true", help="coco: the category is the answer")
    command.add_argument("--lite", help="mme_realworld: JSON of the Lite benchmark, which is left out")
    command.add_argument("--boxes", help="rows, coco: what the numbers of boxes are, unless pixels: xywh, unit, "
                         "unit-padded or relative-1000")  # fmt: skip
    command.add_argument("--copy-images", action="store_true", help="copy image files into OUT")
    command.set_defaults(run=data_convert)

    command = commands.add_parser("toy-data", help="draw the toy data to disk", description=toy_data.__doc__)
    command.add_argument("out", metavar="OUT", help="a new folder; it receives rows.jsonl and images")
    command.add_argument("--scenes", type=int, default=200, help="pictures to draw, with two questions each")
    command.add_argument("--seed", type=int, default=0, help="another seed, other scenes")
    command.set_defaults(run=toy_data)


def data_check(arguments: argparse.Namespace) -> int:
    """Read a whole data set, decode every image once, and print each bad row with its line and reason.

    Writes nothing but the preview. The exit code is 1 when a row is bad.
    """
    from hart_lite.data.check import check_dataset, format_report

    report = check_dataset(
        arguments.source,
        format=arguments.format,
        columns=columns.read(arguments),
        split=arguments.split,
        image_dir=arguments.image_dir,
        preview=arguments.preview,
    )
    print(printable(format_report(report)))
    return 0 if report.ok else 1


def data_convert(arguments: argparse.Namespace) -> int:
    """Turn a data set of another layout into OUT/rows.jsonl; each row that is dropped is named in OUT/dropped.txt.

    Images stay where they are and are named relative to OUT, unless they are copied. On an error nothing is written.
    """
    from hart_lite.data.convert import convert, format_conversion

    names = ("image_dir", "split", "question", "category_answer", "lite", "boxes", "copy_images")
    options = {name: getattr(arguments, name) for name in names}
    options["columns"] = columns.read(arguments)
    print(printable(format_conversion(convert(arguments.source, arguments.out, arguments.format, **options))))
    return 0


def toy_data(arguments: argparse.Namespace) -> int:
    """Draw scenes of the toy data as PNG files, with questions, answers and boxes in OUT/rows.jsonl."""
    from hart_lite.toy.export import write_toy_data

    print(write_toy_data(arguments.out, arguments.scenes, arguments.seed))
    return 0
