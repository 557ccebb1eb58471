"""What `import hart_lite` offers: each function does what the command of its name does, and says nothing."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from small_runs import make_up, rl_stage, small_recipe

import hart_lite
from hart_lite.api import TrainingRun
from hart_lite.data.images import ImageFile
from hart_lite.eval.compare import compare_text
from hart_lite.eval.results import read_evaluation
from hart_lite.inference.ask import Answer, ask
from hart_lite.perf.memory_plan import plan as memory_plan
from hart_lite.perf.model_sizes import Dimensions
from hart_lite.toy.scenes import HELD_OUT, World, examples

EXAMPLES = examples(World(), range(HELD_OUT, HELD_OUT + 3), 2)
MODES = ("full", "crops")


@pytest.fixture(scope="module")
def model():
    return hart_lite.load("toy", device="cpu")


@pytest.fixture(scope="module")
def run(tiny_base, tmp_path_factory) -> TrainingRun:
    """A finished training of two steps, from a recipe as a dict."""
    recipe = small_recipe(tiny_base, tmp_path_factory.mktemp("api") / "run", [rl_stage()])
    with pytest.MonkeyPatch.context() as patch:
        make_up(patch.setattr)
        return hart_lite.train(recipe.model_dump(), "stages.0.steps=2")


# -- the package ---------------------------------------------------------------------------------------------------


def test_every_name_is_there_and_no_other():
    for name in hart_lite.__all__:
        assert getattr(hart_lite, name) is not None, name
    assert dir(hart_lite) == sorted(hart_lite.__all__)
    with pytest.raises(AttributeError, match="module 'hart_lite' has no attribute 'aks'; it has APGRPOTrainer, "):
        hart_lite.aks  # noqa: B018


def test_importing_it_loads_neither_torch_nor_transformers():
    code = "import sys, hart_lite; print([m for m in ('torch', 'transformers', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# -- ask -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "scene.png"
    EXAMPLES[0].images[0].load().save(path)
    return path


def test_a_question_about_an_image_in_memory_is_that_about_its_file(model, photo):
    example = EXAMPLES[0]
    asked = hart_lite.ask(model, Image.open(photo), example.question, example.choices)
    [same] = ask(model, ImageFile(photo), [example.question], example.choices)
    assert isinstance(asked, Answer)
    assert (asked.text, asked.answer, asked.boxes, asked.located) == (same.text, same.answer, same.boxes, same.located)
    assert asked.choice == example.choices["ABCDE".index(asked.answer)]
    [crop, *_] = asked.crops
    left, top, right, bottom = map(int, crop.box.xyxy)
    assert left <= asked.boxes[0].x1 < asked.boxes[0].x2 <= right <= 672
    cut = Image.open(photo).convert("RGB").crop((left, top, right, bottom))
    assert crop.load().tobytes() == cut.resize(crop.size, Image.Resampling.BICUBIC).tobytes()


def test_an_image_in_memory_is_turned_upright_as_a_file_is(model, photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    turned = photo.with_name("turned.png")
    Image.open(photo).transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    plain, same = (hart_lite.ask(model, Image.open(path), EXAMPLES[0].question) for path in (photo, turned))
    assert plain.boxes and same.boxes == plain.boxes


def test_several_questions_are_a_list_in_order(model, photo):
    questions = [EXAMPLES[0].question, EXAMPLES[1].question, "What is in the corner?"]
    found = hart_lite.ask(model, str(photo), questions, mode="crops")
    assert [one.question for one in found] == questions
    assert found == [hart_lite.ask(model, photo, question, mode="crops") for question in questions]
    assert len({one.boxes for one in found}) > 1
    assert hart_lite.ask(model, photo, [questions[0]]) == [hart_lite.ask(model, photo, questions[0])]


def test_what_cannot_be_asked_is_an_error_of_its_kind(model, photo):
    with pytest.raises(hart_lite.HartError, match="there is no question"):
        hart_lite.ask(model, photo, [])
    with pytest.raises(hart_lite.DataError, match=r"nowhere\.png: no such image file"):
        hart_lite.ask(model, "nowhere.png", "What?")
    with pytest.raises(hart_lite.HartError, match="there is no model 'no such thing'"):
        hart_lite.load("no such thing")


# -- plan ----------------------------------------------------------------------------------------------------------


def test_a_plan_is_that_of_the_recipe_with_its_overrides():
    whole, fewer = hart_lite.plan("qwen7b_lora"), hart_lite.plan("qwen7b_lora", "rollout.tokens_per_batch=16384")
    recipe = hart_lite.load_recipe("qwen7b_lora")
    peak = memory_plan(recipe, Dimensions.of(recipe.model.base, recipe.model.revision)).peak
    assert whole.peak_gib == peak / 2**30
    assert 8 < fewer.peak_gib < whole.peak_gib < 100
    assert f"peak {whole.peak_gib:.1f} GiB" in str(whole)
    assert hart_lite.plan(recipe).values == whole.values
    with pytest.raises(hart_lite.ConfigError, match="overrides go with a recipe's name, file or dict"):
        hart_lite.plan(recipe, "rollout.samples=4")
    with pytest.raises(hart_lite.ConfigError, match=r"^the recipe:\n  - "):
        hart_lite.plan(recipe.model_dump(), "rollout.smaples=4")


# -- train, evaluate, compare ----------------------------------------------------------------------------------------


def test_a_training_says_where_everything_is(run):
    assert (run.folder / "metrics.jsonl").read_text().count("\n") == 2
    assert list(run.summary) == ["before", "after-1-rl"]
    assert (run.adapter / "adapter_config.json").is_file()
    for name in run.summary:
        assert read_evaluation(run.evaluation(name)).rows
    with pytest.raises(hart_lite.HartError, match="already holds a run; add --resume"):
        hart_lite.train(run.folder / "recipe.yaml")
    assert hart_lite.train(run.folder / "recipe.yaml", resume=True) == run


def test_the_evaluations_of_a_training_are_compared(run):
    before, after = run.evaluation("before"), run.evaluation("after-1-rl")
    found = hart_lite.compare(before, after)
    assert (found.values["pairs"], found.values["only_a"], found.values["only_b"]) == (4 * 3, 0, 0)
    for mode, part in found.values["parts"]["held-out"].items():
        strict = part["strict"]
        assert strict["a"] == run.summary["before"]["accuracy"][mode]
        assert strict["b"] == run.summary["after-1-rl"]["accuracy"][mode]
        assert strict["difference"] == pytest.approx(strict["b"] - strict["a"])
    assert set(found.values["settings"]) == set()
    assert str(found) == compare_text(found.values)
    assert str(found).count("**held-out, ") == 3
    assert hart_lite.compare(read_evaluation(before), str(after)).values == found.values


def test_evaluate_asks_the_held_out_questions_of_a_training_as_it_did(run, tmp_path, monkeypatch):
    """The final adapter in the same modes gives the rows of the training's own last evaluation."""
    make_up(monkeypatch.setattr)
    found = hart_lite.evaluate(run.folder, {"held-out": str(run.folder)}, tmp_path / "eval")
    last = read_evaluation(run.evaluation("after-1-rl"))
    assert found.rows == last.rows
    assert found.settings["weights"].keys() == {"base", "adapter"}
    assert sorted(path.name for path in (tmp_path / "eval").iterdir()) == [
        "bad_rows.jsonl", "eval.json", "predictions.jsonl", "summary.json", "summary.md"]  # fmt: skip


