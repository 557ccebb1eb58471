"""The demo without its server: who answers, what is refused and in which words, what is shown, which examples."""

import importlib.util
import io
import random
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_runs import make_up, rl_stage, small_recipe

from hart_lite.boxes import expand
from hart_lite.cli.main import main
from hart_lite.data.images import ImageBytes
from hart_lite.demo.examples import close_looks, find_examples, of_run
from hart_lite.demo.pages import answers_html, demo_page, notice
from hart_lite.demo.session import BASE, MAX_WORDS, TRAINED, Demo, Request, choice_words, read_photo, read_request
from hart_lite.errors import HartError
from hart_lite.eval.prediction import Grounding
from hart_lite.eval.results import read_evaluation
from hart_lite.inference.ask import Answer, ask
from hart_lite.inference.load import open_model
from hart_lite.runs.run_dir import save_adapter
from hart_lite.toy.scenes import HELD_OUT
from hart_lite.training.train import train
from hart_lite.types import Box, ImageView
from hart_lite.utils.jsonl import write_jsonl

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
EXAMPLES = close_looks()


@pytest.fixture(scope="module")
def base():
    return open_model("toy", device="cpu")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    """An adapter on the toy base that changes what it says."""
    policy = open_model("toy", device="cpu").engine.policy
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)
    folder = tmp_path_factory.mktemp("run") / "adapter"
    save_adapter(policy, folder)
    return folder


def photo(width: int = 200, height: int = 100, blue: tuple[int, int, int, int] = (50, 20, 100, 60)) -> ImageBytes:
    image = Image.new("RGB", (width, height), "#808080")
    image.paste("#0000FF", blue)
    file = io.BytesIO()
    image.save(file, "PNG")
    return ImageBytes(file.getvalue(), "the photo")


