"""init: a recipe for this card and these rows, which fits, with what each key means."""

from __future__ import annotations

import argparse
import inspect
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hart_lite.cli import columns
from hart_lite.errors import ConfigError, DataError, HartError
from hart_lite.utils.text import printable, shown

if TYPE_CHECKING:
    from hart_lite.config.schema import Recipe
    from hart_lite.perf.model_sizes import Dimensions

CARDS = {"T4": 16, "V100": 16, "L4": 24, "A10": 24, "3090": 24, "4090": 24, "A100": 40, "H100": 80}  # GB, at least
FOR_CARD = {0: "tiny_cpu", 1: "qwen7b_16gb", 20: "qwen7b_lora", 80: "qwen7b_80gb"}  # from so many GB
ALWAYS = ("kind", "train", "base", "steps", "questions_per_step")  # written though they are the defaults
PASSES = 3  # of RL over its questions, where there are few
EXAMPLES = """examples:
  hart-lite init                                                     asks three questions
  hart-lite init --card T4 --data my/rows.jsonl                      T4, L4, A100, .., its memory in GB, or none
  hart-lite init --card auto --data my/rows.jsonl --eval my/held_out.jsonl --out mine.yaml
  hart-lite init --card 24 --data my/rows.jsonl --base OpenGVLab/InternVL3-8B-hf --column question=Text
"""


def add(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "init",
        help="write a recipe for your card and your data",
        description=inspect.cleandoc(init.__doc__),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--card", help=f"none, auto, memory in GB, or one of {', '.join(CARDS)}")
    command.add_argument("--data", help="rows to train on: .jsonl, .json, .csv, .parquet, a Hub data set, or toy")
    command.add_argument("--base", help="toy, a Hub id, or a folder; default: the one of the card's recipe")
    command.add_argument("--eval", help="held-out rows, to measure before and after")
    columns.add(command)
    command.add_argument("--split", help="split of a Hub data set")
    command.add_argument("--image-dir", help="where relative image paths start")
    command.add_argument("--out", type=Path, metavar="RECIPE", help="the file to write; default: DATA.yaml, here")
    command.set_defaults(run=init)


def init(arguments: argparse.Namespace) -> int:
    """Write a recipe that fits: checks every row of the data, plans the memory, makes the recipe smaller where the card
    asks for it, and says what to do next.

    In a terminal it asks for what no flag says; elsewhere a flag that is missing is an error.
    """
    from hart_lite.data.rows import is_text_file

    card = memory(_answer(arguments.card, "card", "Which card: none, auto, its memory in GB, or a name such as T4?"))
    data = _answer(arguments.data, "data", "Which data: a file of rows, a Hub data set, or toy?")
    usual = next(name for least, name in reversed(FOR_CARD.items()) if card >= least)
    base = arguments.base or (_asked(f"Which base? Enter for that of {usual}:") if sys.stdin.isatty() else "")
    out = arguments.out or Path(f"{'toy' if data == 'toy' else Path(data).stem}.yaml")
    if out.exists():
        raise ConfigError(f"{out} is there already; choose another name with --out")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}; make it first")
    wanted = {"data.train": data, "data.eval": arguments.eval, "data.split": arguments.split}
    wanted |= {"data.image_dir": arguments.image_dir, "data.columns": columns.read(arguments)}
    for source in filter(None, (data, arguments.eval)):
        _check(source, arguments, named=is_text_file(source) == is_text_file(data))
    name = re.sub(r"[^\w.-]", "-", out.stem)
    recipe = fitting(usual, base, {key: value for key, value in wanted.items() if value}, name, card)
    said = next_steps(recipe, out, card)
    out.write_text(commented(recipe), encoding="utf-8")
    print(printable(said))
    return 0


def memory(card: str) -> int:
    """GB of a card as a user names it; 0 for none. Raises `ConfigError` for a card that nobody knows."""
    word = card.strip()
    if word.lower() == "none":
        return 0
    if word.lower() == "auto":
        import torch

        return round(torch.cuda.get_device_properties(0).total_memory / 10**9) if torch.cuda.is_available() else 0
    if word.upper() in CARDS:
        return CARDS[word.upper()]
    number = word.lower().removesuffix("gb").strip()
    if number.isdecimal() and 4 <= int(number) <= 1000:
        return int(number)
    raise ConfigError(f"--card {shown(card)}: give none, auto, its memory in GB (24), or one of {', '.join(CARDS)}")


def fitting(usual: str, base: str, wanted: dict[str, object], name: str, card: int) -> Recipe:
    """The shipped recipe of that base, or the card's `usual` one, with these values, as long as the data is, and made
    smaller until it fits so many GB. Raises `ConfigError` where nothing makes it fit."""
    from hart_lite.config.recipe import load_recipe
    from hart_lite.config.resources import shipped_recipes
    from hart_lite.perf.model_sizes import Dimensions
    from hart_lite.perf.plan_report import suggest, with_overrides
    from hart_lite.perf.plan_values import GIB, usable

    own = [path.stem for path in shipped_recipes() if load_recipe(path).model.base == base]
    others = usual if card or not base else "qwen7b_16gb"  # tiny_cpu's budgets are for the toy base alone
    start = load_recipe(usual if not base or usual in own else own[0] if own else others)
    changes = {"name": name, "output": "runs/{name}", "model.base": base or start.model.base} | wanted
    changes |= {"model.device": "auto", "model.dtype": "auto"} if card else {"model.device": "cpu"}
    recipe = with_overrides(start, changes)
    recipe = with_overrides(recipe, _lengths(recipe))
    if not card:
        return recipe
    dims = Dimensions.of(recipe.model.base, recipe.model.revision)
    overrides, peak = suggest(recipe, dims, usable(card))
    if peak > usable(card):
        raise ConfigError(
            f"{recipe.model.base} does not fit a card of {card} GB: {peak / GIB:.1f} GiB are needed at least, and "
            f"{usable(card) / GIB:.1f} usable; take a smaller base, such as Qwen/Qwen2.5-VL-3B-Instruct"
        )
    return with_overrides(recipe, overrides)


