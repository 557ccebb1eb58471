"""Questions about a photo: the answers of an evaluation, boxes in the upright frame, words for what goes wrong."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from hart_lite.boxes import iou
from hart_lite.cli import main
from hart_lite.data.images import ImageFile
from hart_lite.errors import HartError
from hart_lite.inference.ask import ask
from hart_lite.inference.load import open_model
from hart_lite.inference.protocols.registry import find
from hart_lite.inference.rollout import Runner
from hart_lite.models.families.qwen2_5_vl import Qwen25VL
from hart_lite.report.answer_picture import picture_places
from hart_lite.toy.scenes import World, examples

EXAMPLES = examples(World(), range(3), 2)


@pytest.fixture(scope="module")
def model():
    return open_model("toy")


@pytest.fixture(scope="module")
def example(model):
    """A question for which the base looks in the right place."""
    return next(e for e in EXAMPLES if iou(ask(model, e.images[0], [e.question])[0].boxes[0], e.boxes[0]) > 0.5)


@pytest.fixture
def photo(example, tmp_path, monkeypatch) -> Path:
    """Its scene as a file, in the folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    example.images[0].load().save("scene.png")
    return Path("scene.png")


def run(*words, capsys) -> tuple[int, str, str]:
    code = main.main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


# -- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["full+crops", "crops", "full"])
def test_the_answers_are_those_of_the_runner(model, mode):
    """Training asks in the same words, budgets and order."""
    runner = Runner(model)
    for example in EXAMPLES[::2]:
        [expected] = runner.run([example], find(mode))
        [asked] = ask(model, example.images[0], [example.question], example.choices, mode)
        assert asked.text == expected.answer
        assert asked.boxes == expected.boxes
        assert bool(asked.boxes) == (mode != "full")
        assert asked.located == (expected.turns[0].text if mode != "full" else "")
        crops = [slot.view for slot in expected.turns[-1].prompt.slots if slot.view.box]
        assert list(asked.crops) == crops


def test_an_answer_is_a_letter_with_choices_and_text_without(model, example):
    [free] = ask(model, example.images[0], [example.question])
    [chosen] = ask(model, example.images[0], [example.question], example.choices)
    assert free.answer == free.text and free.choice is None
    assert chosen.answer in "ABCDE"
    assert chosen.choice == example.choices["ABCDE".index(chosen.answer)]
    [unread] = ask(model, example.images[0], [example.question], ["no such thing", "nor this"])
    assert unread.answer is None and unread.choice is None and unread.text


def test_questions_on_one_image_encode_it_once_and_are_answered_as_alone(model, monkeypatch):
    image, questions = EXAMPLES[0].images[0], [e.question for e in EXAMPLES[:2]] + ["What is in the corner?"]
    alone = [ask(model, image, [question])[0] for question in questions]
    seen = []
    family = model.engine.policy.family
    features = family.features
    monkeypatch.setattr(family, "features", lambda m, images: seen.extend(images) or features(m, images))
    assert ask(model, image, questions) == alone
    whole = [i for i in seen if i.size == (112, 112)]
    assert len(whole) == 1
    assert len({asked.text for asked in alone}) > 1 or len({asked.boxes for asked in alone}) > 1


