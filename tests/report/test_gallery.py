"""The gallery: what is shown of which row, where boxes lie, and that nothing from a file gets out of its place."""

import json

import pytest
from evaluations import SIZE, blind, elsewhere, other_letter, questions, rows_of, sound, write_evaluation
from pages import HOSTILE, Page
from PIL import Image

from hart_lite.errors import DataError, HartError
from hart_lite.eval.prediction import read_prediction
from hart_lite.report.gallery import outcome, write_gallery
from hart_lite.report.looks import SIDE
from hart_lite.types import Box


class Grey:
    key = "grey"

    def size(self):
        return SIZE

    def load(self):
        return Image.new("RGB", SIZE, "#808080")


def five_kinds(question):
    """Right and grounded, right only, grounded only, neither, no box: in turn."""
    kind = question.number % 5
    answer = question.truth if kind in (0, 1) else other_letter(question)
    return answer, [] if kind == 4 else [question.target] if kind in (0, 2) else elsewhere(question)


def gallery(tmp_path, rows, image_of=lambda row: Grey(), before=None, **settings):
    index = write_gallery(write_evaluation(tmp_path / "eval", rows, **settings), image_of, before=before)
    return index, Page(index.read_text(encoding="utf-8"), images="'self' file:")


def outcomes(rows):
    return [outcome(read_prediction(row, "here")) for row in rows]


def test_rows_stand_by_their_outcome(tmp_path):
    rows = rows_of(questions(10), five_kinds)
    assert outcomes(rows[:5]) == [
        *("right and grounded", "right but not grounded", "wrong but grounded", "wrong and not grounded", "no box")
    ]
    index, page = gallery(tmp_path, rows)
    for name in ("right and grounded", "right but not grounded", "wrong but grounded", "no box"):
        assert f"treebench, crops: {name} (2 of 10)" in page.text
    assert page.values("a", "href") == [f"#group-{n}" for n in range(5)]
    assert page.values("section", "id") == [f"group-{n}" for n in range(5)]
    assert page.values("article", "data-outcome") == [name for name in outcomes(rows[:5]) for _ in range(2)]
    # Two questions share an image: 5 photos, 10 crops of the truth, 8 of boxes.
    assert len(list(index.parent.glob("*.jpg"))) == 5 + 10 + 8
    assert len(page.values("img", "src")) == 10 + 10 + 8


def test_modes_without_a_look_and_benchmarks_without_boxes():
    assert outcomes(rows_of(questions(1), blind, mode="full")) == ["wrong"]
    assert outcomes(rows_of(questions(1), sound, boxed=False)) == ["right"]


def test_crops_come_first_and_filters_offer_what_there_is(tmp_path):
    asked = questions(6, categories=("Perception/OCR", "Reasoning"))
    rows = [row for mode in ("full", "full+crops", "crops") for row in rows_of(asked, five_kinds, mode=mode)]
    _, page = gallery(tmp_path, rows)
    modes = list(dict.fromkeys(page.values("article", "data-mode")))
    assert modes == ["crops", "full+crops", "full"]
    assert page.values("select", "name") == ["mode", "outcome", "category"]  # there is nothing before it: no changes
    for value in ("any category", "Perception/OCR", "Reasoning", "no box"):
        assert value in page.text
    assert [name for tag, name, _ in page.attributes if tag == "form"] == ["class", "hidden"]  # its script shows it


def test_an_evaluation_before_it_stands_beside_each_row(tmp_path):
    asked = questions(10)
    before = write_evaluation(tmp_path / "before", rows_of(asked, blind))
    index, page = gallery(tmp_path, rows_of(asked, five_kinds), before=before)
    changes = page.values("article", "data-change")
    assert (changes.count("got right"), changes.count("no change")) == (4, 6)
    assert page.text.count("before") == page.text.count("after") == 10
    assert page.classes("div").count("series") == 10
    assert "change" in page.values("select", "name")
    assert len(list(index.parent.glob("*-0*.jpg"))) == 0


def test_text_from_files_and_models_stays_text(tmp_path):
    (row,) = rows_of(questions(1), sound)
    row |= {name: HOSTILE for name in ("id", "category", "question", "truth", "answer", "benchmark", "mode")}
    row |= {"choices": [HOSTILE, "b"], "turns": [{"kind": HOSTILE, "text": HOSTILE}]}
    _, page = gallery(tmp_path, [row], model=HOSTILE)
    assert page.tags.count("img") == 3
    assert page.text.count("alert(1)") >= 8
    shown = [v for _, name, v in page.attributes if not name.startswith("data-")]
    assert "http:" not in " ".join(map(str, shown))


def test_a_response_of_any_length_and_of_broken_characters(tmp_path):
    (row,) = rows_of(questions(1), sound)
    folder = write_evaluation(tmp_path / "eval", [row | {"turns": [{"kind": "verify", "text": "y" * 10**6}]}])
    lines = (folder / "predictions.jsonl").read_text().replace("What is written", "\\ud800 written")
    (folder / "predictions.jsonl").write_text(lines)
    text = write_gallery(folder, lambda row: Grey()).read_text(encoding="utf-8")
    assert len(text) < 40_000
    assert "(996,000 more characters)" in text
    assert "? written on sign 0?" in text


