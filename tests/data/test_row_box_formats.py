"""Boxes that are no pixels are refused by name, and converted when their frame is named."""

import json

import pytest
from PIL import Image

from hart_lite.cli.main import main
from hart_lite.data.check import check_dataset
from hart_lite.data.convert import convert
from hart_lite.data.dataset import load_examples
from hart_lite.errors import DataError
from hart_lite.types import Box

ROW = {"question": "Which?", "answer": "blue", "image": "a.png"}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (640, 480)).save(tmp_path / "a.png")
    return tmp_path


def rows(folder, *boxes, images=None):
    path = folder / "rows.jsonl"
    names = images or ["a.png"] * len(boxes)
    lines = [json.dumps(ROW | {"image": name, "boxes": [box]}) for name, box in zip(names, boxes, strict=True)]
    path.write_text("\n".join(lines))
    return path


REFUSED = {
    "0 to 1": ([0.25, 0.25, 0.5, 0.5], r"0\.5, 0\.5\] is less than a pixel and looks like relative boxes \(0 to 1\).*"
               "`--boxes unit`"),
    "the whole image": ([0, 0, 1, 1], "looks like relative boxes"),
    "0 to 1, as x, y, width, height": ([0.6, 0.7, 0.2, 0.2], "looks like relative boxes"),
    "half of each": ([0.25, 0.25, 160, 120], r"begins like relative boxes \(0 to 1\) and ends in whole pixels"),
    "0 to 1000": ([100, 200, 500, 990], r"640 x 480 pixels; .*relative boxes \(0 to 1000\).*`--boxes relative-1000`"),
    "far outside": ([100, 200, 500, 4000], "reaches outside its image of 640 x 480 pixels$"),
    "x, y, width, height": ([300, 200, 50, 50], "is empty; .*not x, y, width, height"),
    "a sliver": ([10, 10, 10.5, 200], r"\[10, 10, 10\.5, 200\] is less than a pixel wide or high"),
}  # fmt: skip