def test_boxes_are_in_the_upright_frame(model, example, photo):
    """The same pixels, stored turned with the orientation that turns them back, give the same boxes."""
    upright = Image.open(photo).convert("RGB").crop((0, 0, 672, 560))
    upright.save("upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save("turned.png", exif=exif)
    assert Image.open("turned.png").size == (560, 672)
    plain, turned = (ask(model, ImageFile(Path(name)), [example.question])[0] for name in ("upright.png", "turned.png"))
    assert plain.boxes
    said, seen = (
        [(one.text, one.located, one.boxes, [(crop.box, crop.size) for crop in one.crops]) for one in (plain, turned)],
        [[crop.load().tobytes() for crop in one.crops] for one in (plain, turned)],
    )
    assert said[0] == said[1] and seen[0] == seen[1]


@pytest.mark.parametrize(
    ("questions", "choices", "mode", "message"),
    [
        ([], [], "crops", "there is no question"),
        (["What?", " \n"], [], "crops", "question 2 of 2 is empty"),
        (["What?"], ["one"], "crops", "give at least two"),
        (["What?"], ["one", ""], "crops", "none of them empty"),
        (["What?"], ["x"] * 27, "crops", "at most 26"),
        (["What?"], [], "crop", "unknown mode 'crop' (did you mean 'crops'?)"),
        (["What \udce9?"], [], "crops", "no text in UTF-8"),
    ],
)
def test_what_cannot_be_asked(model, questions, choices, mode, message):
    with pytest.raises(HartError, match=re.escape(message)):
        ask(model, EXAMPLES[0].images[0], questions, choices, mode)


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_command_says_answer_box_and_picture(example, photo, capsys):
    code, out, err = run("ask", photo, example.question, "--choices", ",".join(example.choices), capsys=capsys)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == example.question
    letter, text = lines[1].removeprefix("  answer: ").split(": ")
    assert example.choices["ABCDE".index(letter)] == text
    corners, size = lines[2].removeprefix("  box 1: ").split(" of ")
    assert size == "672 x 672 pixels"
    assert iou([float(v) for v in corners.split(", ")], example.boxes[0]) > 0.3
    assert lines[3] == "  picture: scene.answer.jpg"
    assert "no --model given, so the toy base answers" in err
    assert Image.open("scene.answer.jpg").size[0] > 672


def test_a_picture_never_takes_the_place_of_another_unsaid(photo, capsys):
    def ask_once(*words):
        code, out, err = run("ask", photo, "Which?", "--model", "toy", *words, capsys=capsys)
        assert code == 0
        return out, err

    Path("scene.answer.jpg").write_bytes(b"mine")
    out, _ = ask_once()
    assert "picture: scene.answer-2.jpg" in out
    assert Path("scene.answer.jpg").read_bytes() == b"mine"
    out, err = ask_once("--out", "other.png")
    assert "picture: other.png" in out and "replaced" not in err
    _, err = ask_once("--out", "other.png")
    assert "other.png was there and is replaced" in err
    before = photo.read_bytes()
    code, _, err = run("ask", photo, "Which?", "--out", "./scene.png", capsys=capsys)
    assert code == 1 and "is the photo itself" in err
    assert photo.read_bytes() == before


def test_json_is_an_object_a_question_and_no_picture(example, photo, capsys):
    words = ["ask", photo, example.question, "What else?", "--json", "--model", "toy"]
    code, out, _ = run(*words, "--choices", "a, b", "--choices", "c", capsys=capsys)
    first, second = map(json.loads, out.splitlines())
    assert code == 0
    assert (first["question"], second["question"]) == (example.question, "What else?")
    assert first["choices"] == ["a, b", "c"]
    assert (first["width"], first["height"], first["mode"], first["model"]) == (672, 672, "full+crops", "toy")
    assert iou(first["boxes"][0], example.boxes[0]) > 0.3
    assert first["picture"] is None and first["failure"] is None
    assert [p.name for p in Path().iterdir()] == ["scene.png"]
    _, out, _ = run(*words, "--out", "p.jpg", capsys=capsys)
    assert [json.loads(line)["picture"] for line in out.splitlines()] == ["p.jpg", "p-2.jpg"]
    assert Path("p-2.jpg").exists()


def test_photos_may_be_several_and_in_folders(example, photo, capsys):
    Path("more").mkdir()
    for name in ("b.png", "a.png"):
        Path("more", name).write_bytes(photo.read_bytes())
    Path("more/notes.txt").write_text("no photo")
    words = ["ask", photo, "more", example.question, "What else?", "--model", "toy"]
    code, out, _ = run(*words, "--json", capsys=capsys)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["image"] for row in rows[::2]] == [str(photo), "more/a.png", "more/b.png"]
    assert [row["question"] for row in rows[:2]] == [example.question, "What else?"]
    assert rows[0]["answer"] == rows[2]["answer"] == rows[4]["answer"]  # the same picture
    code, out, _ = run(*words, capsys=capsys)
    assert code == 0 and re.findall(r"picture: (.+)", out) == [
        *("scene.answer.jpg", "scene.answer-2.jpg", "a.answer.jpg", "a.answer-2.jpg", "b.answer.jpg"),
        "b.answer-2.jpg",
    ]
    _, out, _ = run(*words, "--json", "--out", "p.png", capsys=capsys)
    assert [json.loads(line)["picture"] for line in out.splitlines()] == ["p.png", *(f"p-{n}.png" for n in range(2, 7))]
    Path("none").mkdir()
    code, _, err = run("ask", "none", "What?", capsys=capsys)
    assert code == 1 and "there is no photo in the folder none" in err


