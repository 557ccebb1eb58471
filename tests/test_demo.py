"""The demo without its page: who answers, what is refused and in which words, what the panels show."""

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

from hart_lite.cli.main import main
from hart_lite.data.images import ImageBytes
from hart_lite.demo import session as demo_room
from hart_lite.demo.panels import notice, panels
from hart_lite.demo.session import BASE, MAX_WORDS, TRAINED, Demo, Request, as_request, held_out_examples, read_request
from hart_lite.errors import HartError
from hart_lite.inference.ask import Asked, ask
from hart_lite.inference.load import open_model
from hart_lite.runs.run_dir import save_adapter
from hart_lite.toy.scenes import HELD_OUT
from hart_lite.types import Box

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
EXAMPLES = held_out_examples()


@pytest.fixture(scope="module")
def base():
    return open_model("embedded", device="cpu")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    """An adapter on the embedded base that changes what it says."""
    policy = open_model("embedded", device="cpu").engine.policy
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)
    folder = tmp_path_factory.mktemp("run") / "adapter"
    save_adapter(policy, folder)
    return folder


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (200, 100), "#808080").save(path)
    return path


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
    assert found == {BASE: plain, TRAINED: trained}
    assert [a.located for a in plain] != [a.located for a in trained]


def test_without_an_adapter_one_answers(base):
    demo = Demo(base)
    [(who, [asked])] = demo.answers(as_request(EXAMPLES[0]))
    assert who == demo.answerers[0] and len(demo.answerers) == 1
    assert asked.boxes and asked.choice in EXAMPLES[0].choices


def test_examples_are_held_out_scenes_that_need_a_close_look():
    scenes = [example.images[0] for example in EXAMPLES]
    assert len({scene.key for scene in scenes}) == len(scenes) >= 4
    assert all(scene.index >= HELD_OUT for scene in scenes)
    assert all(e.boxes[0].width < 0.2 * 672 and len(e.choices) == 5 for e in EXAMPLES)


# -- requests ------------------------------------------------------------------------------------------------------


def test_questions_go_one_a_line_and_choices_by_comma_or_line(photo):
    request = read_request(photo, " What?\n\n Where? \n", "a, b ,c")
    assert request.questions == ("What?", "Where?") and request.choices == ("a", "b", "c")
    assert request.photo.size() == (200, 100)
    assert read_request(photo, "Who?", "Smith, John\nDoe, Jane\n").choices == ("Smith, John", "Doe, Jane")
    assert read_request(photo, "Who?", " ").choices == ()


@pytest.mark.parametrize(
    ("questions", "choices", "message"),
    [
        (" \n ", "", "there is no question"),
        ("?\n" * 5, "", "5 questions; at most 4"),
        ("x" * (MAX_WORDS + 1), "", "the questions have 501 characters; at most 500"),
        ("What?", "x" * (MAX_WORDS + 1), "the choices have 501 characters"),
        ("What?", "one", "give at least two"),
        ("What?", "a,,b", "none of them empty"),
        ("What \ud800?", "", "no text in UTF-8"),
    ],
)
def test_words_that_cannot_be_asked(photo, questions, choices, message):
    with pytest.raises(HartError, match=message):
        read_request(photo, questions, choices)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (random.Random(0).randbytes(5000), "the photo: not an image"),
        (b"", "the photo: not an image"),
        (b"<svg onload='alert(1)'></svg>", "the photo: not an image"),
        (png(60000, 60000), r"at most 300,000,000 (pixels )?are decoded"),
        (png(8001, 8000) + bytes(70_000), "the photo has 8001 x 8000 pixels; at most 64 million are decoded"),
        (png(8001, 8000), "the photo: 8001 x 8000 pixels in 65 bytes"),
        (png(100, 100), "the photo: damaged image"),
    ],
    ids=["noise", "empty", "svg", "bomb", "large", "lying header", "no pixels"],
)
def test_photos_that_cannot_be_read(tmp_path, data, message):
    path = tmp_path / "secret-name.png"
    path.write_bytes(data)
    with pytest.raises(HartError, match=message) as error:
        read_request(path, "What?", "")
    assert "secret-name" not in str(error.value)


