"""Image paths: a data set of somebody else may not point out of its folder, one's own may point anywhere."""

import json

from PIL import Image

from hart_lite.data.convert import convert
from hart_lite.data.dataset import load_examples
from tests.reliability.hostile_files import paths


def test_paths_that_lead_out_of_a_set_of_others_are_refused(tmp_path):
    check = paths(tmp_path)
    assert check.passed, check.measured
    assert check.measured == "63 of 63 refused"


def test_ones_own_rows_may_point_anywhere(tmp_path):
    (tmp_path / "rows").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for name in ("../a.png", str(tmp_path / "a.png")):
        row = {"image": name, "question": "What?", "answer": "A cat"}
        (tmp_path / "rows/r.jsonl").write_text(json.dumps(row) + "\n")
        assert load_examples(tmp_path / "rows/r.jsonl")[0].images[0].size() == (8, 8)


def test_image_dir_says_where_a_converted_set_may_look(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "rows.csv").write_text(f"image,question,answer\n{tmp_path / 'a.png'},What?,A cat\n..\\a.png,b,c\n")
    done = convert(tmp_path / "rows.csv", tmp_path / "out", "csv", image_dir="/")
    assert done.count == 1 and "no such image file" in done.dropped[0]  # a backslash is part of a name here