def test_questions_come_from_standard_input(photo, capsys, monkeypatch):
    def given(data: bytes):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return run("ask", photo, "-", "--json", "--model", "toy", capsys=capsys)

    code, out, _ = given("Which é?\r\n\n  What\u2028else?\n".encode())
    assert code == 0
    assert [json.loads(line)["question"] for line in out.splitlines()] == ["Which é?", "What\u2028else?"]
    _, out, _ = given(b"\xef\xbb\xbfWhat?\r\nWho?\r\n")
    assert [json.loads(line)["question"] for line in out.splitlines()] == ["What?", "Who?"]
    code, _, err = given(b"\n \n")
    assert code == 1 and "standard input holds no question" in err
    code, _, err = given(b"What \xff?\n")
    assert code == 1 and "no text in UTF-8" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.jpg", "What?"], "nowhere.jpg: no such image file"),
        (["text.jpg", "What?"], "text.jpg: not an image"),
        (["https://x.test/a.jpg", "What?"], "'https://x.test/a.jpg' is an address, and nothing is fetched"),
        (["", "What?"], "IMAGE is empty"),
        (["scene.png", ""], "question 1 of 1 is empty"),
        (["scene.png", "What?", "--choices", "yes"], "give at least two"),
        (["scene.png", "What?", "--mode", "fulll"], "did you mean 'full'?"),
        (["scene.png", "What?", "--out", "a.txt"], "the ending should name a picture format"),
        (["scene.png", "What?", "--out", "none/a.png"], "there is no folder none"),
        (["scene.png", "What?", "--model", "no/such/run"], "there is no model 'no/such/run'"),
    ],
)
def test_a_mistake_gets_clear_words_and_leaves_nothing(words, message, photo, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("text.jpg").write_text("hello")
    code, out, err = run("ask", *words, capsys=capsys)
    assert code == 1 and not out
    assert message in err
    assert sorted(p.name for p in Path().iterdir()) == ["scene.png", "text.jpg"]


def test_no_box_is_said_with_what_was_written_instead(photo, capsys, monkeypatch):
    """Nothing that a model writes moves the cursor of a terminal."""
    monkeypatch.setattr(Qwen25VL, "boxes_from_text", lambda *args: [])
    monkeypatch.setattr(Qwen25VL, "text", lambda self, ids: "over \x1b[2Jthere")
    words = ["ask", photo, "Which?", "--model", "toy"]
    code, out, _ = run(*words, capsys=capsys)
    assert code == 0
    assert "no box found; it wrote 'over \\x1b[2Jthere'" in out and "picture: scene.answer.jpg" in out
    assert "answer: over \N{REPLACEMENT CHARACTER}[2Jthere\n" in out
    _, out, _ = run(*words, "--mode", "crops", capsys=capsys)
    assert "answer: none\n" in out
    _, out, _ = run(*words, "--mode", "full", capsys=capsys)
    assert "no box: mode full answers at a glance" in out


def test_a_server_that_does_not_answer_is_said_and_one_that_writes_rubbish_draws(photo, capsys, monkeypatch):
    command = [sys.executable, str(Path(__file__).parents[1] / "chat_server.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{int(server.stdout.readline())}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("NO_PROXY", "*")
        words = ["ask", photo, "Which?", "--choices", "a,b", "--model"]
        code, out, err = run(*words, "api:two-fail/x", capsys=capsys)
        assert code == 1
        assert out == "Which?\n  no answer\n"
        assert "no answer:" in err and "image too large" in err
        code, out, _ = run(*words, "api:ok/x", capsys=capsys)
        assert code == 0 and "answer: B: b\n  box 1: 0, 0, " in out
        code, out, _ = run(*words, "api:echo/x", "--json", "--out", "p.png", capsys=capsys)
        assert code == 0 and json.loads(out)["answer"] == "B"
        code, out, _ = run(*words[:3], "--model", "api:echo/x", capsys=capsys)
        assert code == 0 and "said the bearer" in out
        server.stdin.close()


# -- the picture ---------------------------------------------------------------------------------------------------


def test_pictures_have_places(photo):
    assert picture_places([Path("a/street.webp")], None, 2) == [Path("street.answer.jpg"), Path("street.answer-2.jpg")]
    assert picture_places([photo], Path("x.png"), 3) == [Path("x.png"), Path("x-2.png"), Path("x-3.png")]
    Path("x-2.png").mkdir()
    with pytest.raises(HartError, match=r"x-2\.png is a folder"):
        picture_places([photo], Path("x.png"), 3)


def test_the_toy_base_says_what_it_is_under_whatever_name(photo, capsys):
    words = "it knows drawn shapes alone"
    _, _, err = run("ask", photo, "What?", "--json", "--model", "toy", capsys=capsys)
    assert words in err and "Qwen/Qwen2.5-VL-7B-Instruct" in err
    _, _, err = run("ask", photo, "What?", "--json", capsys=capsys)
    assert words not in err and "nothing of photos. For those: --model Qwen/" in err
