"""README and docs/: commands run, with the toy base in place of large ones; names, options and keys exist; tables are
those on file; links lead somewhere.

A command that no test runs says why at the start of its comment: it needs a card or a network, takes minutes, or serves
until it is stopped. What `STANDS_IN` follows runs here all the same.
"""

import ast
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trl
from datasets import Dataset
from docs_place import SMALL, SMALL_TOY, make_files, toy_run
from transformers import Qwen2Config, Qwen2ForCausalLM

import hart_lite
from hart_lite.cli.main import main
from hart_lite.config.reference import reference
from hart_lite.toy.model import toy_tokenizer

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
TRAIN = {"README.md", "recipes.md", "start.md"}  # these pages train, which takes ten seconds and more
MARKS = {"card", "network", "minutes", "serves"}
STANDS_IN = "the tests run it on the toy model"


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Command:
    words: list[str]
    comment: str

    @property
    def marked(self) -> bool:
        return bool(set(re.findall(r"\w+", re.split("[:;]", self.comment)[0])) & MARKS)

    @property
    def runs_here(self) -> bool:
        return self.words[0] == "hart-lite" and (not self.marked or STANDS_IN in self.comment)


def commands(page: Path) -> Iterator[Command]:
    for line in "".join(blocks(page, "bash")).splitlines():
        words = shlex.split(line, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):  # variables of the environment
            del words[0]
        if words:
            yield Command(words, line.partition(" # ")[2])


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    make_files(folder)
    toy_run(str(folder / "runs/tiny_cpu"))
    return folder


@pytest.fixture
def place(once, tmp_path, monkeypatch) -> Path:
    """The working directory of a page, with all that it speaks of."""
    folder = shutil.copytree(once, tmp_path / "place")
    monkeypatch.chdir(folder)
    return folder


# -- what runs -----------------------------------------------------------------------------------------------------


def at_a_size_for_a_test(words: list[str]) -> list[str]:
    if words[0] == "train" and "--resume" not in words:
        return words + (SMALL if words[1].startswith("qwen") else SMALL_TOY)
    return [*words, "--limit", "1", "--max-tokens", "8"] if words[0] == "eval" else words


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.slow] * (page.name in TRAIN))
        for page in PAGES
        if any(command.runs_here for command in commands(page))
    ],
)
def test_every_command_of_the_package_runs(page, place, capsys):
    for text in blocks(page, "python") + blocks(page, "yaml"):
        if name := re.match(r"# (my_\w+\.\w+)\n", text):
            Path(name[1]).write_text(text, encoding="utf-8")
    for words in [command.words[1:] for command in commands(page) if command.runs_here]:
        if words[:2] == ["train", "qwen7b_lora"]:
            shutil.rmtree("runs/qwen7b_lora", ignore_errors=True)  # two pages begin this run
        assert main(at_a_size_for_a_test(words)) == 0, (words, capsys.readouterr().err)


def test_the_page_of_the_api_runs_and_shows_every_name(place, monkeypatch, capsys, tmp_path):
    shutil.copytree("runs/tiny_cpu", "runs/damaged")
    Path("runs/damaged/summary.json").write_text('{"before": {"accuracy": 3}}')
    train = hart_lite.train
    monkeypatch.setattr("hart_lite.api.train", lambda *given, **named: train(*given, *SMALL_TOY, **named))
    monkeypatch.setattr(trl, "GRPOConfig", partial(trl.GRPOConfig, use_cpu=True, bf16=False, report_to=[]))
    page = ROOT / "docs/api.md"
    code = "\n".join(blocks(page, "python"))
    rows = Dataset.from_dict({"prompt": ["Which character is on the red square?"]})
    exec(code, {"model_name": text_model(tmp_path), "reward": all_right, "rows": rows})  # our own text
    printed = capsys.readouterr().out
    for line in blocks(page, "text")[0].splitlines():
        assert line in printed
    shown = {node.attr for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute)}
    assert set(hart_lite.__all__) <= shown


def all_right(completions: list, **_) -> list[float]:
    return [1.0] * len(completions)


def text_model(folder: Path) -> str:
    """A tiny one, untrained, in a folder as TRL loads it."""
    tokenizer = toy_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=1, eos_token_id=tokenizer.eos_token_id, **sizes)
    for part in (Qwen2ForCausalLM(config), tokenizer):
        part.save_pretrained(folder)
    return str(folder)


def test_the_row_in_the_readme_is_one_the_reader_knows(place):
    row = json.loads(blocks(README, "json")[0])
    shutil.copy("my/images/0.png", Path("my") / row["image"])
    row["boxes"] = [[1, 2, 30, 40]]  # the scene is smaller than the photo of the example
    Path("my/row.jsonl").write_text(json.dumps(row))
    assert main(["data", "check", "my/row.jsonl"]) == 0


