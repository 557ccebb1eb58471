"""A checkpoint that somebody else made may hold a pickle: it is not run, and the error says so."""

import os
import shutil

import pytest
import torch
from small_runs import make_up, rl_stage, small_recipe

from hart_lite.errors import HartError
from hart_lite.runs.checkpoints import seal
from hart_lite.training.train import train


class MakesFolder:
    """Unpickled, it makes a folder."""

    def __init__(self, folder) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_pickle_in_a_checkpoint_is_not_run(tiny_base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    recipe = small_recipe(tiny_base, tmp_path / "run", [rl_stage(steps=2, save_every=1)])
    train(recipe)
    stage = tmp_path / "run/stages/1-rl"
    for place in (tmp_path / "run/adapter", stage / "adapter", stage / "checkpoint-2"):
        shutil.rmtree(place)
    torch.save({"state": MakesFolder(tmp_path / "ran")}, stage / "checkpoint-1/optimizer.pt")
    (stage / "checkpoint-1/complete.json").unlink()
    seal(stage / "checkpoint-1")
    with pytest.raises(HartError, match=r"checkpoint-1 holds more than numbers: .* none was run"):
        train(recipe, resume=True)
    assert not (tmp_path / "ran").exists()
