"""The demo as a person meets it: a photo, a question, the box, the crop and the answer; and boxes drawn by hand."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from hart_lite.boxes import expand
from hart_lite.data.drawing import COLOURS
from hart_lite.data.images import ImageFile
from hart_lite.demo.examples import close_looks
from hart_lite.inference.ask import ask
from hart_lite.inference.load import open_model
from hart_lite.types import Box

EXAMPLE = close_looks()[0]


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "scene.png"
    EXAMPLE.images[0].load().save(path)
    return path


def put(page: Page, photo: Path) -> None:
    page.set_input_files("input[type=file]", photo)
    page.locator("#stage svg").wait_for()


def question(page: Page, words: str, choices: str = "") -> None:
    page.get_by_label("Question").fill(words)
    page.get_by_label("Choices").fill(choices)
    page.get_by_role("button", name="Ask", exact=True).click()


def settled(page: Page, answers: int, place: str = "#result") -> None:
    expect(page.locator(f"{place} .answer")).to_have_count(answers, timeout=120_000)


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Shares of the photo."""
    stage = page.locator("#stage svg")
    stage.scroll_into_view_if_needed()
    area = stage.bounding_box()
    at = [(area["x"] + x * area["width"], area["y"] + y * area["height"]) for x, y in (start, end)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=4)
    page.mouse.up()


def test_a_photo_and_a_question_show_box_crop_and_answer(page, photo):
    put(page, photo)
    question(page, EXAMPLE.question, ", ".join(EXAMPLE.choices))
    settled(page, 2)
    [asked] = ask(open_model("toy", device="cpu"), ImageFile(photo), [EXAMPLE.question], EXAMPLE.choices)
    base = page.locator("article[data-who=base]")
    assert base.locator(".answer").inner_text() == asked.choice
    assert base.locator(".located").text_content() == asked.located
    assert base.locator(".crop img").count() == len(asked.crops) >= 1
    assert page.locator("article[data-who=trained] .answer").is_visible()
    # The frame lies on the photo where the box is, in its colour, and is seen there.
    frame, area = base.locator("rect.frame").first.bounding_box(), base.locator("svg").bounding_box()
    box, scale = asked.boxes[0], area["width"] / 672
    assert abs(frame["x"] - (area["x"] + box.x1 * scale)) < 4
    assert abs(frame["y"] + frame["height"] - (area["y"] + box.y2 * scale)) < 4
    shot = Image.open(io.BytesIO(base.locator("svg").screenshot())).convert("RGB")
    x, y = round((box.x1 + box.x2) / 2 * scale), round(box.y2 * scale)
    assert COLOURS[0] in {"#{:02X}{:02X}{:02X}".format(*shot.getpixel((x, y + d))) for d in range(-4, 5)}


def test_what_is_asked_from_a_box_is_answered_from_its_crop_alone(page, photo):
    """A box around another thing of the scene, drawn by hand, then moved with the keyboard."""
    put(page, photo)
    page.get_by_label("Question").fill("Which character is it?")
    thing = EXAMPLE.images[0].things[-1].box
    drag(page, (thing.x1 / 672, thing.y1 / 672), (thing.x2 / 672, thing.y2 / 672))
    settled(page, 2, "#yours")
    assert page.locator("#result .answer").count() == 0
    own = page.locator("#box .frame")
    drawn = [float(own.get_attribute(name)) for name in ("x", "y", "width", "height")]
    assert drawn == pytest.approx([thing.x1, thing.y1, thing.width, thing.height], abs=3)
    left, top, right, bottom = expand(Box(drawn[0], drawn[1], drawn[0] + drawn[2], drawn[1] + drawn[3]), 0.1,
                                      (672, 672)).whole_pixels((672, 672))  # fmt: skip
    caption = page.locator("#yours .crop").first.inner_text()
    width, height = (int(word) for word in caption.split(", ")[1].removesuffix(" px").split(" x "))
    assert (width, height) == pytest.approx((right - left, bottom - top), abs=1)
    box = Box(*[float(f"{v:.1f}") for v in (drawn[0], drawn[1], drawn[0] + drawn[2], drawn[1] + drawn[3])])
    [said] = ask(open_model("toy", device="cpu"), ImageFile(photo), ["Which character is it?"], boxes=[box])
    assert page.locator("#yours article[data-who=base] .answer").inner_text() == said.answer
    page.locator("#stage svg").focus()
    page.keyboard.press("ArrowLeft")
    assert float(own.get_attribute("x")) == pytest.approx(max(drawn[0] - 672 / 50, 0), abs=0.1)
    page.keyboard.press("Shift+ArrowUp")
    assert float(own.get_attribute("height")) == pytest.approx(drawn[3] - 672 / 50, abs=0.1)
    page.get_by_role("button", name="Remove the box").click()
    assert own.is_hidden() and page.locator("#yours .answer").count() == 0


