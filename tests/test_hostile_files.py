"""Data sets and checkpoints of others: paths that lead out are refused, pickles are not run."""

import json
import os
import shutil

import pytest
import torch
from PIL import Image
from small_runs import make_up, rl_stage, small_recipe

from hart_lite.data.convert import convert
from hart_lite.data.dataset import load_examples
from hart_lite.data.images import ImageFile
from hart_lite.errors import HartError
from hart_lite.runs.checkpoints import seal
from hart_lite.training.train import train
from tests.reliability.hostile import _paths as paths_promise


def test_paths_that_lead_out_of_a_set_of_others_are_refused(tmp_path):
    promise = paths_promise(tmp_path)
    assert promise.kept and promise.measured == "36 of 36 refused"


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


def test_a_pipe_in_the_place_of_an_image_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for read in (ImageFile(tmp_path / "pipe.png").load, ImageFile(tmp_path / "pipe.png").size):
        with pytest.raises(HartError, match=r"pipe\.png: not a file"):
            read()


class Runs:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, mark) -> None:
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def test_a_pickle_in_a_checkpoint_is_not_run_and_said_plainly(tiny_base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    recipe = small_recipe(tiny_base, tmp_path / "run", [rl_stage(steps=2, save_every=1)])
    train(recipe)
    stage = tmp_path / "run/stages/1-rl"
    for place in (tmp_path / "run/adapter", stage / "adapter", stage / "checkpoint-2"):
        shutil.rmtree(place)
    torch.save({"state": Runs(tmp_path / "ran")}, stage / "checkpoint-1/optimizer.pt")
    (stage / "checkpoint-1/complete.json").unlink()
    seal(stage / "checkpoint-1")
    with pytest.raises(HartError, match=r"checkpoint-1 holds more than numbers: .* none was run"):
        train(recipe, resume=True)
    assert not (tmp_path / "ran").exists()
