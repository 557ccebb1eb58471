"""ask, demo, report, watch: use a model on a photo, in a terminal or on a page; look at a run."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hart_lite.cli.ask_output import draw, lines, record
from hart_lite.errors import HartError
from hart_lite.utils.libraries import quiet_libraries
from hart_lite.utils.text import printable, shown

if TYPE_CHECKING:
    from hart_lite.inference.load import OpenModel

NO_MODEL = (
    "hart-lite: no --model given, so the toy base answers: it knows the scenes of `hart-lite toy-data`, and "
    "nothing of photos. For those: --model Qwen/Qwen2.5-VL-7B-Instruct --quant nf4"
)
EXAMPLES = """examples:
  hart-lite ask street.jpg "What does the red sign say?" --model runs/qwen7b_lora
  hart-lite ask street.jpg "Which is it?" --choices STOP,SLOW,EXIT --model Qwen/Qwen2.5-VL-7B-Instruct --quant nf4
  hart-lite ask street.jpg "Who?" --choices "Smith, John" --choices "Doe, Jane" --model runs/qwen7b_lora
  hart-lite ask street.jpg - --json --model runs/qwen7b_lora < questions.txt
  hart-lite ask photos/ a.jpg "Is there a bicycle?" --json --model runs/qwen7b_lora
"""


def add(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "ask",
        help="ask about a photo: answer, boxes, picture",
        description=inspect.cleandoc(ask.__doc__),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("image", metavar="IMAGE", help="the file of a photo, or a folder of photos")
    command.add_argument("questions", nargs="+", metavar="QUESTION", help="one or more; - reads one a line from stdin; "
                         "words before the first question that name files or folders are photos, too")  # fmt: skip
    command.add_argument("--choices", action="append", default=[], metavar="A,B,..",
                         help="what to choose from; given several times, each is one, commas and all")  # fmt: skip
    command.add_argument("--model", help="run directory, adapter, checkpoint, Hub id, `toy` or api:NAME; "
                         "default: toy")  # fmt: skip
    command.add_argument("--mode", default="full+crops", help="full+crops (default), crops, full, mgpo, deepeyes or "
                         "pixel-reasoner")  # fmt: skip
    command.add_argument("--json", action="store_true", help="one JSON object a question; a picture only with --out")
    command.add_argument("--out", type=Path, metavar="PICTURE", help="where the picture goes; default: a new name here")
    command.add_argument("--quant", choices=("none", "nf4"), help="4-bit weights, where no recipe says")
    command.add_argument("--device", choices=("auto", "cpu", "cuda"))
    command.add_argument("--base-path", type=Path, metavar="DIR", help="where the model's base is now, if it has moved")
    command.add_argument("--box-format", choices=("absolute", "relative"), default="absolute",
                         help="how an api: model writes boxes: pixels of the image it is sent, or 0-1000")  # fmt: skip
    command.set_defaults(run=ask)

    command = commands.add_parser(
        "demo", help="ask about photos on a page, base beside trained", description=inspect.cleandoc(demo.__doc__)
    )
    command.add_argument("model", nargs="?", metavar="MODEL", help="as for ask: run directory, adapter, checkpoint, "
                         "Hub id, `toy` or api:NAME; default: toy")  # fmt: skip
    command.add_argument("--port", type=_port, help="default: the first free one from 7860")
    command.add_argument("--quant", choices=("none", "nf4"), help="4-bit weights, where no recipe says")
    command.add_argument("--device", choices=("auto", "cpu", "cuda"))
    command.add_argument("--base-path", type=Path, metavar="DIR", help="where the model's base is now, if it has moved")
    command.set_defaults(run=demo)

    command = commands.add_parser("report", help="a run or an evaluation as one page", description=report.__doc__)
    command.add_argument("folder", type=Path, metavar="RUN", help="a run directory, or the folder of an evaluation")
    command.set_defaults(run=report)

    command = commands.add_parser(
        "watch", help="a run's page while it trains", description=inspect.cleandoc(watch.__doc__)
    )
    command.add_argument("folder", type=Path, metavar="RUN", help="a run directory")
    command.add_argument("--every", type=_seconds, default=30, metavar="SECONDS", help="how often to look; default: 30")
    command.set_defaults(run=watch)


def ask(arguments: argparse.Namespace) -> int:
    """Ask questions about photos: where the model looked, what it answered, and a picture of both.

    Boxes are pixels of the upright photo: left, top, right, bottom. The exit code is 1 when a server did not answer.
    """
    from hart_lite.data.images import ImageFile

    words = list(arguments.questions)
    photos = [photo for word in _named_photos(arguments.image, words) for photo in _photos(word)]
    for photo in photos:  # before anything heavy is imported
        ImageFile(photo).load()
    from hart_lite.inference.ask import check
    from hart_lite.inference.load import TOY_WARNING, open_model
    from hart_lite.report.answer_picture import picture_places

    questions, choices = list(_questions(words)), _choices(arguments.choices)
    check(questions, choices, arguments.mode)
    if arguments.out is not None:
        picture_places(photos, arguments.out, len(photos) * len(questions))  # raises for a place that cannot be
    if arguments.model is None:
        print(NO_MODEL, file=sys.stderr)
    quiet_libraries()
    model = open_model(
        arguments.model or "toy",
        quant=arguments.quant,
        device=arguments.device,
        box_format=arguments.box_format,
        base_path=arguments.base_path,
    )
    if arguments.model and model.toy:
        print(f"hart-lite: {TOY_WARNING}", file=sys.stderr)
    failures: set[str] = set()
    for number in range(len(photos)):
        failures |= _ask_about(arguments, model, photos, number, questions, choices)
    for failure in sorted(failures):
        print(f"hart-lite: no answer: {printable(failure)}", file=sys.stderr)
    return 1 if failures else 0


def _ask_about(
    arguments: argparse.Namespace,
    model: OpenModel,
    photos: Sequence[Path],
    number: int,
    questions: Sequence[str],
    choices: Sequence[str],
) -> set[str]:
    """All questions about one of the photos, printed and drawn. Returns why a server did not answer."""
    from hart_lite.data.images import ImageFile
    from hart_lite.inference.ask import ask as answer
    from hart_lite.report.answer_picture import picture_places

    image, count = ImageFile(photos[number]), len(questions)
    found = answer(model, image, questions, choices, arguments.mode)
    places: Sequence[Path | None] = [None] * count
    if arguments.out is not None:
        places = picture_places(photos, arguments.out, len(photos) * count)[number * count : (number + 1) * count]
    elif not arguments.json:
        places = picture_places(photos[number : number + 1], None, count)
    if len(photos) > 1 and not arguments.json:
        print(printable(str(photos[number])))
    for asked, place in zip(found, places, strict=True):
        picture = draw(asked, image, place) if place and not asked.failure else None
        if arguments.json:
            print(json.dumps(record(arguments, photos[number], asked, image.size(), picture)), flush=True)
        else:
            print("\n".join(lines(arguments.mode, asked, image.size(), picture)), flush=True)
    return {asked.failure for asked in found if asked.failure}


def demo(arguments: argparse.Namespace) -> int:
    """A page on this machine: drop a photo, ask, and see where the model looks, what it cuts out and what it answers;
    the base beside what was trained on it. Only this machine reaches it, and it reaches no other."""
    from importlib.util import find_spec

    if not (find_spec("starlette") and find_spec("uvicorn")):
        raise HartError("the demo needs starlette and uvicorn: pip install 'hart-lite[demo]'")
    from hart_lite.demo.server import listening

    with listening(arguments.port) as listener:  # before a large model is loaded for nothing
        from hart_lite.demo.examples import find_examples
        from hart_lite.demo.server import serve
        from hart_lite.demo.session import Demo
        from hart_lite.inference.load import open_model

        quiet_libraries()
        if arguments.model is None:
            print(NO_MODEL.replace("--model", "MODEL", 1).replace("--model ", ""), file=sys.stderr)
        named = arguments.model or "toy"
        model = open_model(named, quant=arguments.quant, device=arguments.device, base_path=arguments.base_path)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl+C does
        serve(Demo(model, find_examples(model)), _who(model.name, "adapter" in model.weights), listener)
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Write RUN/report.html: what was run, what came of it, curves, the boxes over time, and what to look out for. One
    file that needs nothing else. A run that was killed or still goes on is reported as far as it got; training writes
    the page at its end."""
    from hart_lite.report.run_report import write_report

    print(f"report: {write_report(arguments.folder)}")
    return 0


