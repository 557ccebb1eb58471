"""`hart-lite init`: a recipe that loads, fits and says what it does; without a terminal a missing flag is named."""

import io
import sys
from pathlib import Path

import pytest
import yaml
from docs_place import make_files

from hart_lite.cli import main as cli
from hart_lite.config.recipe import load_recipe
from hart_lite.perf.memory_plan import plan
from hart_lite.perf.model_sizes import Dimensions
from hart_lite.perf.plan_values import usable


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    make_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return tmp_path


def run(*words: str, capsys) -> tuple[int, str, str]:
    code = cli.main(["init", *words])
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("card", "gb", "base"),
    [
        ("T4", 16, "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("12", 12, "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("24 GB", 24, "OpenGVLab/InternVL3-8B-hf"),
        ("A100", 40, "Qwen/Qwen2.5-VL-72B-Instruct"),
    ],
)
def test_what_is_written_fits_the_card_or_is_refused(place, capsys, card, gb, base):
    code, out, err = run("--card", card, "--data", "my/rows.jsonl", "--base", base, "--out", "mine.yaml", capsys=capsys)
    if "72B" in base:
        assert code == 1 and "does not fit a card of 40 GB" in err and not Path("mine.yaml").exists()
        return
    assert code == 0, err
    recipe = load_recipe("mine.yaml")
    assert (recipe.model.base, recipe.data.train, recipe.name) == (base, "my/rows.jsonl", "mine")
    worst = plan(recipe, Dimensions.of(base))
    assert worst.peak <= usable(gb) and not worst.problems
    assert f"peak, computed: {worst.peak / 2**30:.1f} GiB" in out
    assert [line.strip() for line in out.split("next:\n")[1].splitlines()] == [
        "hart-lite plan mine.yaml",
        "hart-lite train mine.yaml",
        "hart-lite demo runs/mine",
    ]


def test_every_key_stands_below_what_it_means(place, capsys):
    assert run("--card", "T4", "--data", "my/rows.jsonl", "--eval", "my/rows.jsonl", capsys=capsys)[0] == 0
    lines = Path("rows.yaml").read_text().splitlines()
    assert yaml.safe_load("\n".join(lines))["stages"][1]["kind"] == "sft"
    keys = [n for n, line in enumerate(lines) if ": " in line and not line.lstrip().startswith("#")]
    assert len(keys) > 12
    for n in keys:
        assert lines[n - 1].lstrip().startswith("# "), lines[n]


def test_few_questions_are_not_asked_a_hundred_times(place, capsys):
    assert run("--card", "L4", "--data", "my/rows.jsonl", capsys=capsys)[0] == 0
    recipe = load_recipe("rows.yaml")
    [rl] = [stage for stage in recipe.stages if stage.kind == "rl"]
    asked = rl.steps * rl.questions_per_step
    rows = len(Path("my/rows.jsonl").read_text().splitlines())
    assert rl.questions_per_step <= rows and asked <= 3 * rows + rl.questions_per_step


def test_names_of_files_may_be_odd(place, capsys):
    Path("my/rows.jsonl").rename("my/odd name.jsonl")
    code, out, err = run("--card", "none", "--base", "toy", "--data", "my/odd name.jsonl", capsys=capsys)
    assert code == 0, err
    assert load_recipe("odd name.yaml").name == "odd-name"
    assert "hart-lite train 'odd name.yaml'" in out and "the toy base knows drawn shapes alone" in out


def test_without_a_card_and_with_drawn_scenes(place, capsys):
    code, out, _ = run("--card", "none", "--data", "toy", capsys=capsys)
    assert code == 0 and "in this machine's memory" in out
    recipe, shipped = load_recipe("toy.yaml"), load_recipe("tiny_cpu")
    assert recipe == shipped.model_copy(update={"name": "toy"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--card is missing, and there is no terminal to ask in"),
        (["--card", "none"], "--data is missing, and there is no terminal to ask in"),
        (["--card", "B17", "--data", "toy"], "--card 'B17': give none, auto, its memory in GB (24), or one of T4"),
        (["--card", "4", "--data", "toy"], "Qwen/Qwen2.5-VL-7B-Instruct does not fit a card of 4 GB"),
        (["--card", "none", "--data", "my/bad.jsonl"], "my/bad.jsonl has 1 bad rows (above) of 2"),
        (["--card", "none", "--data", "no/such.jsonl"], "no/such.jsonl"),
        (["--card", "none", "--data", "toy", "--out", "photo.jpg"], "photo.jpg is there already"),
        (["--card", "16", "--data", "toy", "--base", "who/knows"], "the sizes of base 'who/knows' are not known here"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(place, capsys, words, message):
    good = Path("my/rows.jsonl").read_text().splitlines()[0]
    Path("my/bad.jsonl").write_text(good + '\n{"image": "images/0.png"}\n')
    before = sorted(Path().iterdir())
    code, _, err = run(*words, capsys=capsys)
    assert code == 1 and message in err
    assert sorted(Path().iterdir()) == before


def test_in_a_terminal_it_asks(place, capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("16\nmy/rows.jsonl\n\n"))
    code, out, err = run(capsys=capsys)
    assert code == 0, err
    assert "Which card" in out and "Which data" in out and "Which base" in out
    assert load_recipe("rows.yaml").model.base == "Qwen/Qwen2.5-VL-7B-Instruct"
