"""The words of a recipe: what may stand in them, what a model is shown, and that one set reaches all that asks."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from pictures import Photo
from small_runs import make_up, rl_stage, sft_stage, small_recipe

from hart_lite.cli import main
from hart_lite.config.prompts import Prompts
from hart_lite.config.recipe import dump_recipe, load_recipe
from hart_lite.errors import HartError
from hart_lite.eval.evaluator import evaluate_benchmarks
from hart_lite.eval.settings import EvalSettings
from hart_lite.inference.ask import ask
from hart_lite.inference.load import open_model
from hart_lite.inference.openai_engine import AbsoluteInterface
from hart_lite.inference.prompts import fill, locate_content, question_text
from hart_lite.models.families.qwen2_5_vl import Qwen25VL
from hart_lite.runs.record import record_of
from hart_lite.training.train import train
from hart_lite.types import Example, ImageView

PHOTO = Photo(112, 112)
VIEW, CROP = ImageView(PHOTO, (112, 112)), ImageView(PHOTO, (56, 56))
EXAMPLE = Example("q", (PHOTO,), "Which animal is it?", "B", ("lion", "tiger"))
CHINESE = {
    "system": "请用中文回答。",
    "locate": "{image}{question}\n请输出与问题有关的关键区域的坐标{box_format}。",
    "verify": "现在看不到整张图,只能看到一些区域。{question}\n{crops}",
    "answer": "{image}请看图回答:{question}",
    "answer_with_crops": "{image}后面是放大的区域。请回答:{question}\n{crops}",
    "continue_with_crops": "按照坐标返回子图:\n{crops}\n{question}",
    "continue_without_crops": "坐标无效,返回原图:\n{crops}\n{question}",
    "choices": "{question}\n选项如下:\n{choices}\n请用选项的字母或文字回答。",
}


# -- what may stand in them ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "problem"),
    [
        ("verify", "Look at {crops}", "prompts.verify lacks {question}; it needs {crops} {question}"),
        ("locate", "{image}{question}", "prompts.locate lacks {box_format}; it needs {box_format} {image} {question}"),
        ("answer", "{image}{question}{crops}", "prompts.answer has {crops}; it may hold {image} {question}"),
        ("answer", "{image}{questions}", "prompts.answer lacks {question}; it needs {image} {question}"),
        ("answer", "{image}{questions}", "prompts.answer has {questions}; it may hold {image} {question}"),
        ("choices", "{ question }{choices}", "prompts.choices lacks {question}"),
        ("verfy", "{question}", "prompts.verfy"),
        ("verify", None, "prompts.verify"),
    ],
)
def test_placeholders_are_checked_before_a_model_is_loaded(tmp_path, monkeypatch, capsys, key, text, problem):
    monkeypatch.setattr("hart_lite.training.train.load_policy", lambda *args: pytest.fail("a model was loaded"))
    (tmp_path / "recipe.yaml").write_text(json.dumps({"prompts": {key: text}, "stages": [rl_stage()]}))
    assert main.main(["train", str(tmp_path / "recipe.yaml"), f"output={tmp_path / 'run'}"]) == 1
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(HartError) as caught:
        load_recipe("tiny_cpu", ["prompts.verify=nothing", "prompts.answer='{image}{question}{box_format}'"])
    for part in ("verify lacks {crops}", "verify lacks {question}", "answer has {box_format}"):
        assert f"prompts.{part}" in str(caught.value)


def test_other_braces_are_text_and_a_placeholder_may_come_twice():
    words = Prompts(answer="{image}{} { x } {{question}} {question}")
    assert fill(words.answer, {"image": [VIEW], "question": "Which?"}) == [VIEW, "{} { x } {Which?} Which?"]


def test_what_a_question_says_is_no_template():
    """Neither a placeholder in a question nor one in a choice is replaced, however they are nested."""
    words, example = Prompts(), replace(EXAMPLE, question="{crops}{image}?", choices=("{question}", "{choices}"))
    asked = question_text(words, example)
    assert asked.startswith("{crops}{image}?\nThe choices are listed below:\n(A) {question}\n(B) {choices}\n")
    [text, crop] = fill(words.verify, {"question": asked, "crops": [CROP]})
    assert asked in text and crop is CROP
    assert locate_content(words, example, [VIEW], AbsoluteInterface())[1].startswith("{crops}{image}?\nOutput")


# -- what a model is shown -----------------------------------------------------------------------------------------


def test_the_words_of_the_method():
    """Those that the paper prints, and MGPO's; the toy base was taught on them."""
    words = Prompts()
    parts = {"image": [VIEW], "crops": [CROP, CROP], "question": question_text(words, EXAMPLE)}
    asked = (
        "Which animal is it?\nThe choices are listed below:\n(A) lion\n(B) tiger\n"
        "Answer with the letter or the text of the correct option."
    )
    assert parts["question"] == asked
    assert question_text(words, replace(EXAMPLE, choices=())) == "Which animal is it?"
    assert locate_content(words, EXAMPLE, [VIEW], Qwen25VL) == [
        VIEW,
        "Which animal is it?\nOutput the coordinates of the key image area relevant to the problem in JSON format: "
        '[{"bbox_2d": [x1, y1, x2, y2]}].',
    ]
    several = locate_content(words, EXAMPLE, [VIEW, CROP], Qwen25VL)
    assert several[:2] == [VIEW, CROP] and several[2].endswith('; add "image": n to a box on the n-th image.')
    assert fill(words.verify, parts) == [
        "You were supposed to answer a question based on a full image, but now the full image is not visible. You can "
        f"only see some sub-regions relevant to the problem. Answer the following question: {asked}\n",
        CROP,
        CROP,
    ]
    assert fill(words.answer, parts) == [VIEW, asked]
    assert fill(words.answer_with_crops, parts) == [
        VIEW,
        f"The full image comes first, enlarged sub-regions of it come last. Answer the following question: {asked}\n",
        CROP,
        CROP,
    ]
    continued = "Based on the provided coordinates, return the sub-image:\n"
    assert fill(words.continue_with_crops, parts) == [continued, CROP, CROP, f"\n{asked}"]
    again = "Not providing correct coordinates or invalid coordinate values, return the original image:\n"
    assert fill(words.continue_without_crops, parts | {"crops": [VIEW]}) == [again, VIEW, f"\n{asked}"]