def test_what_a_card_says(tmp_path):
    (row,) = rows_of(questions(1), lambda q: ("C", [q.target]))
    _, page = gallery(tmp_path, [row | {"official": True}])
    assert "A. STOP (right)" in page.text
    assert "C. EXIT (answered)" in page.text
    assert "C: EXIT \N{BALLOT X} wrong IoU 100 %, covers 1.0 % of the image" in " ".join(page.text.split())
    assert "strict: wrong, official: right" in page.text
    (row,) = rows_of(questions(1), sound)
    _, page = gallery(tmp_path / "b", [row])
    assert "A. STOP (right, answered)" in page.text
    assert "verdict" not in page.text


def test_at_most_so_many_cards_of_an_outcome(tmp_path):
    folder = write_evaluation(tmp_path / "eval", rows_of(questions(20), blind))
    page = Page(write_gallery(folder, lambda row: Grey(), limit=3).read_text(), images="'self' file:")
    assert "treebench, crops: no box (20 of 20, the first 3 shown)" in page.text
    assert page.tags.count("article") == 3
    write_gallery(folder, lambda row: Grey(), limit=1)
    assert len(list((folder / "gallery").glob("*.jpg"))) == 2
    with pytest.raises(HartError, match="limit 0"):
        write_gallery(folder, lambda row: Grey(), limit=0)


def test_modes_that_looked_at_the_same_share_pictures(tmp_path):
    asked = questions(4)
    index, page = gallery(tmp_path, [*rows_of(asked, sound), *rows_of(asked, sound, mode="full+crops")])
    assert len(page.values("img", "src")) == 2 * 4 * 3
    assert len(list(index.parent.glob("*.jpg"))) == 2 + 4 * 2


def test_an_image_that_cannot_be_read_leaves_the_rest(tmp_path):
    def image_of(row):
        if row.id == "0":
            raise HartError("a<b.jpg: no such image file")
        return Grey()

    _, page = gallery(tmp_path, rows_of(questions(3), sound), image_of)
    assert "no picture: a<b.jpg: no such image file" in page.text
    assert page.tags.count("article") == 3
    assert page.tags.count("img") == 2 * 3


def test_boxes_lie_where_they_are_and_the_truth_is_dashed(tmp_path):
    rows = rows_of(questions(1), lambda q: (q.truth, [Box(400, 100, 500, 140), Box(500, 100, 1000, 800)]))
    _, page = gallery(tmp_path, rows)
    assert page.values("svg", "viewbox") == ["0 0 1000 800"]
    frames = [kind for kind in page.classes("rect") if kind.startswith("frame")]
    assert frames == ["frame truth", "frame c1", "frame c2"]
    at = zip(*(page.values("rect", name) for name in ("class", "x", "y", "width", "height")), strict=True)
    places = {kind: [float(value) for value in values] for kind, *values in at}
    left, top, *_ = rows[0]["truth_boxes"][0]
    assert places["frame c1"] == places["casing c1"] == [400, 100, 100, 40]
    assert places["frame c2"] == [500, 100, 500, 700]
    assert places["frame truth"] == pytest.approx([left, top, 100, 80], abs=0.051)
    # Numbers stand above their boxes, inside the photo; a ground truth has none.
    assert places["tag c1"] == [400, 60, 40, 40] and "tag truth" not in places


def test_the_crop_is_what_is_inside_the_box_at_its_own_pixels(tmp_path):
    class Half(Grey):
        def load(self):
            image = Image.new("RGB", SIZE, "red")
            image.paste("blue", (500, 0, 1000, 800))
            return image

    rows = rows_of(questions(1), lambda q: (q.truth, [Box(400, 100, 500, 140), Box(500, 100, 1000, 800)]))
    index, page = gallery(tmp_path, rows, lambda row: Half())
    first, second = (Image.open(index.parent / f"00000-{n}.jpg") for n in (1, 2))
    assert first.size == (100, 40) and max(second.size) == 480  # as large as a page shows
    assert first.getpixel((90, 20))[0] > 240
    assert second.getpixel((5, 180))[2] > 240
    assert (
        "box 1, 100 x 40 px" in page.text and "box 2, 500 x 700 px" in page.text and "asked about, 101 x 8" in page.text
    )
    assert Image.open(index.parent / "00000.jpg").size == SIZE and SIZE[0] < SIDE


def test_boxes_beyond_the_image_or_on_another_one_are_no_trouble(tmp_path):
    (row,) = rows_of(questions(1), sound)
    row["boxes"] = [[2000, 2000, 3000, 3000, 0], [0, 0, 10, 10, 1]]
    index, page = gallery(tmp_path, [row])
    assert sorted(path.name for path in index.parent.glob("*.jpg")) == ["00000-1.jpg", "00000-2.jpg", "00000.jpg"]
    assert [kind for kind in page.classes("rect") if kind.startswith("frame")] == ["frame truth", "frame c1"]


def test_the_rows_are_read_as_everywhere(tmp_path):
    with pytest.raises(DataError, match="holds no evaluation"):
        write_gallery(tmp_path, lambda row: Grey())
    folder = write_evaluation(tmp_path / "eval", rows_of(questions(1), sound))
    row = json.loads((folder / "predictions.jsonl").read_text())
    row["boxes"] = [[5, 5, 1, 9, 0]]
    (folder / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="x1 should be below x2"):
        write_gallery(folder, lambda row: Grey())
