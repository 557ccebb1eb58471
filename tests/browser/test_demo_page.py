"""The demo as a person meets it: drop a photo, ask, see the box, the crop and the answer."""

import io
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page

from hart_lite.data.images import ImageFile
from hart_lite.demo.session import held_out_examples
from hart_lite.inference.ask import ask
from hart_lite.inference.load import open_model
from hart_lite.report.answer_picture import COLOURS

EXAMPLE = held_out_examples()[0]


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "scene.png"
    EXAMPLE.images[0].load().save(path)
    return path


def put(page: Page, photo: Path) -> None:
    page.set_input_files("input[type=file]", photo)
    page.wait_for_selector("img[src*='/gradio_api/file=']")


def question(page: Page, words: str, choices: str = "") -> None:
    page.get_by_label("Question").fill(words)
    page.get_by_label("Choices").fill(choices)
    page.get_by_role("button", name="Ask").click()


def settled(page: Page, answers: int) -> None:
    page.wait_for_function(f"document.querySelectorAll('#result .answer').length === {answers}")


def test_a_photo_and_a_question_show_box_crop_and_answer(page, photo):
    put(page, photo)
    question(page, EXAMPLE.question, ", ".join(EXAMPLE.choices))
    settled(page, 2)
    [asked] = ask(open_model("embedded", device="cpu"), ImageFile(photo), [EXAMPLE.question], EXAMPLE.choices)
    base = page.locator("article[data-who=base]")
    assert base.locator(".answer").inner_text() == asked.choice
    assert base.locator(".said").first.inner_text() == asked.located
    assert base.locator("figure img").count() == len(asked.crops) >= 1
    assert page.locator("article[data-who=trained] .answer").is_visible()
    # The frame lies on the photo where the box is, in its colour, and is seen there.
    [place], area = [base.locator(".box").nth(0).bounding_box()], base.locator(".photo img").bounding_box()
    box, scale = asked.boxes[0], area["width"] / 672
    assert abs(place["x"] - (area["x"] + box.x1 * scale)) < 3
    assert abs(place["y"] + place["height"] - (area["y"] + box.y2 * scale)) < 3
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    x, y = round(place["x"] + place["width"] / 2), round(place["y"] + page.evaluate("scrollY"))
    assert COLOURS[0] in {"#{:02X}{:02X}{:02X}".format(*shot.getpixel((x, y + d))) for d in range(-2, 6)}


def test_several_lines_are_several_questions(page, photo):
    put(page, photo)
    question(page, "Which character is on the red square?\nWhat is in the corner?")
    settled(page, 4)
    assert page.locator("#result h3").all_inner_texts() == [
        "Which character is on the red square?",
        "What is in the corner?",
    ]


def test_a_broken_file_gets_a_message_at_once_and_the_next_one_is_answered(page, photo, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(photo.read_bytes()[:3000])
    page.set_input_files("input[type=file]", broken)
    alert = page.locator("#result [role=alert]")
    alert.wait_for()
    assert "the photo: damaged image" in alert.inner_text()
    assert "Traceback" not in page.content() and str(tmp_path) not in page.content()
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    put(page, photo)
    question(page, "What?")
    settled(page, 2)


def test_a_mistake_is_said(page, photo):
    question(page, "What?")
    page.get_by_text("there is no photo; drop one first").wait_for()
    put(page, photo)
    question(page, " ")
    page.get_by_text("there is no question").wait_for()


@pytest.mark.parametrize(
    "words",
    [
        "<script>alert(1)</script><img src=x onerror=alert(2)>",
        "${alert(1)} {{constructor.constructor('alert(1)')()}} {{{value}}}",
        "**bold** [link](javascript:alert(1)) <b>x</b> &amp; $x^2$",
    ],
)
def test_what_is_typed_is_shown_as_text(page, photo, words):
    put(page, photo)
    question(page, words, f"{words.replace(',', '')}, other")
    settled(page, 2)
    assert page.locator("#result h3").inner_text() == words
    assert page.locator("#result h3 *").count() == 0
    assert page.locator("#result script, #result img[src=x], #result a").count() == 0


def test_an_example_is_one_click(page):
    page.locator("#examples button").first.click()
    settled(page, 2)
    assert page.get_by_label("Question").input_value() == EXAMPLE.question
    assert page.get_by_label("Choices").input_value() == ", ".join(EXAMPLE.choices)
    assert page.locator("article[data-who=base] .verdict").inner_text().startswith(("right", "wrong, it is"))
    page.wait_for_selector("img[src*='/gradio_api/file=']")
    page.get_by_role("button", name="Ask").click()
    page.wait_for_function("document.querySelectorAll('#result .verdict').length === 0")
    settled(page, 2)


def test_nothing_is_wider_than_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("#examples button").last.click()
    settled(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_full_queue_is_said(page, demo):
    full, stop = threading.Event(), threading.Event()

    def keep_asking(_):
        while not stop.is_set():
            if demo.join(None, "What?", uuid.uuid4().hex)[0] == 503:
                full.set()

    with ThreadPoolExecutor(16) as guests:
        guests.map(keep_asking, range(16))
        try:
            assert full.wait(60)
            busy = page.get_by_text("currently busy")
            for _ in range(20):
                page.get_by_role("button", name="Ask").click()
                page.wait_for_timeout(500)
                if busy.count():
                    break
            assert busy.first.is_visible()
        finally:
            stop.set()