def _lengths(recipe: Recipe) -> dict[str, object]:
    """Steps and questions a step by how many questions there are: few are not asked a hundred times. Without questions
    for SFT (those on one image stay together) that stage is left out."""
    if recipe.data.train == "toy":
        return {}
    from hart_lite.perf.plan_report import with_overrides
    from hart_lite.runs.splits import load_splits

    changes: dict[str, object] = {}
    splits = load_splits(recipe)
    if not splits.sft:
        changes["stages"] = [stage.model_dump() for stage in recipe.stages if stage.kind == "rl"]
        recipe = with_overrides(recipe, changes)
    for n, stage in enumerate(recipe.stages):
        if stage.kind == "rl":
            at_once = min(stage.questions_per_step, len(splits.rl))
            steps = min(stage.steps, -(-PASSES * len(splits.rl) // at_once))
            changes |= {f"stages.{n}.questions_per_step": at_once, f"stages.{n}.steps": steps}
            changes[f"stages.{n}.warmup_steps"] = min(stage.warmup_steps, steps // 10)
    return changes


def commented(recipe: Recipe) -> str:
    """The recipe as YAML: what differs from the defaults, each key below what it means."""
    from pydantic import BaseModel

    def lines(section: BaseModel, indent: str) -> list[str]:
        out = []
        for key, field in type(section).model_fields.items():
            value = getattr(section, key)
            if value == field.get_default(call_default_factory=True) and key not in ALWAYS:
                continue
            out += _comment(field.description, indent)
            if isinstance(value, BaseModel):
                out += [f"{indent}{key}:", *lines(value, indent + "  ")]
            elif key == "stages":
                out += [f"{indent}{key}:", *(line for stage in value for line in item(stage, indent + "  "))]
            else:
                out.append(f"{indent}{key}: {_yaml(value)}")
        return out

    def item(stage: BaseModel, indent: str) -> list[str]:
        own = lines(stage, indent + "  ")
        first = next(n for n, line in enumerate(own) if not line.lstrip().startswith("#"))
        return [*own[:first], f"{indent}- {own[first].lstrip()}", *own[first + 1 :]]

    head = [f"# Written by `hart-lite init`: {recipe.model.base} on {recipe.data.trained_on}.",
            "# Every key and its default: `hart-lite recipes --reference`."]  # fmt: skip
    return "\n".join([*head, *lines(recipe, "")]) + "\n"


def _comment(text: str | None, indent: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text or "", 100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _yaml(value: object) -> str:
    """On one line."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def next_steps(recipe: Recipe, out: Path, card: int) -> str:
    from hart_lite.perf.memory_plan import plan
    from hart_lite.perf.model_sizes import Dimensions
    from hart_lite.perf.plan_values import GIB, usable

    dims: Dimensions = Dimensions.of(recipe.model.base, recipe.model.revision)
    peak = plan(recipe, dims).peak
    room = f" of {usable(card) / GIB:.1f} usable on a card of {card} GB" if card else ", in this machine's memory"
    said = [f"recipe: {out}", f"peak, computed: {peak / GIB:.1f} GiB{room}"]
    if recipe.data.eval is None and recipe.data.train != "toy":
        said.append("nothing is held out, so nothing will be measured before and after: give --eval ROWS, or data.eval")
    if recipe.model.base == "toy" and recipe.data.train != "toy":
        said.append("the toy base knows drawn shapes alone; photos need a base such as Qwen/Qwen2.5-VL-7B-Instruct")
    place, run = shlex.quote(str(out)), shlex.quote(str(recipe.run_dir))
    commands = [f"hart-lite plan {place}", f"hart-lite train {place}", f"hart-lite demo {run}"]
    return "\n".join([*said, "", "next:", *(f"  {command}" for command in commands)])


def _check(source: str, arguments: argparse.Namespace, named: bool) -> None:
    """Every row of it, as `data check` does; `named`: `--column` names its fields, as training has it. Raises
    `DataError` where one is bad."""
    if source == "toy":
        return
    from hart_lite.data.check import check_dataset, format_report

    theirs = columns.read(arguments) if named else None
    table = {"columns": theirs, "split": arguments.split if named else None, "image_dir": arguments.image_dir}
    report = check_dataset(source, **table)
    print(printable(format_report(report)))
    if not report.ok:
        raise DataError(f"{source} has {len(report.problems)} bad rows (above) of {report.good + len(report.problems)}")


def _answer(given: str | None, flag: str, question: str) -> str:
    if given:
        return given
    if not sys.stdin.isatty():
        raise HartError(f"--{flag} is missing, and there is no terminal to ask in: {question}")
    answer = _asked(question)
    return answer or _answer(None, flag, question)


def _asked(question: str) -> str:
    try:
        return input(f"{question} ").strip()
    except EOFError:
        raise HartError(f"no answer to: {question}") from None