# -- one set reaches every place that asks ---------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The text of every message that a model is asked with, the system's words ahead."""
    said, chat, reply = [], Qwen25VL.chat, Qwen25VL.reply

    def words(content) -> str:
        return "".join(part for part in content if isinstance(part, str))

    def recorded_chat(self, content, system=""):
        said.append(f"{system}|{words(content)}")
        return chat(self, content, system)

    def recorded_reply(self, content, ended):
        said.append(f"{CHINESE['system']}|{words(content)}")
        return reply(self, content, ended)

    monkeypatch.setattr(Qwen25VL, "chat", recorded_chat)
    monkeypatch.setattr(Qwen25VL, "reply", recorded_reply)
    return said


def kinds(asked: list[str]) -> set[str]:
    """Which of the templates were used; every message is of one."""
    patterns = {
        name: CHINESE["system"] + r"\|" + re.sub(r"\\\{\w+\\\}", "(.|\n)*", re.escape(text))
        for name, text in CHINESE.items()
        if name not in ("system", "choices")
    }
    found = [{name for name, pattern in patterns.items() if re.fullmatch(pattern, text)} for text in asked]
    assert found and all(found), [text for text, names in zip(asked, found, strict=True) if not names]
    with_choices = [text for text, names in zip(asked, found, strict=True) if "locate" not in names]
    assert all(f"\n{CHINESE['choices'].rsplit(chr(10), 1)[1]}" in text for text in with_choices)
    assert not any("The choices are listed" in text for text in asked)
    asked.clear()
    return set.union(*found)


@pytest.fixture(scope="module")
def recipe(tiny_base, tmp_path_factory):
    stages = [rl_stage(steps=1), rl_stage(steps=2, questions_per_step=4, loop="mgpo"), sft_stage(steps=1)]
    return small_recipe(tiny_base, tmp_path_factory.mktemp("chinese") / "run", stages, prompts=CHINESE)


@pytest.mark.slow
def test_training_evaluation_ask_and_the_record_speak_the_words_of_the_recipe(recipe, tmp_path, monkeypatch, asked):
    make_up(monkeypatch.setattr)
    run = recipe.run_dir
    train(recipe)
    assert kinds(asked) == set(CHINESE) - {"system", "choices"}
    assert json.loads((run / "evaluation/after-1-rl/eval.json").read_text())["prompts"] == CHINESE

    evaluate_benchmarks(str(run), EvalSettings(benchmarks={"toy": "scenes=1"}, modes=("full", "crops")), tmp_path / "e")
    assert kinds(asked) == {"locate", "verify", "answer"}
    assert json.loads((tmp_path / "e" / "eval.json").read_text())["prompts"] == CHINESE

    model = open_model(str(run))
    ask(model, PHOTO, ["Which animal is it?"], EXAMPLE.choices)
    assert kinds(asked) == {"locate", "answer_with_crops"}

    record, _ = record_of(run / "adapter", recipe.model.base)
    assert record.recipe.prompts == Prompts(**CHINESE)
    shared = Path(tmp_path / "shared")  # an adapter without its run goes by the record beside it
    shared.mkdir()
    for file in (run / "adapter").iterdir():
        (shared / file.name).write_bytes(file.read_bytes())
    assert open_model(str(shared)).prompts == Prompts()
    record.save(shared, {})
    assert open_model(str(shared)).prompts == Prompts(**CHINESE)


def test_other_words_are_another_evaluation_and_another_run(recipe, tmp_path):
    english = recipe.model_copy(update={"prompts": Prompts(), "output": str(tmp_path / "run")})
    (tmp_path / "run").mkdir()
    dump_recipe(recipe, tmp_path / "run" / "recipe.yaml")
    with pytest.raises(HartError, match="was made by another recipe; differing: output, prompts"):
        train(english, resume=True)