@pytest.mark.parametrize(("box", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_pixels_is_refused_by_checking_and_by_loading(folder, box, message):
    path = rows(folder, [1, 2, 30, 40], box)
    with pytest.raises(DataError, match=message):
        load_examples(path)
    report = check_dataset(path)
    assert report.good == 1 and len(report.problems) == 1
    assert report.problems[0].startswith(f"{path}:2: boxes: ")


@pytest.mark.parametrize("box", [[0, 0, 640, 480], [0.4, 0.3, 630.5, 470.2], [0.5, 0.5, 640, 100], [0, 0, 1, 2],
                                 [0.2, 7, 20, 30]])  # fmt: skip
def test_boxes_in_pixels_are_kept(folder, box):
    assert load_examples(rows(folder, box))[0].boxes == (Box(*box),)


def large_images(folder, n, size=(4000, 3000)):
    Image.new("L", size).save(folder / "0.png")
    for k in range(1, n):
        (folder / f"{k}.png").write_bytes((folder / "0.png").read_bytes())
    return [f"{k}.png" for k in range(n)]


@pytest.mark.parametrize("largest", [1000, 950])
def test_a_set_from_0_to_1000_on_large_images_is_refused_once(folder, largest):
    names = large_images(folder, 8)
    boxes = [[k, k, 500 + k, 600] for k in range(7)] + [[10, 20, 30, largest]]
    path = rows(folder, *boxes, images=names)
    message = rf"no box of 8 images has a number above {largest}, .*relative boxes \(0 to 1000\).*relative-1000"
    for read in (load_examples, check_dataset, lambda path: load_examples(path, strict=False)):
        with pytest.raises(DataError, match=message):
            read(path)
    with pytest.raises(DataError, match=message):
        convert(path, folder / "out", "rows")
    assert not (folder / "out").exists()
    done = convert(path, folder / "out", "rows", boxes="relative-1000")
    assert load_examples(done.rows)[7].boxes == (Box(40, 60, 120, 3 * largest),)


def test_few_boxes_or_one_beyond_1000_say_nothing(folder):
    names = large_images(folder, 8)
    small = [[k, k, 500 + k, 990] for k in range(8)]
    assert len(load_examples(rows(folder, *small[:3], images=names[:3]))) == 3
    assert len(load_examples(rows(folder, *small[:7], [10, 20, 30, 1200], images=names))) == 8
    assert len(load_examples(rows(folder, *small, images=["0.png"] * 8))) == 8  # one thing, asked about eight times
    low = [[k, k, 500 + k, 600] for k in range(8)]
    assert len(load_examples(rows(folder, *low, images=names))) == 8


FRAMES = {
    "xywh": [64, 120, 96, 60],
    "pixels": [64, 120, 160, 180],
    "unit": [0.1, 0.25, 0.25, 0.375],
    "unit-padded": [0.1, 0.3125, 0.25, 0.40625],  # 80 pixels of padding above 480 in a square of 640
    "relative-1000": [100, 250, 250, 375],
}


@pytest.mark.parametrize("frame", FRAMES)
def test_every_frame_is_converted_to_pixels(folder, frame, capsys):
    out = folder / "out"
    path = rows(folder, FRAMES[frame])
    assert main(["data", "convert", str(path), str(out), "--format", "rows", "--boxes", frame]) == 0
    assert load_examples(out / "rows.jsonl")[0].boxes == (Box(64, 120, 160, 180),)
    assert main(["data", "check", str(out / "rows.jsonl")]) == 0


def test_boxes_of_several_images_go_by_their_own(folder):
    Image.new("RGB", (100, 200)).save(folder / "b.png")
    row = {"images": ["a.png", "b.png"], "question": "?", "answer": "x", "boxes": [[0.1, 0.25, 0.25, 0.375, 1]]}
    (folder / "rows.jsonl").write_text(json.dumps(row))
    done = convert(folder / "rows.jsonl", folder / "out", "rows", boxes="unit")
    assert load_examples(done.rows)[0].boxes == (Box(10, 50, 25, 75, 1),)


def test_rounded_numbers_end_at_the_border_and_others_are_dropped_by_name(folder):
    done = convert(rows(folder, [500, 0, 1000.4, 1000], [500, 0, 1200, 900]), folder / "out", "rows",
                   boxes="relative-1000")  # fmt: skip
    assert load_examples(done.rows)[0].boxes == (Box(320, 0, 640, 480),)
    assert "boxes: [320.0, 0.0, 768.0, 432.0] reaches outside" in done.dropped[0]


def test_what_cannot_be_converted_is_named_as_ever(folder):
    path = rows(folder, [1, 2, 3], ["a", 1, 2, 3], [0, 0, 1, 1], images=["a.png", "a.png", "none.png"])
    with pytest.raises(DataError) as refused:
        convert(path, folder / "out", "rows", boxes="unit")
    assert all(text in str(refused.value) for text in (":1: boxes: [1, 2, 3] given", ":2: boxes: ['a'", "none.png"))


def coco(folder, bbox):
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 640, "height": 480}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": bbox}],
        "categories": [{"id": 1, "name": "square"}],
    }
    (folder / "coco.json").write_text(json.dumps(data))
    return folder / "coco.json"


def test_coco_boxes_of_another_frame_are_refused_and_converted(folder):
    asked = {"question": "What is it?", "category_answer": True}
    with pytest.raises(DataError, match=r"annotations\[0\]: boxes: .* looks like relative boxes .*`--boxes unit`"):
        convert(coco(folder, [0.1, 0.25, 0.15, 0.125]), folder / "out", "coco", **asked)
    done = convert(coco(folder, [0.1, 0.25, 0.15, 0.125]), folder / "out", "coco", boxes="unit", **asked)
    assert load_examples(done.rows)[0].boxes == (Box(64, 120, 160, 180),)
    for number, frame in enumerate((None, "xywh", "pixels")):  # COCO has width and height in any frame
        done = convert(coco(folder, FRAMES["xywh"]), folder / f"{number}", "coco", boxes=frame, **asked)
        assert load_examples(done.rows)[0].boxes == (Box(64, 120, 160, 180),)


@pytest.mark.parametrize(
    ("format", "boxes", "message"),
    [("rows", "units", r"--boxes 'units' \(did you mean 'unit'\?\); allowed: xywh, unit, unit-padded, relative-1000, "),
     ("rows", "seen-pixels", "--boxes 'seen-pixels'"),
     ("llava", "unit", "--boxes is for rows, csv, coco, not for llava")],
)  # fmt: skip
def test_an_unknown_frame_is_refused(folder, format, boxes, message):
    with pytest.raises(DataError, match=message):
        convert(rows(folder, [0, 0, 1, 1]), folder / "out", format, boxes=boxes)
