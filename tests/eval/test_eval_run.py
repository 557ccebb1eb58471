"""Whole evaluations on the toy base: the rows, what resuming leaves, bad rows, refusals."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from hart_lite.cli import main
from hart_lite.config.recipe import load_recipe
from hart_lite.errors import HartError
from hart_lite.eval.benchmarks import custom, listing, registry, toy
from hart_lite.eval.benchmarks.base import BadRow
from hart_lite.eval.evaluator import evaluate_benchmarks
from hart_lite.eval.questions import Question, batches_by_image, images_of, read_questions
from hart_lite.eval.results import read_evaluation
from hart_lite.eval.settings import EvalSettings, setting_of
from hart_lite.inference.load import open_model
from hart_lite.inference.prompts import question_text
from hart_lite.inference.protocols.registry import PROTOCOLS
from hart_lite.inference.settings import NO_LIMIT

REALSET = Path(__file__).parents[3] / "shared" / "realset" / "questions.jsonl"
MODES = tuple(PROTOCOLS)
SMALL = EvalSettings(benchmarks={"toy": "scenes=3"}, modes=("full", "crops", "mgpo"), max_tokens=16)


def lines(out: Path) -> list[bytes]:
    return (out / "predictions.jsonl").read_bytes().splitlines(keepends=True)


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in lines(out)]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "eval"
    evaluate_benchmarks("toy", SMALL, out)
    return out


# -- rows ----------------------------------------------------------------------------------------------------------


def test_a_row_holds_the_whole_conversation(tmp_path):
    out = tmp_path / "eval"
    report = evaluate_benchmarks("toy", EvalSettings(benchmarks={"toy": "scenes=2"}, modes=MODES, max_tokens=24), out)
    found = rows(out)
    examples = {e.id: e for e in toy.read("scenes=2")}
    assert Counter(row["mode"] for row in found) == dict.fromkeys(MODES, len(examples))
    for row in found:
        example = examples[row["id"]]
        assert row["benchmark"] == "toy"
        assert (row["category"], row["question"], row["truth"]) == (example.category, example.question, example.answer)
        assert (row["choices"], row["cluster"]) == (list(example.choices), example.images[0].key)
        assert row["truth_boxes"] == [[*example.boxes[0].xyxy, 0]]
        assert row["strict"] is row["official"] is (row["answer"] == example.answer)
        assert ("grounding" in row) is (row["mode"] != "full")
        assert row["turns"][0]["images"] == 1 and row["turns"][0]["prompt_tokens"] > 20
        assert all(0 < turn["response_tokens"] <= 24 for turn in row["turns"])
        if row["mode"] == "crops":
            assert [turn["kind"] for turn in row["turns"]] == ["locate", "verify"]
            assert row["text"] == row["turns"][1]["text"]
            assert len(row["boxes"]) == 1 and row["counts"] == {"rejected_boxes": 0}
            assert (row["grounding"]["iou"] > 0) is row["grounding"]["iogt"].__gt__(0)
    summary = json.loads((out / "summary.json").read_text())
    for mode in MODES:
        of_mode = [row for row in found if row["mode"] == mode]
        figures = summary["benchmarks"]["toy"][mode]
        assert figures["questions"] == 4
        right = sum(row["strict"] for row in of_mode) / 4
        assert figures["answers"]["strict"]["micro"]["value"] == right
        assert f"| toy | {mode} | 4 | {100 * right:.1f} (" in report.table
        assert summary["own"]["toy"][mode]["missing"] == 296
    assert "## toy" in (out / "summary.md").read_text()
    assert (out / "bad_rows.jsonl").read_text() == ""
    settings = json.loads((out / "eval.json").read_text())
    assert settings["benchmarks"] == {"toy": "scenes=2"}
    assert (settings["family"], settings["prompt"], settings["as_published"]) == ("qwen2_5_vl", "own", False)
    assert settings["pixels"] == {"full": 12544, "crop": 4704, "min": 784, "peers_full": 12544, "peers_crop": 4704}


def test_the_base_answers_at_a_glance_and_often_looks_at_the_wrong_thing(tmp_path):
    """As its pretraining left it: what is large is told at a glance, and half of the boxes are wrong, so that fewer
    questions are answered from the crops alone."""
    evaluate_benchmarks(
        "toy", EvalSettings(benchmarks={"toy": "scenes=30"}, modes=("full", "crops")), tmp_path / "eval"
    )
    figures = json.loads((tmp_path / "eval" / "summary.json").read_text())["benchmarks"]["toy"]
    crops, full = (figures[mode]["answers"]["strict"]["micro"]["value"] for mode in ("crops", "full"))
    assert full > crops > 0.35
    assert 0.2 < figures["crops"]["grounding"]["grounded"]["value"] < 0.8


# -- going on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 0.62, 0.999, 1.0])
def test_resumed_anywhere_it_ends_in_the_rows_of_an_unbroken_run(unbroken, tmp_path, share):
    """A kill leaves a beginning of the file, down to half a line."""
    out = tmp_path / "eval"
    out.mkdir()
    (out / "eval.json").write_bytes((unbroken / "eval.json").read_bytes())
    whole = (unbroken / "predictions.jsonl").read_bytes()
    (out / "predictions.jsonl").write_bytes(whole[: int(share * len(whole))])
    evaluate_benchmarks("toy", SMALL, out)
    assert sorted(lines(out)) == sorted(lines(unbroken))
    assert (out / "summary.json").read_bytes() == (unbroken / "summary.json").read_bytes()


@pytest.mark.slow
def test_killed_and_run_again(tmp_path):
    """A real kill, as soon as a first row is there."""
    words = ["eval", "toy", "--benchmark", "toy=scenes=60", "--mode", "full,crops", "--max-tokens", "16"]

    def start(out: Path) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-m", "hart_lite.cli.main", *words, "--out", str(out)],
                                stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(killed)
    while not (killed / "predictions.jsonl").exists() or not (killed / "predictions.jsonl").stat().st_size:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = (killed / "predictions.jsonl").read_bytes().count(b"\n")
    assert 0 < before < 240
    for out in (killed, whole):
        process = start(out)
        stdout, stderr = process.communicate()
        assert process.returncode == 0, stderr
        assert "| toy | crops | 120 |" in stdout
        assert "full=0." in stderr
    assert sorted(lines(killed)) == sorted(lines(whole))


def test_a_finished_evaluation_is_not_asked_again(unbroken, monkeypatch):
    before = (unbroken / "predictions.jsonl").read_bytes()
    monkeypatch.setattr("hart_lite.inference.local_engine.LocalEngine.answer", lambda *asked: 1 / 0)
    assert "| toy | mgpo | 6 |" in evaluate_benchmarks("toy", SMALL, unbroken).table
    assert (unbroken / "predictions.jsonl").read_bytes() == before


def test_other_settings_are_refused_by_name(unbroken):
    changes = {
        "modes: ['full', 'crops', 'mgpo'] there, ['full'] now": {"modes": ("full",)},
        "benchmarks: {'toy': 'scenes=3'} there, {'toy': 'scenes=4'} now": {"benchmarks": {"toy": "scenes=4"}},
        "as_published: False there, True now": {"as_published": True},
        "limit: None there, 2 now": {"limit": 2},
        "'max_tokens_peers': 16}": {"max_tokens": 17},
        "pixels: ": {"full_pixels": 784},
        "prompt: 'own' there, 'official' now": {"prompt": "official"},
    }
    before = sorted((path.name, path.read_bytes()) for path in unbroken.iterdir())
    for named, change in changes.items():
        with pytest.raises(HartError) as caught:
            evaluate_benchmarks("toy", replace(SMALL, **change), unbroken)
        assert named in str(caught.value)
        assert "Run with the same settings, or choose another place with --out" in str(caught.value)
    assert sorted((path.name, path.read_bytes()) for path in unbroken.iterdir()) == before


def test_other_weights_and_other_rows_are_refused(unbroken, tmp_path):
    settings = json.loads((unbroken / "eval.json").read_text())
    for name in ("weights", "rows"):
        out = tmp_path / name
        out.mkdir()
        (out / "eval.json").write_text(json.dumps(settings | {name: {}}))
        with pytest.raises(HartError, match=rf"(?m)^  {name}: {{}} there"):
            evaluate_benchmarks("toy", SMALL, out)
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "eval.json").write_text(json.dumps(settings | {"versions": {"python": "4"}}))
    evaluate_benchmarks("toy", SMALL, tmp_path / "later")  # another version of a library is no other evaluation


def test_places_that_cannot_be_gone_on_with(unbroken, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place in ("full", "file"):
        with pytest.raises(HartError, match="is not empty and holds no evaluation"):
            evaluate_benchmarks("toy", SMALL, tmp_path / place)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "eval.json").write_text("{")
    with pytest.raises(HartError, match=r"eval.json: not JSON"):
        evaluate_benchmarks("toy", SMALL, tmp_path / "damaged")
    (tmp_path / "middle").mkdir()
    for file in unbroken.iterdir():
        (tmp_path / "middle" / file.name).write_bytes(file.read_bytes())
    found = lines(unbroken)
    (tmp_path / "middle" / "predictions.jsonl").write_bytes(b"".join([*found[:3], found[3][:50] + b"\n", *found[4:]]))
    with pytest.raises(HartError, match=r"(?s)predictions.jsonl:4: not JSON .*Take the line out and run again"):
        evaluate_benchmarks("toy", SMALL, tmp_path / "middle")


# -- rows that cannot be asked -------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path) -> Path:
    """Six rows, of which the first and the last can be asked."""
    rng = random.Random(0)
    for name in ("good", "half", "rotten"):
        image = Image.frombytes("RGB", (90, 60), rng.randbytes(90 * 60 * 3))
        image.save(tmp_path / f"{name}.png")
    data = (tmp_path / "half.png").read_bytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    data = bytearray((tmp_path / "rotten.png").read_bytes())  # its beginning and its end are whole
    data[4000:4100] = bytes(100)
    (tmp_path / "rotten.png").write_bytes(data)
    common = {"question": "What?", "choices": ["x", "y"], "answer": "B"}
    found = [
        {"id": "a", "image": "good.png"},
        {"id": "b", "image": "half.png"},
        {"id": "c", "image": "rotten.png"},
        {"id": "d", "image": "good.png", "answer": "F"},
        {"id": "a", "image": "good.png"},
        {"id": "f", "image": "good.png"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(common | row) + "\n" for row in found))
    return path


def test_bad_rows_are_named_counted_and_left_out(own, tmp_path, caplog):
    settings = EvalSettings(benchmarks={"rows": str(own)}, modes=("full", "crops"), max_tokens=4)
    with caplog.at_level(logging.WARNING):
        report = evaluate_benchmarks("toy", settings, tmp_path / "eval")
    assert report.bad == 4
    assert Counter((row["mode"], row["id"]) for row in rows(tmp_path / "eval")) == dict.fromkeys(
        [(mode, row) for mode in ("full", "crops") for row in "af"], 1
    )
    bad = [json.loads(line) for line in (tmp_path / "eval" / "bad_rows.jsonl").read_text().splitlines()]
    assert [row["benchmark"] for row in bad] == ["rows"] * 4
    assert [row["where"] for row in bad] == [f"{own}:2", f"{own}:4", f"{own}:5", "c"]
    problems = ["damaged image", "The answer 'F' is not one of the choices", "'a' is taken by", "damaged image"]
    assert all(problem in row["problem"] for problem, row in zip(problems, bad, strict=True))
    assert "3 bad rows are left out" in caplog.text and "rotten.png: damaged image" in caplog.text
    assert json.loads((tmp_path / "eval" / "summary.json").read_text())["bad_rows"] == 4
    assert evaluate_benchmarks("toy", settings, tmp_path / "eval").bad == 4  # and again


def test_strict_stops_at_the_first_bad_row(own, tmp_path):
    settings = EvalSettings(benchmarks={"rows": str(own)}, modes=("full",), strict=True, max_tokens=4)
    with pytest.raises(HartError, match=r"rows: .*rows.jsonl:2: .*half.png: damaged image"):
        evaluate_benchmarks("toy", settings, tmp_path / "eval")
    assert not (tmp_path / "eval").exists()
    kept = own.read_text().splitlines()
    own.write_text("\n".join([kept[0], kept[2]]))
    with pytest.raises(HartError, match=r"rotten.png: damaged image"):
        evaluate_benchmarks("toy", settings, tmp_path / "eval")


def test_a_benchmark_without_a_good_row_says_why(own, tmp_path):
    own.write_text(own.read_text().splitlines()[1])
    with pytest.raises(HartError, match=r"rows: no row can be asked; .*rows.jsonl:1: .*half.png: damaged image"):
        evaluate_benchmarks("toy", EvalSettings(benchmarks={"rows": str(own)}), tmp_path / "eval")


def test_rows_that_a_benchmark_lets_through_are_checked(monkeypatch):
    good, *_ = toy.read("scenes=1")
    given = [good, replace(good, question="again"), replace(good, id="x", answer="Q"), BadRow("f.tsv:9", "no image")]
    benchmark = replace(toy.BENCHMARK, read=lambda source: iter(given))
    monkeypatch.setitem(registry.BENCHMARKS, "toy", benchmark)
    questions, bad = read_questions({"toy": ""}, None, False)
    assert [q.example for q in questions] == [good]
    assert [(name, row.where) for name, row in bad] == [("toy", good.id), ("toy", "x"), ("toy", "f.tsv:9")]
    assert bad[0][1].problem == "its id is taken by an earlier row"


# -- questions -----------------------------------------------------------------------------------------------------


def test_limit_counts_the_questions_of_each_benchmark(own, tmp_path):
    settings = EvalSettings(benchmarks={"toy": "", "rows": str(own)}, modes=("full",), limit=1, max_tokens=4)
    evaluate_benchmarks("toy", settings, tmp_path / "eval")
    assert [(row["benchmark"], row["id"]) for row in rows(tmp_path / "eval")] == [
        ("toy", "toy-0-1000000000-0"), ("rows", "a")]  # fmt: skip


def test_batches_keep_the_questions_on_one_image_together():
    examples = list(toy.read("scenes=4"))
    mixed = [Question(toy.BENCHMARK, e) for e in examples[::2] + examples[1::2]]

    def sizes(size):
        found = list(batches_by_image(mixed, size))
        assert Counter(q.example.id for batch in found for q in batch) == Counter(q.example.id for q in mixed)
        return [[q.example.images[0].index - 10**9 for q in batch] for batch in found]

    assert sizes(8) == [[0, 0, 1, 1, 2, 2, 3, 3]]
    assert sizes(5) == sizes(4) == [[0, 0, 1, 1], [2, 2, 3, 3]]
    assert sizes(3) == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert sizes(1) == [[0], [0], [1], [1], [2], [2], [3], [3]]


@pytest.mark.parametrize("source", ["scenes=0", "scenes=-1", "scenes=9999999", "scenes=", "40", "scenes=4 "])
def test_a_world_that_is_not_there(source):
    with pytest.raises(HartError, match="give toy or toy=scenes=40"):
        list(toy.read(source))


def test_benchmarks_of_our_own():
    assert len(list(toy.read(""))) == toy.BENCHMARK.questions == 300
    with pytest.raises(HartError, match="rows needs a source"):
        list(custom.read(""))
    with pytest.raises(HartError, match=r"unknown benchmark 'tyo' \(did you mean 'toy'\?\)"):
        registry.find("tyo")
    assert all(name in listing.listing() for name in registry.BENCHMARKS)
    example = next(iter(toy.read("scenes=1")))
    assert toy.BENCHMARK.official(f"({example.answer})", example)
    assert not toy.BENCHMARK.official("none of them", example)


# -- settings ------------------------------------------------------------------------------------------------------


def test_budgets_of_a_recipe_of_options_and_of_protocols(tiny_base):
    question = Question(toy.BENCHMARK, next(iter(toy.read("scenes=1"))))
    recipe, plain = open_model("toy"), open_model(str(tiny_base))
    tiny = load_recipe("tiny_cpu")

    def budgets(mode, model, **options):
        s = setting_of(question, mode, EvalSettings(**options), model)
        return s.full_pixels, s.crop_pixels, s.min_pixels, s.max_tokens_locate, s.max_tokens_answer

    assert budgets("crops", recipe) == (12544, 4704, 784, 24, 8)
    assert budgets("mgpo", recipe) == (12544, 4704, 784, NO_LIMIT, NO_LIMIT)
    assert budgets("crops", plain) == (1280 * 784, 640 * 784, 4 * 784, 256, 256)
    assert budgets("mgpo", plain) == (NO_LIMIT, NO_LIMIT, 4 * 784, NO_LIMIT, NO_LIMIT)
    for mode in ("crops", "mgpo"):
        for model, least in ((recipe, 784), (plain, 800)):
            assert budgets(mode, model, full_pixels=900, crop_pixels=800, max_tokens=7) == (900, 800, least, 7, 7)
    setting = setting_of(question, "full", EvalSettings(), recipe)
    assert setting.wording(question.example) == question_text(recipe.prompts, question.example)
    assert (setting.crop_pad, setting.max_boxes) == (tiny.rollout.crop_pad, tiny.rollout.max_boxes)
    official = replace(question, benchmark=replace(toy.BENCHMARK, prompt=lambda e: f"Official: {e.question}"))
    asked = setting_of(official, "full", EvalSettings(prompt="official", as_published=True), recipe)
    assert asked.wording(question.example) == f"Official: {question.example.question}"
    assert asked.as_published


# -- the command ---------------------------------------------------------------------------------------------------


def command(*words, capsys) -> tuple[int, str, str]:
    code = main.main(["eval", *map(str, words)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_rows_with_names_of_their_own_are_asked_and_found_again(tmp_path, capsys):
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.png")
    row = {"photo": "a.png", "problem": "<image>Colour?\nA. red\nB. blue", "gold": "A"}
    (tmp_path / "x.json").write_text(json.dumps([row, row | {"gold": "blue"}]))
    columns = [f"--column={pair}" for pair in ("image=photo", "question=problem", "answer=gold")]
    words = ["toy", "--benchmark", f"rows={tmp_path / 'x.json'}", *columns, "--mode", "full", "--max-tokens", "4"]
    assert main.main(["eval", *words, "--out", str(tmp_path / "eval")]) == 0, capsys.readouterr().err
    evaluation = read_evaluation(tmp_path / "eval")
    assert [r.id for r in evaluation.rows] == ["0", "1"]
    assert evaluation.settings["columns"] == {"image": "photo", "question": "problem", "answer": "gold"}
    assert images_of(evaluation)(evaluation.rows[0]).key == str(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["toy", "--benchmark", "tyo"], "unknown benchmark 'tyo' (did you mean 'toy'?)"),
        (["toy", "--benchmark", "toy", "--mode", "crop"], "unknown mode 'crop' (did you mean 'crops'?)"),
        (["toy", "--benchmark", "world,world=scenes=4"], "a benchmark or mode is named twice"),
        (
            ["toy", "--benchmark", "toy", "--mode", "full", "--mode", "full"],
            "a benchmark or mode is named twice",
        ),
        (["toy", "--benchmark", "toy", "--limit", "0"], "--limit 0: at least 1 is needed"),
        (["toy", "--benchmark", "toy", "--full-pixels", "700"], "--full-pixels 700: at least 784 is needed"),
        (["toy", "--benchmark", "rows=no/such.jsonl"], "no/such.jsonl"),
        (["toy", "--benchmark", "toy=scenes=1", "--column", "question=Text"], "--column is for rows of your own"),
        (["toy", "--benchmark", "rows=x.jsonl", "--column", "question"], "should look like --column question=Text"),
        (["no such model", "--benchmark", "toy=scenes=1"], "there is no model 'no such model'"),
        (["api:x", "--benchmark", "toy=scenes=1"], "OPENAI_API_KEY is not set"),
    ],
)
def test_a_mistake_gets_one_clear_message(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    code, _, err = command(*words, "--out", tmp_path / "eval", capsys=capsys)
    assert code == 1
    assert message in err
    assert not (tmp_path / "eval").exists()


def test_the_command_prints_the_table_and_where_it_is(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["toy", "--benchmark", "toy=scenes=1", "--mode", "full,crops", "--max-tokens", "4"]
    code, out, _ = command(*words, capsys=capsys)
    assert code == 0
    assert "| toy | full | 2 |" in out and "| toy | crops | 2 |" in out
    assert out.rstrip().endswith("evaluation: runs/eval/toy")
    assert len(rows(tmp_path / "runs/eval/toy")) == 4


def test_where_nothing_was_answered_it_says_why(server, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("NO_PROXY", "*")
    words = ["api:echo-error", "--benchmark", "toy=scenes=1", "--mode", "full", "--out", tmp_path / "eval"]
    code, out, err = command(*words, capsys=capsys)
    assert code == 1
    assert out.startswith(f"\nno answers\n\nevaluation: {tmp_path / 'eval'}")
    assert "2 without an answer: HTTP 400: bad header" in err
    assert "2 answers are missing; run the same command again" in err


def test_help_and_the_list_import_no_torch():
    call = "from hart_lite.cli.main import main; main(['eval', '--help'])"
    code = f"import sys\ntry: {call}\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "hart-lite eval runs/tiny_cpu --benchmark toy" in done.stdout
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    assert main.main(["benchmarks"]) == 0


@pytest.mark.skipif(not REALSET.exists(), reason="the photos are not part of the repository")
def test_photos_in_every_mode(tmp_path):
    settings = EvalSettings(benchmarks={"rows": str(REALSET)}, modes=MODES, limit=3, max_tokens=12)
    evaluate_benchmarks("toy", settings, tmp_path / "eval")
    found = rows(tmp_path / "eval")
    assert Counter(row["mode"] for row in found) == dict.fromkeys(MODES, 3)
    assert all(row["benchmark"] == "rows" and os.path.isabs(row["cluster"]) for row in found)