def drawn(page: Page) -> list[float]:
    """Left, top, width and height of the box on the photo, in shares of it."""
    return [float(page.locator("#box .frame").get_attribute(name)) / 672 for name in ("x", "y", "width", "height")]


def test_a_box_is_moved_and_resized_by_dragging(page, photo):
    put(page, photo)
    page.get_by_label("Question").fill("What?")
    drag(page, (0.2, 0.2), (0.4, 0.5))
    drag(page, (0.3, 0.3), (0.5, 0.3))
    assert drawn(page) == pytest.approx([0.4, 0.2, 0.2, 0.3], abs=0.01)
    area = page.locator("#stage svg").bounding_box()
    for n, right, down in ((0, -0.1, -0.1), (1, 0.1, -0.05), (2, 0.05, 0.1), (3, 0.1, 0.2)):
        left, top, width, height = drawn(page)
        corner = page.locator("#box .corner").nth(n).bounding_box()
        start = ((corner["x"] - area["x"] + corner["width"] / 2) / area["width"],
                 (corner["y"] - area["y"] + corner["height"] / 2) / area["height"])  # fmt: skip
        drag(page, start, (start[0] + right, start[1] + down))
        sides = [left + (n % 2 == 0) * right, top + (n < 2) * down]
        sides += [width + (right if n % 2 else -right), height + (down if n > 1 else -down)]
        assert drawn(page) == pytest.approx(sides, abs=0.01)
    settled(page, 2, "#yours")
    page.get_by_role("button", name="Larger").first.click()
    assert page.locator(".area").evaluate(
        "area => area.scrollWidth > area.clientWidth || area.scrollHeight > area.clientHeight"
    )


def test_the_box_that_the_model_named_is_moved_and_answered_from(page):
    """The gesture that shows the method: from another box comes another answer."""
    page.locator("[data-example]").first.click()
    settled(page, 2)
    base, trained = (page.locator(f"#result article[data-who={who}]") for who in ("base", "trained"))

    def lies_on_the_photo(column) -> list[float]:
        frame = column.locator("rect.frame.c1").first
        named = [float(frame.get_attribute(name)) / 672 for name in ("x", "y", "width", "height")]
        assert drawn(page) == pytest.approx(named, abs=0.001)
        assert page.locator("#box").get_attribute("class") == "model"
        return named

    lies_on_the_photo(trained)
    base.get_by_role("button", name="Move").first.click()
    left, top, width, height = lies_on_the_photo(base)
    assert page.locator("#yours .answer").count() == 0
    thing = EXAMPLE.boxes[0]
    middle, goal = (left + width / 2, top + height / 2), ((thing.x1 + thing.x2) / 1344, (thing.y1 + thing.y2) / 1344)
    drag(page, middle, goal)
    settled(page, 2, "#yours")
    assert page.locator("#box").get_attribute("class") == "own"
    box = page.locator("#box .frame")
    x, y, w, h = (float(box.get_attribute(name)) for name in ("x", "y", "width", "height"))
    assert ((x + w / 2) / 672, (y + h / 2) / 672) == pytest.approx(goal, abs=0.01)
    here = Box(*[float(f"{v:.1f}") for v in (x, y, x + w, y + h)])
    toy = open_model("toy", device="cpu")
    [said] = ask(toy, EXAMPLE.images[0], [EXAMPLE.question], EXAMPLE.choices, boxes=[here])
    answered = page.locator("#yours article[data-who=base]")
    assert answered.locator(".answer").inner_text() == said.choice
    assert ("right" in answered.locator(".verdict").inner_text()) == (said.answer == EXAMPLE.answer)
    assert base.locator(".answer").is_visible()  # what it answered first