# -- what does not run here, and what is only spoken of ------------------------------------------------------------


def help_of(capsys, *command: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0, command
    return capsys.readouterr().out


def test_a_command_that_no_test_runs_is_marked_and_has_options_that_exist(capsys):
    targets = set(re.findall(r"^([\w-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    others = [(page.name, c) for page in PAGES for c in commands(page) if not c.runs_here]
    assert len(others) > 5
    for page, command in others:
        program, *words = command.words
        assert command.marked or (program == "make" and words[0] in targets), (page, command)
        if program == "hart-lite":
            known = help_of(capsys, words[0])
            assert [word for word in words if word.startswith("--") and word not in known] == [], (page, command)
        if [program, words[0]] == ["hart-lite", "train"]:
            hart_lite.load_recipe(words[1], words[2:])


def test_commands_spoken_of_exist(capsys):
    listed = re.findall(r"^    ([a-z-]+)(?: |$)", help_of(capsys), re.MULTILINE)
    for page in PAGES:
        spoken = set(re.findall(r"`hart-lite ([a-z-]+)", text_of(page)))
        assert spoken <= set(listed), (page.name, spoken - set(listed))
    spoken = {name for page in PAGES for name in re.findall(r"`make ([a-z-]+)", text_of(page))}
    targets = re.findall(r"^([\w -]+):(?!=)", text_of(ROOT / "Makefile"), re.MULTILINE)
    assert {"train", "test"} <= spoken <= set(" ".join(targets).split())


def test_keys_spoken_of_exist():
    known, section = set(), ""
    for line in reference().splitlines():
        if head := re.match(r"## `([\w.]+)`", line):
            section = head[1]
        elif key := re.match(r"\| `(\w+)` \|", line):
            known.add(f"{section}.{key[1]}")
    spoken = [
        span
        for page in PAGES
        for span in re.findall(r"`((?:model|data|rollout|pixels|evaluate|prompts|stages)\.[^`/]+)`", text_of(page))
    ]
    assert len(spoken) > 20
    for span in spoken:
        key, equals, _ = span.partition("=")
        assert re.sub(r"^stages\.\d", "stages", key) in known, span
        if equals:
            hart_lite.load_recipe("qwen7b_lora", [span])


def test_links_lead_somewhere():
    for page in [*PAGES, ROOT / "recipes/README.md"]:
        for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
            path, _, anchor = target.partition("#")
            place = (page.parent / path) if path else page
            assert place.exists(), (page.name, target)
            heads = re.findall(r"^#+ (.*)", text_of(place), re.MULTILINE) if anchor else []
            anchors = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
            assert not anchor or anchor in anchors, (page.name, target)


def test_files_spoken_of_exist():
    for page in PAGES:
        for name in re.findall(r"`((?:hart_lite|tests|experiments|notebooks|recipes)/[\w./-]+)`", text_of(page)):
            assert (ROOT / name).exists(), (page.name, name)


def test_every_page_is_linked_from_the_readme_which_is_short():
    text = text_of(README)
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in text] == []
    assert len(text) <= 12_000


# -- tables are those on file --------------------------------------------------------------------------------------


def test_the_tables_of_the_methods_are_those_that_were_measured():
    text, measured = text_of(ROOT / "docs/measured.md"), text_of(ROOT / "experiments/results/methods.md")
    tables = [part for part in measured.split("\n\n") if part.startswith("| method")]
    assert [table in text for table in tables] == [True, True, False, False, False, False]  # after RL
    command = re.search(r"`(python -m experiments.methods[^`]+)`", text)[1]
    assert f"`{command}`" in measured


def test_the_table_of_a_step_is_the_one_that_was_measured():
    measured = text_of(ROOT / "experiments/results/bench-cpu.md")
    shown = measured.split("**What the ratios are held against**")[0].strip()
    assert "**Targets**" in shown and shown in text_of(ROOT / "docs/measured.md")


def test_the_reliability_table_is_the_one_that_was_measured():
    measured = text_of(ROOT / "experiments/results/reliability.md")
    table = measured[measured.index("| check") :].strip()
    assert table in text_of(ROOT / "docs/promises.md")
    assert "FAILED" not in table and table.count("| passed |") == len(table.splitlines()) - 2


def test_figures_of_a_card_are_those_on_file():
    measured = text_of(ROOT / "experiments/results/card-h200.md")
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|[^|]*\|$", measured, re.MULTILINE)
    shown = text_of(ROOT / "docs/card.md")
    for what, first, now in [row for row in rows if row[0].endswith((", s", ", GiB"))]:
        assert f"| {what} | {first} | {now} |" in shown
    seconds = next(now for what, _, now in rows if "CUDA graph" in what)
    assert f"took {seconds} s and" in text_of(README)
