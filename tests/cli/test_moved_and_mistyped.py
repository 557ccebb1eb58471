"""A base that has moved is named, a mistyped run is told at once, and what `train` may go on with."""

import logging
import shutil
from pathlib import Path

import pytest
import torch

from hart_lite.cli import main as cli
from hart_lite.config.recipe import dump_recipe, load_recipe
from hart_lite.config.sections import ModelSection
from hart_lite.errors import HartError
from hart_lite.export.merge import merge
from hart_lite.inference.load import open_model
from hart_lite.models.loading import load_policy
from hart_lite.perf.model_sizes import Dimensions
from hart_lite.runs.run_dir import check_run, save_adapter


@pytest.fixture(scope="module")
def moved(tiny_base, tmp_path_factory) -> tuple[Path, Path]:
    """(an adapter whose base is no longer where it says, where the base is now)."""
    folder = tmp_path_factory.mktemp("moved")
    shutil.copytree(tiny_base, folder / "before")
    save_adapter(
        load_policy(ModelSection(base=str(folder / "before"), dtype="float32", device="cpu")), folder / "adapter"
    )
    (folder / "before").rename(folder / "now")
    return folder / "adapter", folder / "now"


def test_a_base_that_has_moved_can_be_named(moved, tmp_path):
    adapter, base = moved
    with pytest.raises(HartError):
        open_model(str(adapter), device="cpu")
    assert open_model(str(adapter), device="cpu", base_path=base).engine.policy.family.source == str(base)
    with pytest.raises(HartError, match="say where they are: --base-path DIR"):
        merge(adapter, tmp_path / "merged")
    merge(adapter, tmp_path / "merged", base_path=base)
    assert (tmp_path / "merged" / "config.json").is_file()


def test_another_base_is_refused_wherever_it_lies(moved, tiny_base, tmp_path):
    adapter, base = moved
    other = shutil.copytree(base, tmp_path / "other")
    policy = load_policy(ModelSection(base=str(other), dtype="float32", device="cpu"))
    with torch.no_grad():
        policy.model.get_input_embeddings().weight += 1
    policy.peft.unload().save_pretrained(other)
    with pytest.raises(HartError, match="trained on"):
        open_model(str(adapter), device="cpu", base_path=other)


def test_a_base_beside_what_is_whole_is_refused(tiny_base):
    with pytest.raises(HartError, match="goes with a run or an adapter"):
        open_model(str(tiny_base), base_path=tiny_base)


def test_a_mistyped_run_is_told_without_asking_the_hub(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    with pytest.raises(HartError, match="there is no model 'runs/typo'"):
        open_model("runs/typo")
    assert cli.main(["plan", "qwen7b_lora", "model.base=./nosuch"]) == 1
    assert "the sizes of base './nosuch' are not known here" in capsys.readouterr().err
    with pytest.raises(HartError, match="not known here"):
        Dimensions.of("models/qwen 2.5")


def test_a_run_directory_is_its_recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(f"name: mine\nk: 0.5\noutput: {tmp_path}\nstages: [{{kind: rl}}]\n")
    assert load_recipe(tmp_path).k == 0.5


def test_resuming_says_what_differs_and_that_nothing_is_there(tmp_path, caplog):
    recipe = load_recipe("tiny_cpu", [f"output={tmp_path / 'run'}"])
    (tmp_path / "run").mkdir()
    with caplog.at_level(logging.WARNING):
        check_run(tmp_path / "run", recipe, resume=True)
    assert "holds no run to go on with, so a new one begins" in caplog.text
    caplog.clear()
    check_run(tmp_path / "run", recipe, resume=False)
    assert not caplog.text
    dump_recipe(recipe, tmp_path / "run" / "recipe.yaml")
    other = load_recipe(tmp_path / "run", ["stages.0.steps=7", "rollout.samples=3"])
    with pytest.raises(HartError, match=r"differing: rollout\.samples, stages\.0\.steps\. Resume"):
        check_run(tmp_path / "run", other, resume=True)