def test_a_photo_asked_of_the_toy_base_is_warned_about(page, photo):
    warning = page.get_by_text("knows drawn shapes alone")
    assert warning.is_hidden()
    page.locator("[data-example]").first.click()
    settled(page, 2)
    assert warning.is_hidden()
    put(page, photo)
    assert warning.is_visible() and "Qwen/Qwen2.5-VL-7B-Instruct" in warning.inner_text()


def test_several_lines_are_several_questions(page, photo):
    put(page, photo)
    question(page, "Which character is on the red square?\nWhat is in the corner?")
    settled(page, 4)
    assert page.locator("#result h2").all_inner_texts() == [
        "Which character is on the red square?",
        "What is in the corner?",
    ]


def test_a_broken_file_gets_a_message_at_once_and_the_next_one_is_answered(page, photo, tmp_path):
    broken, heic = tmp_path / "broken.png", tmp_path / "IMG_1.heic"
    broken.write_bytes(photo.read_bytes()[:3000])
    heic.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    alert = page.locator("#result [role=alert]")
    for path, words in ((broken, "the photo: damaged image"), (heic, "the photo: HEIC, as iPhones save photos")):
        page.set_input_files("input[type=file]", path)
        expect(alert).to_contain_text(words)
    assert "Traceback" not in page.content() and str(tmp_path) not in page.content()
    put(page, photo)
    question(page, "What?")
    settled(page, 2)


def test_a_mistake_is_said(page, photo):
    question(page, "What?")
    page.get_by_text("there is no photo; drop one first").wait_for()
    put(page, photo)
    question(page, " ")
    page.get_by_text("there is no question").wait_for()
    drag(page, (0.2, 0.2), (0.4, 0.4))
    page.get_by_text("type a question, then draw the box again").wait_for()


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
    assert page.locator("#result h2").inner_text() == words
    assert page.locator("#result h2 *").count() == 0
    assert page.locator("#result script, #result img[src=x], #result a").count() == 0


def test_an_example_is_one_click(page):
    page.locator("[data-example]").first.click()
    settled(page, 2)
    assert page.get_by_label("Question").input_value() == EXAMPLE.question
    assert page.get_by_label("Choices").input_value() == ", ".join(EXAMPLE.choices)
    assert (
        "right" in page.locator("article[data-who=base] .verdict").inner_text()
        or "wrong, it is" in page.locator("article[data-who=base] .verdict").inner_text()
    )
    question(page, "Another question?")
    settled(page, 2)
    assert page.locator("#result .verdict").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(open_page, demo, scheme):
    here = f"http://127.0.0.1:{demo.port}/"
    page = open_page(here, here, width=390, color_scheme=scheme)
    page.locator("[data-example]").last.click()
    settled(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_answers_open_large(page):
    page.locator("[data-example]").first.click()
    settled(page, 2)
    page.locator("#result .look").first.focus()
    page.keyboard.press("Enter")
    viewer = page.locator("dialog")
    assert viewer.is_visible()
    assert viewer.locator(".stage svg").bounding_box()["width"] > 500
    page.keyboard.press("Escape")
    assert viewer.is_hidden()


def test_who_waits_is_told_and_a_full_queue_is_said(page, photo, demo):
    """Others ask all the time; sooner or later this page is refused, and told so, or waits, and is answered."""
    put(page, photo)
    data, stop = photo.read_bytes(), []

    def keep_asking(number: int) -> int:
        refused = 0
        while not stop:
            refused += demo.ask(data, f"What {number}?")[0] == 503
        return refused

    with ThreadPoolExecutor(20) as others:
        asking = [others.submit(keep_asking, n) for n in range(20)]
        try:
            expect(page.locator("#result")).to_be_empty()
            for _ in range(30):
                question(page, "What?")
                page.wait_for_timeout(300)
                if page.get_by_text("too many questions at once").count():
                    break
            assert page.get_by_text("too many questions at once").is_visible()
        finally:
            stop.append(True)
    assert sum(task.result() for task in asking) > 0
    question(page, "What?")
    settled(page, 2)
