"""Report and gallery in a browser: pictures open large, before and after side by side, filters and pages."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page

from hart_lite.eval.prediction import Grounding
from hart_lite.eval.questions import images_of
from hart_lite.eval.results import read_evaluation
from hart_lite.report.gallery import write_gallery
from hart_lite.report.run_report import write_report
from hart_lite.toy.scenes import World, examples
from hart_lite.types import Box
from hart_lite.utils.jsonl import write_jsonl

COUNT = 30
QUESTIONS = examples(World(), range(COUNT), 1)


def evaluation(folder: Path, right, rows_file: Path) -> Path:
    """Of every third question the box is missed; `right(n)` says which answers are right."""
    folder.mkdir(parents=True)
    settings = {"model": folder.name, "benchmarks": {"rows": str(rows_file)}, "modes": ["full", "crops"], "limit": None}
    (folder / "eval.json").write_text(json.dumps(settings))
    rows = []
    for mode in ("full", "crops"):
        for n, e in enumerate(QUESTIONS):
            wrong = "ABCDE"[("ABCDE".index(e.answer) + 1) % 5]
            looked = [Box(0, 0, 60, 60)] if n % 3 == 0 else list(e.boxes)
            found = Grounding(grounded=n % 3 > 0, grounded_targets=int(n % 3 > 0), targets=1, iou=0.5, coverage=0.1)
            answer = e.answer if right(n) else wrong
            rows.append({
                "benchmark": "rows", "mode": mode, "id": e.id, "category": e.category, "cluster": e.images[0].key,
                "question": e.question, "choices": list(e.choices), "truth": e.answer, "text": answer,
                "answer": answer, "strict": right(n), "official": right(n),
                "boxes": [] if mode == "full" else [box.to_list() for box in looked],
                "truth_boxes": [box.to_list() for box in e.boxes],
                **({} if mode == "full" else {"grounding": found.model_dump()}),
            })  # fmt: skip
    write_jsonl(folder / "predictions.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    rows = []
    for n, e in enumerate(QUESTIONS):
        e.images[0].load().save(folder / f"{n}.png")
        rows.append({"id": e.id, "image": f"{n}.png", "question": e.question, "choices": list(e.choices),
                     "answer": e.answer, "category": e.category, "boxes": [list(b.xyxy) for b in e.boxes]})  # fmt: skip
    write_jsonl(folder / "rows.jsonl", rows)
    before = evaluation(folder / "before", lambda n: n % 2 == 0, folder / "rows.jsonl")
    after = evaluation(folder / "after", lambda n: n % 5 > 0, folder / "rows.jsonl")
    return write_gallery(after, images_of(read_evaluation(after)), before=before)


@pytest.fixture
def page(open_page, gallery) -> Page:
    return open_page(gallery.as_uri(), gallery.parent.as_uri())


def cards(page: Page) -> list[str]:
    return page.locator("article:visible h3").all_inner_texts()


def test_the_gallery_shows_a_page_of_what_was_answered_from_crops(page):
    assert len(cards(page)) == 12
    assert set(page.locator("article:visible").evaluate_all("all => all.map(one => one.dataset.mode)")) == {"crops"}
    status = page.locator("output")
    assert status.inner_text() == f"{COUNT} questions, page 1 of 3"
    ids = page.locator("article:visible small").all_inner_texts()
    page.get_by_label("Next page").first.click()
    assert status.inner_text().endswith("page 2 of 3")
    assert not set(ids) & set(page.locator("article:visible small").all_inner_texts())
    page.get_by_label("Next page").first.click()
    assert len(cards(page)) == COUNT - 24 and all(
        button.is_disabled() for button in page.get_by_label("Next page").all()
    )
    assert page.evaluate("document.documentElement.scrollHeight") < 8000


def test_filters_leave_what_fits_them(page):
    page.get_by_label("outcome").select_option("right but not grounded")
    shown = page.locator("article:visible")
    expected = sum(n % 3 == 0 and n % 5 > 0 for n in range(COUNT))
    assert shown.count() == expected > 0
    assert page.locator("section:visible").count() == 1
    page.get_by_label("category").select_option("small")
    small = sum(n % 3 == 0 and n % 5 > 0 and q.category == "small" for n, q in enumerate(QUESTIONS))
    assert page.locator("output").inner_text().startswith(f"{small} questions")
    page.get_by_label("outcome").select_option("")
    page.get_by_label("category").select_option("")
    page.get_by_label("change").select_option("got wrong")
    assert page.locator("output").inner_text().startswith(f"{sum(n % 2 == 0 and n % 5 == 0 for n in range(COUNT))} ")


def test_a_picture_opens_large_beside_the_one_before(page):
    look = page.locator("article:visible .look").nth(1)
    width = look.locator("svg").bounding_box()["width"]
    look.focus()
    page.keyboard.press("Enter")
    viewer = page.locator("dialog")
    shown = viewer.locator(".stage .look")
    assert shown.count() == 2 and [t.strip() for t in shown.locator(".when").all_inner_texts()] == ["before", "after"]
    assert shown.nth(1).locator("svg").bounding_box()["width"] > 1.4 * width
    assert viewer.locator("h3").inner_text() == cards(page)[0]
    said, photo = shown.nth(1).locator("figcaption").bounding_box(), shown.nth(1).locator("svg").bounding_box()
    assert said["y"] + said["height"] <= photo["y"]
    # Crops of the box and of the truth, at their own pixels.
    crop = shown.nth(1).locator(".crop img").first
    assert crop.bounding_box()["width"] >= int(crop.get_attribute("width"))
    assert shown.nth(1).locator(".crop.truth").count() == 1
    page.keyboard.press("b")
    assert shown.count() == 1
    page.keyboard.press("ArrowLeft")
    assert shown.locator(".when").inner_text() == "before"
    assert viewer.get_by_label("Previous picture").is_disabled()
    page.keyboard.press("Escape")
    assert viewer.is_hidden() and look.evaluate("look => look === document.activeElement")


def test_a_picture_is_enlarged_at_a_point(page):
    page.locator("article:visible .look").first.click()
    photo = page.locator("dialog .photo").first
    small = photo.bounding_box()["width"]
    photo.dblclick(position={"x": 0.7 * small, "y": 0.7 * small})
    assert photo.bounding_box()["width"] == pytest.approx(3 * small, rel=0.02)
    pane = page.locator("dialog .pane").first
    middle = pane.evaluate("pane => (pane.scrollLeft + pane.clientWidth / 2) / pane.scrollWidth")
    assert middle == pytest.approx(0.7, abs=0.06)
    page.keyboard.press("-")
    assert photo.bounding_box()["width"] == pytest.approx(2 * small, rel=0.02)


def test_a_swipe_goes_on(open_page, gallery):
    page = open_page(gallery.as_uri(), gallery.parent.as_uri(), width=390, has_touch=True)
    page.locator("article:visible .look").first.tap()
    title = page.locator("dialog .stage .when")
    assert title.inner_text() == "before"
    for name, x in (("touchstart", 300), ("touchend", 100)):
        page.locator("dialog .stage").evaluate(
            """(stage, [name, x]) => stage.dispatchEvent(new TouchEvent(name, {bubbles: true, ...Object.fromEntries(
                ['touches', 'changedTouches'].map(key => [key, [new Touch({identifier: 1, target: stage, clientX: x,
                clientY: 300})]]))}))""",
            [name, x],
        )
    assert title.inner_text() == "after"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(open_page, gallery, scheme):
    page = open_page(gallery.as_uri(), gallery.parent.as_uri(), width=390, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("article:visible .look").nth(1).click()
    assert page.locator("dialog").evaluate("dialog => dialog.scrollWidth") <= 390
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(int(part) for part in paper.strip("rgb()").split(",")) > 384
    assert light == (scheme == "light")


def test_without_a_script_every_card_is_there_under_its_heading(open_page, gallery):
    page = open_page(gallery.as_uri(), gallery.parent.as_uri(), java_script_enabled=False)
    assert page.locator("article:visible").count() == 2 * COUNT
    assert page.locator(".filters:visible").count() == 0 and page.locator("nav").is_visible()
    page.locator("nav a").last.click()
    assert page.locator("section").last.is_visible()


def test_a_report_that_is_watched_is_read_again_by_the_browser(open_page, tmp_path):
    """But not while a picture is open."""
    (tmp_path / "recipe.yaml").write_text("name: first\nstages:\n  - {kind: rl, steps: 4}\n")
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"stage": "1-rl", "step": n, "reward": n / 9, "seconds_step": 2.0}) + "\n" for n in (1, 2))
    )
    address = write_report(tmp_path, refresh=1).as_uri()
    page = open_page(address, address)
    assert page.locator("h1").inner_text().startswith("first")
    chart = page.locator(".look").first
    width = chart.locator("img").bounding_box()["width"]
    chart.click()
    assert page.locator("dialog img").bounding_box()["width"] > 1.5 * width
    text = (tmp_path / "recipe.yaml").read_text().replace("first", "second")
    (tmp_path / "recipe.yaml").write_text(text)
    write_report(tmp_path, refresh=1)
    page.wait_for_timeout(2500)
    assert page.locator("h1").inner_text().startswith("first")
    page.keyboard.press("Escape")
    page.get_by_role("heading", name="second").first.wait_for()
