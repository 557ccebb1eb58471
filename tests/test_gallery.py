"""The page and its pictures: what is drawn where, and that nothing from a file gets out of its place."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from evaluations import SIZE, blind, elsewhere, other_letter, questions, rows_of, sound, typed, write_evaluation
from PIL import Image

from hart_lite.errors import HartError
from hart_lite.report.gallery import PREDICTED, SIDE, TRUTH, draw_truth_and_boxes, group_of, write_gallery
from hart_lite.types import Box

HOSTILE = '</pre></article><script>alert(1)</script><img src="http://x.test/a" onerror=alert(2)>"\'&'
VOID = {"meta", "img"}


class Grey:
    key = "grey"

    def size(self):
        return SIZE

    def load(self):
        return Image.new("RGB", SIZE, "#808080")


class Page(HTMLParser):
    """Reads a page, checks that its tags close in order, and keeps what a test asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def values(self, tag, name):
        return [value for t, n, value in self.attributes if (t, n) == (tag, name)]


def five_kinds(question):
    """Right and grounded, right only, grounded only, neither, no box: in turn."""
    kind = question.number % 5
    answer = question.truth if kind in (0, 1) else other_letter(question)
    return answer, [] if kind == 4 else [question.target] if kind in (0, 2) else elsewhere(question)


def gallery(tmp_path, rows, image_of=lambda row: Grey(), **settings):
    index = write_gallery(write_evaluation(tmp_path / "eval", rows, **settings), image_of)
    return index, Page(index.read_text(encoding="utf-8"))


def test_rows_stand_in_their_groups(tmp_path):
    rows = rows_of(questions(10), five_kinds)
    assert [group_of(row) for row in typed(rows[:5])] == [
        *("right and grounded", "right but not grounded", "wrong but grounded", "wrong and not grounded", "no box")
    ]
    index, page = gallery(tmp_path, rows)
    for name in ("right and grounded", "right but not grounded", "wrong but grounded", "no box"):
        assert f"treebench, crops: {name} (2 of 10)" in page.text
    assert page.values("a", "href") == [f"#group-{n}" for n in range(5)]
    assert page.values("section", "id") == [f"group-{n}" for n in range(5)]
    assert page.tags.count("article") == 10
    # Two pictures for each question with a box, one without.
    assert len(page.values("img", "src")) == len(list(index.parent.glob("*.jpg"))) == 8 * 2 + 2


def test_modes_without_a_look_and_benchmarks_without_boxes():
    (glance,) = typed(rows_of(questions(1), blind, mode="full"))
    assert group_of(glance) == "wrong"
    (row,) = typed(rows_of(questions(1), sound, boxed=False))
    assert group_of(row) == "right"


def test_every_link_is_a_picture_beside_the_page(tmp_path):
    index, page = gallery(tmp_path, rows_of(questions(6), five_kinds))
    for file in page.values("img", "src"):
        assert re.fullmatch(r"[\d-]+\.jpg", file)
        assert (index.parent / file).is_file()
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name == "style"]


