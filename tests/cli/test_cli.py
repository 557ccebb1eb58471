"""The command line: quick, clear, and never a traceback for what a user can get wrong."""

import errno
import json
import logging
import os
import re
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image
from small_runs import make_up, rl_stage, small_recipe

from hart_lite.cli import main as cli
from hart_lite.config.recipe import dump_recipe, load_recipe
from hart_lite.config.resources import shipped_recipes
from hart_lite.training import train as training

HEAVY = ("torch", "PIL", "transformers", "trl", "peft", "datasets", "numpy", "accelerate", "bitsandbytes")


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def run(*words, capsys) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_help_takes_less_than_a_second_of_the_processor():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "hart_lite.cli.main", "--help"], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert "hart-lite train tiny_cpu" in done.stdout
    assert 0 < after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_no_words_at_all_get_the_help(capsys):
    code, out, _ = run(capsys=capsys)
    assert code == 0
    assert out.startswith("usage: hart-lite") and "hart-lite train tiny_cpu" in out


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"hart-lite {version('hart-lite')}\n"


def test_a_missing_photo_is_named_in_half_a_second_of_the_processor_without_torch():
    code = (
        "import sys; from hart_lite.cli.main import main; code = main(['ask', 'nowhere.jpg', 'What?'])\n"
        "print(code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = python(code)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.split() == ["1", "False", "False"], done.stderr
    assert "nowhere.jpg: no such image file" in done.stderr
    assert 0 < after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("words", [["-q", "ask", "no.jpg", "?"], ["ask", "no.jpg", "?", "-q"]])
def test_quiet_and_verbose_go_anywhere(words, capsys, monkeypatch):
    package = logging.getLogger("hart_lite")
    monkeypatch.setattr(package, "level", package.level)  # put back afterwards
    assert run(*words, capsys=capsys)[0] == 1
    assert package.level == logging.WARNING
    assert run(*["-v" if word == "-q" else word for word in words], capsys=capsys)[0] == 1
    assert package.level == logging.DEBUG


def test_an_error_is_red_in_a_terminal_alone(capsys, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert run("ask", "no.jpg", "?", capsys=capsys)[2].startswith("hart-lite: no.jpg")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run("ask", "no.jpg", "?", capsys=capsys)[2].startswith("\x1b[31mhart-lite:\x1b[0m no.jpg")


def test_a_shell_completes_commands_options_and_recipes(tmp_path):
    def completed(line: str) -> set[str]:
        found = tmp_path / "found"
        how = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(found)}
        asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
        subprocess.run([sys.executable, "-m", "hart_lite.cli.main"], env=os.environ | how | asked, check=True)
        return {word.strip() for word in found.read_text().splitlines()}

    assert {"train", "toy-data"} <= completed("hart-lite t")
    assert "--benchmark" in completed("hart-lite eval --b")
    assert {"qwen7b_lora", "qwen7b_16gb"} <= completed("hart-lite train qwen7b")


def test_help_and_the_ground_floor_import_nothing_heavy():
    light = ("types", "boxes", "grading", "box_formats", "config.schema", "config.recipe", "config.reference")
    ground = "; ".join(f"import hart_lite.{module}" for module in light)
    loaded = f"print([m for m in {HEAVY!r} if m in sys.modules])"
    done = python(f"import sys, hart_lite; {ground}; {loaded}")
    assert done.stdout.strip() == "[]", done.stderr
    done = python(
        f"import sys; from hart_lite.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: {loaded}"
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_commands_that_need_no_model_import_no_torch(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    (tmp_path / "rows.jsonl").write_text('{"image": "a.png", "question": "What?", "answer": "x"}\n')
    commands = [["recipes"], ["data", "check", str(tmp_path / "rows.jsonl")], ["train", "tiny_cpu", "k=7"]]
    calls = "; ".join(f"main({words!r})" for words in commands)
    done = python(f"import sys; from hart_lite.cli.main import main; {calls}; print('torch' in sys.modules)")
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_the_examples_of_train_are_recipes(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  hart-lite train ")]
    assert len(lines) >= 4
    for _, _, name, *overrides in lines:
        if "--resume" not in overrides:
            assert load_recipe(name, overrides).name == name


def test_recipes_are_listed_with_what_they_say_of_themselves(capsys):
    code, out, _ = run("recipes", capsys=capsys)
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == [path.stem for path in shipped_recipes()]
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines)


# -- what a user can get wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "tiny_cpu", "modle.dtype=float32"], "unknown key modle; did you mean model?"),
        (["train", "tiny_cpu", "stages.0.step=3"], "unknown key stages.0.step; did you mean stages.0.steps?"),
        (["train", "tiny_cpu", "lr=1e-3"], "unknown key lr; lr lives at stages.N(rl).lr and stages.N(sft).lr"),
        (["train", "tiny_cpu", "k=7"], "k = 7: should be less than 1"),
        (["train", "tiny_cpu", "beta=0"], "stages.0: objective = 'ap_grpo' with beta = 0 has no KL to weigh"),
        (["train", "tiny_cpu", "rollout.samples=1"], "rollout.samples = 1 gives nothing to compare; use 2 or more"),
        (["train", "tiny_cpu", "stages.9.steps=3"], "'9' should be the index of an item, 0 to 2"),
        (["train", "tiny_cpu", "seed=5000000000"], "seed = 5000000000: should be less than 4294967296"),
        (["train", "tiny_gpu"], "There is no recipe 'tiny_gpu'"),
        (["train", "tiny_cpu", "data.train=no/such.jsonl"], "no/such.jsonl"),
        (["train", "tiny_cpu", "data.toy.colours=[mauve]"], "toy colours ['mauve'] are unknown"),
        (["train", "tiny_cpu", "model.base=no/such/base", "data.toy.scenes=40"], "base 'no/such/base' cannot be read"),
        (["data", "check", "no/such.jsonl"], "no/such.jsonl"),
        (["data", "check", "x.jsonl", "--column", "question"], "should look like --column question=Text"),
    ],
)
def test_a_mistake_gets_one_clear_message(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = run(*words, capsys=capsys)
    assert code == 1
    assert message in err
    assert err.count("hart-lite:") == 1


@pytest.mark.parametrize("words", [["trian", "x"], ["train"], ["train", "tiny_cpu", "--resumed"], ["recipes", "k=3"]])
def test_words_that_are_no_command_are_refused_with_the_usage(words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert "usage: hart-lite" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["k=0.3", "seed=4", "--resume"], ["--resume", "k=0.3", "seed=4"]])
def test_overrides_and_options_come_in_any_order(words, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        training, "train", lambda recipe, resume, minutes, predicted: seen.append((recipe.k, recipe.seed, resume)) or {}
    )
    code, out, _ = run("train", "tiny_cpu", *words, capsys=capsys)
    assert (code, seen) == (0, [(0.3, 4, True)])
    assert "run directory: runs/tiny_cpu" in out


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_full_or_closed_disk_gets_one_line(number, monkeypatch, capsys):
    def fail(recipe, resume, minutes, predicted):
        raise OSError(number, "No room", "runs/x/metrics.jsonl")

    monkeypatch.setattr(training, "train", fail)
    code, _, err = run("train", "tiny_cpu", capsys=capsys)
    assert code == 1
    assert "No room: runs/x/metrics.jsonl; what was saved is intact" in err


def test_a_reader_that_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "hart_lite.cli.main", "plan", "qwen7b_lora"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # long before it prints
    assert process.stderr.read() == b""
    assert process.wait() == 1


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    def stop(recipe, resume, minutes, predicted):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stop)
    code, _, err = run("train", "tiny_cpu", capsys=capsys)
    assert code == 130
    assert "--resume" in err