def png(width: int, height: int) -> bytes:
    """One that declares this size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# -- answers -------------------------------------------------------------------------------------------------------


def test_base_is_the_model_without_its_adapter_and_trained_with_it(base, adapter):
    demo = Demo(open_model(str(adapter), device="cpu"))
    assert demo.answerers == (BASE, TRAINED)
    example = EXAMPLES[0]
    request = Request(example.images[0], (example.question, EXAMPLES[1].question), example.choices)
    found = dict(demo.answers(request))
    plain = ask(base, request.photo, request.questions, request.choices)
    trained = ask(demo.model, request.photo, request.questions, request.choices)
    for who, expected in ((BASE, plain), (TRAINED, trained)):
        assert [(a.text, a.boxes, a.located) for a in found[who]] == [(a.text, a.boxes, a.located) for a in expected]
    assert [a.located for a in plain] != [a.located for a in trained]


def test_without_an_adapter_one_answers(base):
    demo = Demo(base)
    [(who, [answer])] = demo.answers(Request(EXAMPLES[0].images[0], ("What?",), EXAMPLES[0].choices))
    assert who == demo.answerers[0] and len(demo.answerers) == 1
    assert answer.boxes and answer.choice in EXAMPLES[0].choices


def test_a_box_that_is_given_is_looked_at_and_nothing_is_located(base):
    """The box of another thing gets the answer of that thing: the crop alone says it."""
    scene = EXAMPLES[0].images[0]
    demo, right = Demo(base), 0
    for thing in scene.things:
        request = Request(scene, ("Which character is it?",), (), (thing.box,))
        [(_, [answer])] = demo.answers(request)
        assert answer.boxes == (thing.box,) and answer.located == ""
        whole = expand(thing.box, base.rollout.crop_pad, scene.size()).whole_pixels(scene.size())
        assert answer.crops[0].box.xyxy == whole
        right += thing.glyph in answer.text
    assert right > len(scene.things) / 2
    with pytest.raises(HartError, match="1 of 1 boxes hold no pixel of the image of 672 x 672 pixels"):
        ask(base, scene, ["What?"], boxes=[Box(700, 700, 800, 800)])


# -- examples ------------------------------------------------------------------------------------------------------


def test_scenes_of_the_toy_base_need_a_close_look(base):
    scenes = [example.images[0] for example in EXAMPLES]
    assert len({scene.key for scene in scenes}) == len(scenes) >= 4
    assert all(scene.index >= HELD_OUT for scene in scenes)
    assert all(e.boxes[0].width < 0.2 * 672 and len(e.choices) == 5 for e in EXAMPLES)
    assert [e.id for e in find_examples(base)] == [e.id for e in EXAMPLES]
    assert find_examples(replace(base, engine=None)) == []  # another model: drawn scenes would say nothing of it


def test_examples_of_a_run_begin_with_what_training_changed(tiny_base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    data = {"toy": {"scenes": 4, "eval_scenes": 5, "questions_per_scene": 2, "size": 168}}
    run = tmp_path / "run"
    train(small_recipe(tiny_base, run, [rl_stage(steps=1)], data=data))

    def rewrite(name: str, right: set[str], grounded: set[str]) -> None:
        folder = run / "evaluation" / name
        rows = [
            row.model_copy(update={"strict": row.id in right, "grounding": Grounding(
                grounded=row.id in grounded, grounded_targets=0, targets=1, iou=0, coverage=0)})
            for row in read_evaluation(folder).rows
        ]  # fmt: skip
        write_jsonl(folder / "predictions.jsonl", [row.to_dict() for row in rows])

    ids = list(dict.fromkeys(row.id for row in read_evaluation(run / "evaluation/before").rows))
    rewrite("before", {ids[0], ids[2]}, {ids[0], ids[4]})
    rewrite("after-1-rl", {ids[0], ids[2], ids[4], ids[6]}, {ids[2], ids[4], ids[6]})
    # 6: wrong before and in the wrong place; 4: wrong before; 2: in the wrong place before; 0: no difference.
    found = of_run(run)
    assert found[0].id == ids[6]
    assert {e.id for e in found[1:3]} == {ids[2], ids[4]} and found[3].id == ids[0]
    assert len(found) == len({e.images[0].key for e in found}) == 5  # one a scene
    model = open_model(str(run / "adapter"), device="cpu")
    assert [e.id for e in find_examples(model)] == [e.id for e in found]
    (run / "evaluation" / "after-1-rl" / "summary.json").unlink()
    assert of_run(run) == [] == find_examples(model)


def test_examples_are_those_that_the_page_can_ask(tiny_base, tmp_path, monkeypatch, caplog):
    """One has two lines, one is too long. Where the data are gone, there are none, and the demo begins all the same."""
    make_up(monkeypatch.setattr)
    rows = []
    for n, question in enumerate(["What?", "What\nelse?", "x" * (MAX_WORDS + 1), "Where?"]):
        Image.new("RGB", (90, 60), (40 * n, 9, 9)).save(tmp_path / f"{n}.png")
        rows.append({"id": str(n), "image": f"{n}.png", "question": question, "choices": ["a, b", "c"], "answer": "A"})
    write_jsonl(tmp_path / "rows.jsonl", rows)
    data = {"eval": str(tmp_path / "rows.jsonl"), "toy": {"scenes": 4, "size": 168}}
    train(small_recipe(tiny_base, tmp_path / "run", [rl_stage(steps=1)], data=data))
    assert {e.id for e in of_run(tmp_path / "run")} == {"0", "3"}
    (tmp_path / "rows.jsonl").unlink()
    assert find_examples(open_model(str(tmp_path / "run"), device="cpu")) == []
    assert "no examples of the run: " in caplog.text


# -- requests ------------------------------------------------------------------------------------------------------


def test_questions_go_one_a_line_and_choices_by_comma_or_line():
    request = read_request(photo(), " What?\n\n Where? \n", "a, b ,c", "", None)
    assert request.questions == ("What?", "Where?") and request.choices == ("a", "b", "c")
    assert request.boxes == () and request.truth is None
    assert read_request(photo(), "Who?", "Smith, John\nDoe, Jane\n", "", None).choices == ("Smith, John", "Doe, Jane")
    assert read_request(photo(), "Who?", " ", "", None).choices == ()
    assert read_request(photo(), "Who?", "", "1,2.5,30,40", None).boxes == (Box(1, 2.5, 30, 40),)


def test_an_example_is_the_truth_as_long_as_it_is_asked_as_it_stands():
    example = EXAMPLES[0]
    for words in (choice_words(example.choices), choice_words(("a, b", "c"))):
        same = words == choice_words(example.choices)
        asked = read_request(example.images[0], example.question, words, "", example)
        assert (asked.truth is example) == same
        assert asked.choices == (example.choices if same else ("a, b", "c"))
    assert read_request(example.images[0], "Another?", choice_words(example.choices), "", example).truth is None


@pytest.mark.parametrize(
    ("questions", "choices", "box", "message"),
    [
        (" \n ", "", "", "there is no question"),
        ("?\n" * 5, "", "", "5 questions; at most 4"),
        ("x" * (MAX_WORDS + 1), "", "", "the questions have 501 characters; at most 500"),
        ("What?", "x" * (MAX_WORDS + 1), "", "the choices have 501 characters"),
        ("What?", "one", "", "give at least two"),
        ("What?", "a,,b", "", "none of them empty"),
        ("What \ud800?", "", "", "no text in UTF-8"),
        ("What?", "", "1,2,3", "the box should be four numbers"),
        ("What?", "", "1,2,3,x", "the box should be four numbers"),
    ],
)
def test_words_that_cannot_be_asked(questions, choices, box, message):
    with pytest.raises(HartError, match=message):
        read_request(photo(), questions, choices, box, None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (random.Random(0).randbytes(5000), "the photo: not an image"),
        (b"", "there is no photo; drop one first"),
        (b"<svg onload='alert(1)'></svg>", "the photo: not an image"),
        (b"\0\0\0\x18ftypheic" + bytes(99), "the photo: HEIC, as iPhones save photos, cannot be read"),
        (png(60000, 60000), r"at most 300,000,000 (pixels )?are decoded"),
        (png(8001, 8000) + bytes(70_000), "the photo has 8001 x 8000 pixels; at most 64 million are decoded"),
        (png(8001, 8000), "the photo: 8001 x 8000 pixels in 65 bytes"),
        (png(100, 100), "the photo: damaged image"),
    ],
    ids=["noise", "empty", "svg", "heic", "bomb", "large", "lying header", "no pixels"],
)
def test_photos_that_cannot_be_read(data, message):
    with pytest.raises(HartError, match=message):
        read_photo(data)


def test_a_photo_that_breaks_off_is_refused_and_a_whole_one_is_read():
    whole = photo(300, 300).data
    assert read_photo(whole).size() == (300, 300)
    with pytest.raises(HartError, match="the photo: damaged image"):
        read_photo(whole[: len(whole) // 2])


# -- what is shown -------------------------------------------------------------------------------------------------

CROP = ImageView(photo(), (56, 56), Box(45, 16, 105, 64))
LOOKED = Answer("What?", (), "a cat", "a cat", (Box(50, 20, 100, 60),), (CROP,), located="[50,20]")


def shown(answers: dict, request: Request | None = None, answerers=("model",)) -> str:
    return answers_html(request or Request(photo(), ("What?",)), answerers, answers)


def test_a_box_lies_where_it_is_in_the_photo_and_its_crop_beside_it():
    html = shown({"model": [LOOKED]})
    assert 'class="frame c1" x="50" y="20" width="50" height="40"' in html
    assert '<svg viewBox="0 0 200 100"' in html and '<use href="#photo"/>' in html
    assert "box 1, 60 x 48 px" in html
    assert '<p class="answer">a cat</p>' in html and "[50,20]</p>" in html


def test_from_a_box_by_hand_the_crop_alone_is_shown():
    """The box itself is on the photo that it was drawn on."""
    html = shown({"model": [replace(LOOKED, located="")]}, Request(photo(), ("What?",), (), (LOOKED.boxes[0],)))
    assert "From your box: What?" in html and "box 1, 60 x 48 px" in html
    assert "<svg" not in html


def test_who_has_not_answered_yet_is_looking():
    request = Request(photo(), ("What?", "Where?"))
    html = shown({BASE: [LOOKED, LOOKED]}, request, (BASE, TRAINED))
    assert html.count("<h2>") == 2 and html.count("<article") == 4
    assert html.count("looking ..") == html.count('aria-busy="true"') == 2 and html.count("a cat") == 2
    assert [m[1] for m in re.finditer('data-who="(.*?)"', html)] == [BASE, TRAINED] * 2


def test_text_from_anywhere_is_shown_as_text():
    answer = Answer(SCRIPT, (SCRIPT, "b"), SCRIPT + " A", "A", located=SCRIPT)
    failed = replace(answer, answer=None, failure=SCRIPT)
    request = Request(photo(), (SCRIPT,), (SCRIPT, "b"))
    html = shown({BASE: [answer], TRAINED: [failed]}, request, (BASE, TRAINED)) + notice(SCRIPT)
    assert "<script" not in html and "<img src=x" not in html
    assert html.count("&lt;script&gt;alert(1)") >= 5


def test_an_example_says_whether_the_answer_is_right_and_what_was_asked_about():
    example = EXAMPLES[0]
    right = example.choices["ABCDE".index(example.answer)]
    other = next(choice for choice in example.choices if choice != right)
    request = Request(example.images[0], (example.question,), example.choices, truth=example)

    def said(text: str) -> str:
        letter = "ABCDE"[example.choices.index(text)]
        return shown({"model": [Answer(example.question, example.choices, text, letter)]}, request)

    assert '<p class="verdict good">\N{CHECK MARK} right</p>' in said(right)
    assert f"wrong, it is {example.answer}: {right}</p>" in said(other)
    assert 'class="frame truth"' in said(other)
    assert "verdict" not in shown({"model": [LOOKED]})


def test_no_box_no_answer_and_refused_boxes_are_said():
    nothing = Answer("What?", ("a", "b"), "hm", None, rejected=2, located="over there")
    html = shown({"model": [nothing]}, Request(photo(), ("What?",), ("a", "b")))
    for words in ("named no usable box", "too many): 2", "no answer", '<p class="said">hm</p>'):
        assert words in html


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1)])
def test_thin_photos_are_shown(size):
    thin, whole = photo(*size, blue=(0, 0, 1, 1)), Box(0, 0, *size)
    answer = replace(LOOKED, boxes=(whole,), crops=(ImageView(thin, (28, 28), whole),))
    html = shown({"model": [answer]}, Request(thin, ("What?",)))
    assert f'x="0" y="0" width="{size[0]}" height="{size[1]}"' in html


def test_the_page_warns_of_the_toy_base_and_of_no_other(base):
    page = demo_page(Demo(base, EXAMPLES), "the toy base answers.")
    assert "it knows drawn shapes alone" in page and "hart-lite demo Qwen/Qwen2.5-VL-7B-Instruct" in page
    assert page.count("data-example=") == len(EXAMPLES)
    assert "drawn shapes" not in demo_page(Demo(replace(base, engine=None)), "another answers.")


# -- the command ---------------------------------------------------------------------------------------------------


def test_without_its_libraries_it_says_what_to_install(monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "starlette" else real(name, *a))
    assert main(["demo"]) == 1
    assert "pip install 'hart-lite[demo]'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["demo", "--port", "0"])
    assert "0 is no port; allowed: 1 to 65535" in capsys.readouterr().err