def test_the_policy_lets_the_style_and_the_pictures_in_and_nothing_else(tmp_path):
    index, page = gallery(tmp_path, rows_of(questions(2), sound))
    (policy,) = [v for v in page.values("meta", "content") if "default-src" in v]
    style = re.search(r"<style>(.*?)</style>", index.read_text(), re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src 'self' file:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in style
    assert "@import" not in style
    assert "width=device-width, initial-scale=1" in page.values("meta", "content")


def test_text_from_files_and_models_stays_text(tmp_path):
    (row,) = rows_of(questions(1), sound)
    row |= {name: HOSTILE for name in ("id", "category", "question", "truth", "answer", "benchmark", "mode")}
    row |= {"choices": [HOSTILE, "b"], "turns": [{"kind": HOSTILE, "text": HOSTILE}]}
    _, page = gallery(tmp_path, [row], model=HOSTILE)
    assert "script" not in page.tags
    assert page.tags.count("img") == 2
    assert page.text.count("alert(1)") >= 10
    assert "http:" not in " ".join(str(value) for _, _, value in page.attributes)


def test_a_response_of_any_length_and_of_broken_characters(tmp_path):
    (row,) = rows_of(questions(1), sound)
    folder = write_evaluation(tmp_path / "eval", [row | {"turns": [{"kind": "verify", "text": "y" * 10**6}]}])
    lines = (folder / "predictions.jsonl").read_text().replace("What is written", "\\ud800 written")
    (folder / "predictions.jsonl").write_text(lines)
    text = write_gallery(folder, lambda row: Grey()).read_text(encoding="utf-8")
    assert len(text) < 20_000
    assert "(996,000 more characters)" in text
    assert "? written on sign 0?" in text


def test_what_a_card_says(tmp_path):
    (row,) = rows_of(questions(1), lambda q: ("C", [q.target]))
    _, page = gallery(tmp_path, [row])
    assert "A. STOP (right)" in page.text
    assert "C. EXIT (answered)" in page.text
    assert "strict: wrong, official: wrong" in page.text
    assert "1 of 1 grounded" in page.text
    (row,) = rows_of(questions(1), sound)
    _, page = gallery(tmp_path / "b", [row])
    assert "A. STOP (right, answered)" in page.text


def test_at_most_so_many_cards_of_a_group(tmp_path):
    folder = write_evaluation(tmp_path / "eval", rows_of(questions(20), blind))
    page = Page(write_gallery(folder, lambda row: Grey(), limit=3).read_text())
    assert "treebench, crops: no box (20 of 20, the first 3 shown)" in page.text
    assert page.tags.count("article") == 3
    assert len(list((folder / "gallery").glob("*.jpg"))) == 3
    write_gallery(folder, lambda row: Grey(), limit=1)
    assert len(list((folder / "gallery").glob("*.jpg"))) == 1
    with pytest.raises(HartError, match="limit 0"):
        write_gallery(folder, lambda row: Grey(), limit=0)


def test_modes_that_looked_at_the_same_share_pictures(tmp_path):
    asked = questions(4)
    index, page = gallery(tmp_path, [*rows_of(asked, sound), *rows_of(asked, sound, mode="full+crops")])
    assert len(page.values("img", "src")) == 16
    assert len(list(index.parent.glob("*.jpg"))) == 8


def test_an_image_that_cannot_be_read_leaves_the_rest(tmp_path):
    def image_of(row):
        if row.id == "0":
            raise HartError("a<b.jpg: no such image file")
        return Grey()

    _, page = gallery(tmp_path, rows_of(questions(3), sound), image_of)
    assert "no picture: a<b.jpg: no such image file" in page.text
    assert page.tags.count("article") == 3
    assert page.tags.count("img") == 4


def colour_near(image: Image.Image, x: int, y: int) -> set[str]:
    """Colours within six pixels above and below a point."""
    return {"#{:02X}{:02X}{:02X}".format(*image.getpixel((x, y + d))) for d in range(-6, 7)}


def test_frames_lie_around_the_boxes_at_their_scale():
    """4000 x 2000 shown at 1000 x 500: everything is a quarter."""
    image = Image.new("RGB", (4000, 2000), "#808080")
    drawn = draw_truth_and_boxes(image, [Box(400, 400, 1200, 1200)], [Box(2000, 800, 2800, 1600)])
    assert drawn.size == (SIDE, 500)
    assert PREDICTED in colour_near(drawn, 200, 100) & colour_near(drawn, 200, 300)
    assert PREDICTED not in colour_near(drawn, 600, 200)
    dashes = [TRUTH in colour_near(drawn, x, 200) for x in range(510, 690)]
    assert 0.3 < sum(dashes) / len(dashes) < 0.9
    inside = (drawn.getpixel((200, 200)), drawn.getpixel((105, 105)), drawn.getpixel((600, 300)))
    assert set(inside) == {(128, 128, 128)}


def test_a_box_of_the_whole_image_is_seen():
    drawn = draw_truth_and_boxes(Image.new("RGB", (300, 200), "#808080"), [Box(0, 0, 300, 200)], [])
    assert drawn.size == (300, 200)
    assert PREDICTED in colour_near(drawn, 150, 6) & colour_near(drawn, 150, 193)


def test_the_crop_is_what_is_inside_the_box(tmp_path):
    class Half(Grey):
        def load(self):
            image = Image.new("RGB", SIZE, "red")
            image.paste("blue", (500, 0, 1000, 800))
            return image

    rows = rows_of(questions(1), lambda q: (q.truth, [Box(400, 100, 500, 140), Box(500, 100, 1000, 800)]))
    index, _ = gallery(tmp_path, rows, lambda row: Half())
    first, second = (Image.open(index.parent / f"00000-{n}.jpg") for n in (1, 2))
    assert (first.size, second.size) == ((180, 72), (257, 360))
    assert first.getpixel((170, 36))[0] > 240
    assert second.getpixel((5, 180))[2] > 240


def test_boxes_beyond_the_image_or_on_another_one_are_no_trouble(tmp_path):
    (row,) = rows_of(questions(1), sound)
    row["boxes"] = [[2000, 2000, 3000, 3000, 0], [0, 0, 10, 10, 1]]
    index, _ = gallery(tmp_path, [row])
    assert sorted(path.name for path in index.parent.glob("*.jpg")) == ["00000-1.jpg", "00000.jpg"]


def test_the_rows_are_read_as_everywhere(tmp_path):
    with pytest.raises(HartError, match="holds no evaluation"):
        write_gallery(tmp_path, lambda row: Grey())
    folder = write_evaluation(tmp_path / "eval", rows_of(questions(1), sound))
    row = json.loads((folder / "predictions.jsonl").read_text())
    row["boxes"] = [[5, 5, 1, 9, 0]]
    (folder / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(HartError, match="x1 should be below x2"):
        write_gallery(folder, lambda row: Grey())