def watch(arguments: argparse.Namespace) -> int:
    """Write RUN/report.html anew while the run goes on, each time that it has got further, until it is finished. A
    browser that shows the page reads it again by itself."""
    from hart_lite.report.watch import watch as follow

    for line in follow(arguments.folder, arguments.every):
        print(line, flush=True)
    return 0


def _port(word: str) -> int:
    number = int(word)
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{number} is no port; allowed: 1 to 65535")
    return number


def _seconds(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: at least 1 second is needed")
    return number


def _who(model: str, trained: bool) -> str:
    """Who answers, as the page says it."""
    return f"{model} answers" + (", beside its base: the same weights without the adapter." if trained else ".")


def _named_photos(first: str, words: list[str]) -> list[str]:
    """The first word and those after it that name files or folders; they are taken out of `words`. One word stays: it
    is the question, whatever is called so."""
    named = [first]
    while len(words) > 1 and os.path.exists(words[0]):
        named.append(words.pop(0))
    return named


def _photos(word: str) -> list[Path]:
    """The photo that a word names, or those in the folder that it names, by name."""
    if not word.strip():
        raise HartError("IMAGE is empty; give the file of a photo")
    if "://" in word:
        raise HartError(f"{shown(word)} is an address, and nothing is fetched: download the photo and give its file")
    if not os.path.isdir(word):
        return [Path(word)]
    from PIL import Image

    readable = Image.registered_extensions()
    found = sorted(path for path in Path(word).iterdir() if path.suffix.lower() in readable and path.is_file())
    if not found:
        raise HartError(f"there is no photo in the folder {word}; give a file, or a folder with .jpg or .png files")
    return found


def _questions(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        if word != "-":
            yield word
            continue
        try:
            lines = [line.removesuffix("\r") for line in sys.stdin.buffer.read().decode("utf-8-sig").split("\n")]
        except UnicodeDecodeError as error:
            raise HartError(f"the questions on standard input are no text in UTF-8: {error}") from error
        if not any(line.strip() for line in lines):
            raise HartError("standard input holds no question; give one a line")
        yield from (line for line in lines if line.strip())


def _choices(words: Sequence[str]) -> list[str]:
    return [word.strip() for word in (words[0].split(",") if len(words) == 1 else words)]
