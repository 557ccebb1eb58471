"""The benchmark of the methods takes finished runs for what they are, and no others."""

import json
import subprocess

import pytest

from experiments import methods
from hart_lite.config.recipe import dump_recipe, load_recipe
from hart_lite.errors import HartError

SUMMARY = {"before": {"grounding": {"wrong_grounding": 0.5}}}


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """Every method's run of seed 0, made with 60 steps; training another is an error."""
    for name, own in methods.METHODS.items():
        folder = tmp_path / f"{name.replace(', k = ', '-k').lower()}-0"
        folder.mkdir()
        dump_recipe(load_recipe("tiny_cpu", [f"output={folder}", *own, "stages.0.steps=60"]), folder / "recipe.yaml")
        (folder / "summary.json").write_text(json.dumps(SUMMARY))

    def fail(*args, **kwargs):
        raise AssertionError("a run was started")

    monkeypatch.setattr(subprocess, "run", fail)
    return tmp_path


def test_finished_runs_are_not_repeated(finished):
    results = methods.measure(finished, 1, 1, ["stages.0.steps=60"])
    assert results == {name: [SUMMARY] for name in methods.METHODS}


def test_finished_runs_of_another_recipe_are_refused(finished):
    with pytest.raises(HartError, match=r"grpo-0/recipe\.yaml was made by another recipe; differing: stages\.0\.steps"):
        methods.measure(finished, 1, 1, ["stages.0.steps=80"])