def test_evaluate_goes_on_where_it_was_broken_off(model, tmp_path):
    out = tmp_path / "eval"
    whole = hart_lite.evaluate(model, {"toy": "scenes=2"}, out, MODES, max_tokens=8)
    assert [row.key for row in whole.rows] == [("toy", mode, row.id) for mode in MODES for row in whole.rows[:4]]
    lines = (out / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    (out / "predictions.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
    assert hart_lite.evaluate(model, {"toy": "scenes=2"}, out, MODES, max_tokens=8).rows == whole.rows
    with pytest.raises(hart_lite.DataError, match="holds an evaluation with other settings"):
        hart_lite.evaluate(model, {"toy": "scenes=3"}, out, MODES, max_tokens=8)
    some = hart_lite.evaluate(model, ["toy"], tmp_path / "few", ("full",), limit=1, max_tokens=8)
    assert [row.id for row in some.rows] == [whole.rows[0].id]


def test_a_merge_says_what_the_adapter_says(run, photo, tmp_path):
    place = hart_lite.merge(run.folder, tmp_path / "merged")
    assert place == tmp_path / "merged"
    merged, adapted = hart_lite.load(place), hart_lite.load(run.folder)
    question = EXAMPLES[0].question
    assert hart_lite.ask(merged, photo, question) == hart_lite.ask(adapted, photo, question)


# -- quiet ---------------------------------------------------------------------------------------------------------

ASKING = """
model = hart_lite.load("toy", device="cpu")
hart_lite.ask(model, Image.new("RGB", (300, 200)), ["What?", "Where?"])
hart_lite.plan("qwen7b_lora")
for modes in (("full",), ("full", "crops")):
    hart_lite.evaluate(model, {"toy": "scenes=1"}, "-".join(modes), modes, max_tokens=8)
hart_lite.compare("full", "full-crops")
"""
TRAINING = """
stages = [{"kind": "rl", "steps": 1, "questions_per_step": 2},
          {"kind": "sft", "steps": 1, "batch_size": 2, "micro_batch_size": 1}]
recipe = {"name": "quiet", "output": "run", "stages": stages, "model": {"device": "cpu"},
          "data": {"toy": {"scenes": 6, "eval_scenes": 2}}, "evaluate": {"every": 1},
          "pixels": {"full": 12544, "crop": 4704, "min": 784},
          "rollout": {"samples": 2, "max_tokens_locate": 24, "max_tokens_answer": 8}}
run = hart_lite.train(recipe)
hart_lite.compare(run.evaluation("before"), run.evaluation("after-2-sft"))
hart_lite.merge(run.folder, "merged")
"""


@pytest.mark.slow
@pytest.mark.parametrize("job", [ASKING, TRAINING], ids=["asking", "training"])
def test_a_program_that_did_not_ask_for_words_gets_none(tmp_path, job):
    words = [sys.executable, "-c", f"import hart_lite\nfrom PIL import Image\n{job}"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_program_that_switches_logging_on_sees_messages_and_bars(model, tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO, "hart_lite")
    hart_lite.evaluate(model, {"toy": "scenes=1"}, tmp_path / "eval", ("full",), max_tokens=4)
    assert "eval" in capsys.readouterr().err
    caplog.set_level(logging.WARNING, "hart_lite")
    hart_lite.evaluate(model, {"toy": "scenes=1"}, tmp_path / "again", ("full",), max_tokens=4)
    assert capsys.readouterr().err == ""