def test_a_photo_that_breaks_off_is_missing_or_is_too_large(photo, monkeypatch, tmp_path):
    noise = Image.effect_noise((300, 300), 90)
    noise.save(photo)
    whole = photo.read_bytes()
    photo.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HartError, match="the photo: damaged image"):
        read_request(photo, "What?", "")
    photo.write_bytes(whole)
    monkeypatch.setattr(demo_room, "MAX_BYTES", len(whole))
    assert read_request(photo, "What?", "").photo.size() == (300, 300)
    monkeypatch.setattr(demo_room, "MAX_BYTES", len(whole) - 1)
    with pytest.raises(HartError, match="the photo has more than"):
        read_request(photo, "What?", "")
    with pytest.raises(HartError, match="there is no photo; drop one first"):
        read_request(None, "What?", "")
    with pytest.raises(HartError, match="no longer here; drop it again"):
        read_request(tmp_path / "gone.png", "What?", "")


# -- panels --------------------------------------------------------------------------------------------------------


def shown_photo() -> ImageBytes:
    """200 x 100, blue in (50, 20) .. (100, 60)."""
    image = Image.new("RGB", (200, 100), "#808080")
    image.paste("#0000FF", (50, 20, 100, 60))
    file = io.BytesIO()
    image.save(file, "PNG")
    return ImageBytes(file.getvalue(), "the photo")


LOOKED = Asked("What?", (), "a cat", "a cat", (Box(50, 20, 100, 60),), (Box(45, 16, 105, 64),), located="[50,20]")


def test_a_box_lies_where_it_is_in_the_photo_and_its_crop_beside_it():
    html = panels(Request(shown_photo(), ("What?",)), ("model",), {"model": [LOOKED]})
    assert "left:25.000%;top:20.000%;width:25.000%;height:40.000%" in html
    assert html.count('class="box"') == 1 and "60 x 48 px" in html
    assert '<p class="answer">a cat</p>' in html and '<p class="said">[50,20]</p>' in html
    assert html.index("Locate") < html.index("Crop") < html.index("Answer")


def test_who_has_not_answered_yet_is_looking():
    request = Request(shown_photo(), ("What?", "Where?"))
    html = panels(request, (BASE, TRAINED), {BASE: [LOOKED, LOOKED]})
    assert html.count("<h3>") == 2 and html.count("<article") == 4
    assert html.count("looking ..") == 2 and html.count("a cat") == 2
    assert [m[1] for m in re.finditer('data-who="(.*?)"', html)] == [BASE, TRAINED] * 2


def test_text_from_anywhere_is_shown_as_text():
    asked = Asked(SCRIPT, (SCRIPT, "b"), SCRIPT + " A", "A", located=SCRIPT)
    failed = replace(asked, answer=None, failure=SCRIPT)
    html = panels(Request(shown_photo(), (SCRIPT,), (SCRIPT, "b")), (BASE, TRAINED), {BASE: [asked], TRAINED: [failed]})
    html += notice(SCRIPT)
    assert "<script" not in html and "<img src=x" not in html
    assert html.count("&lt;script&gt;alert(1)") >= 5


def test_an_example_says_whether_the_answer_is_right():
    example = EXAMPLES[0]
    right = example.choices["ABCDE".index(example.answer)]
    other = next(choice for choice in example.choices if choice != right)

    def said(text: str) -> str:
        asked = Asked(example.question, example.choices, text, "ABCDE"[example.choices.index(text)])
        return panels(as_request(example), ("model",), {"model": [asked]}, example)

    assert '<p class="verdict right">right</p>' in said(right)
    assert f'<p class="verdict wrong">wrong, it is {right}</p>' in said(other)
    assert "verdict" not in panels(as_request(example), ("model",), {"model": [LOOKED]})


def test_no_box_no_answer_and_refused_boxes_are_said():
    nothing = Asked("What?", ("a", "b"), "hm", None, rejected=2, located="over there")
    html = panels(Request(shown_photo(), ("What?",), ("a", "b")), ("model",), {"model": [nothing]})
    for words in ("no usable box", "too many): 2", "nothing was cut out", "no answer", '<p class="said">hm</p>'):
        assert words in html


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1)])
def test_thin_photos_have_panels(size):
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    asked = replace(LOOKED, boxes=(Box(0, 0, *size),), crops=(Box(0, 0, *size),))
    html = panels(Request(ImageBytes(file.getvalue(), "x"), ("What?",)), ("model",), {"model": [asked]})
    assert "left:0.000%;top:0.000%;width:100.000%;height:100.000%" in html


# -- the command ---------------------------------------------------------------------------------------------------


def test_without_gradio_it_says_what_to_install(monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gradio" else real(name, *a))
    assert main(["demo"]) == 1
    assert "pip install 'hart-lite[demo]'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["demo", "--port", "0"])
    assert "0 is no port; allowed: 1 to 65535" in capsys.readouterr().err