# -- data check ----------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path) -> Path:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.png")
    good = {"image": "a.png", "question": "What?", "choices": ["x", "y"], "answer": "B", "boxes": [[1, 1, 20, 20]]}
    (tmp_path / "good.jsonl").write_text(json.dumps(good) + "\n")
    bad = [good, good | {"answer": "E"}, good | {"boxes": [[1, 1, 99, 20]]}, good | {"image": "b.png"}]
    lines = [json.dumps(row) for row in bad] + ["{"]
    (tmp_path / "bad.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "empty.jsonl").write_text("")
    return tmp_path


def test_a_good_data_set_is_said_to_be_one_and_nothing_is_written(rows, capsys):
    before = sorted(rows.iterdir())
    code, out, _ = run("data", "check", rows / "good.jsonl", capsys=capsys)
    assert code == 0
    assert "1 of 1 rows are good" in out
    assert sorted(rows.iterdir()) == before


def test_every_bad_row_is_printed_with_its_line_and_reason(rows, capsys):
    code, out, _ = run("data", "check", rows / "bad.jsonl", capsys=capsys)
    assert code == 1
    assert "1 of 5 rows are good" in out
    for line, reason in ((2, "'E'"), (3, "outside its image of 60 x 40"), (4, "b.png"), (5, "JSON")):
        [said] = [text for text in out.splitlines() if f"line {line}:" in text or f":{line}:" in text]
        assert reason in said
    assert run("data", "check", rows / "empty.jsonl", capsys=capsys)[0] == 1


def test_a_preview_is_drawn_where_asked_or_refused_by_name(rows, capsys):
    code, _, _ = run("data", "check", rows / "good.jsonl", "--preview", rows / "sheet.png", capsys=capsys)
    assert code == 0
    assert Image.open(rows / "sheet.png").size[0] > 60
    nowhere = rows / "none" / "sheet.png"
    code, _, err = run("data", "check", rows / "good.jsonl", "--preview", nowhere, capsys=capsys)
    assert code == 1
    assert str(nowhere) in err


# -- the real command ----------------------------------------------------------------------------------------------


def test_training_prints_the_table_and_the_place(tiny_base, tmp_path, monkeypatch, capsys, caplog):
    make_up(monkeypatch.setattr)
    caplog.set_level(logging.INFO)  # as the command sets it, where pytest has not set up the root logger before it
    dump_recipe(small_recipe(tiny_base, tmp_path / "run", [rl_stage(steps=1)]), tmp_path / "mine.yaml")
    code, out, err = run("train", tmp_path / "mine.yaml", capsys=capsys)
    assert code == 0
    assert "| before | after-1-rl |" in out
    assert f"run directory: {tmp_path / 'run'}" in out
    assert re.search(r"left in the run, reward \d", err)  # the bar carries the figures
    begun = rf"run {re.escape(str(tmp_path / 'run'))}; \d+ questions for RL, 0 for SFT, 4 held out; "
    assert re.search(begun + r"[\d,]+ of [\d,]+ parameters are trained; peak [\d.]+ GiB by the plan\n", caplog.text)
    assert "text_config" not in caplog.text
    code, _, err = run("train", tmp_path / "mine.yaml", capsys=capsys)
    assert code == 1
    assert "already holds a run; add --resume" in err
