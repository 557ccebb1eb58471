"""`held-out=RUN`: the questions that a training evaluates on, as a benchmark of its own."""

import shutil
from pathlib import Path

import pytest
from small_runs import rl_stage, small_recipe

from hart_lite.cli import main
from hart_lite.config.recipe import dump_recipe
from hart_lite.errors import DataError, HartError
from hart_lite.eval.benchmarks import held_out
from hart_lite.eval.questions import images_of, read_questions
from hart_lite.eval.results import read_evaluation
from hart_lite.inference.load import open_model
from hart_lite.runs.splits import load_splits
from hart_lite.training.evaluation import RunEvaluator


@pytest.fixture
def run(tmp_path) -> Path:
    """What the benchmark needs of one."""
    recipe = small_recipe("toy", tmp_path / "run", [rl_stage()])
    recipe.run_dir.mkdir()
    dump_recipe(recipe, recipe.run_dir / "recipe.yaml")
    return recipe.run_dir


def test_its_questions_are_those_of_the_training_and_none_it_trains_on(run):
    recipe = small_recipe("toy", run, [rl_stage()])
    splits = load_splits(recipe)
    questions, bad = read_questions({"held-out": str(run)}, None, strict=True)
    assert [q.example for q in questions] == splits.eval and len(splits.eval) == 4 and not bad
    assert not {e.images[0].key for e in splits.eval} & {e.images[0].key for e in splits.rl}
    right = splits.eval[0]
    assert held_out.BENCHMARK.official(f"({right.answer})", right)
    assert not held_out.BENCHMARK.official("none of them", right)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "held-out needs the directory of a run, such as held-out=runs/tiny_cpu"),
        ("no/such/run", "no/such/run holds no run (no recipe.yaml); `hart-lite train` makes one"),
    ],
)
def test_without_a_run_there_are_no_questions(source, message, tmp_path, capsys):
    with pytest.raises(DataError) as caught:
        list(held_out.read(source))
    assert str(caught.value) == message
    name = f"held-out={source}" if source else "held-out"
    assert main.main(["eval", "toy", "--benchmark", name, "--out", str(tmp_path / "eval")]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "eval").exists()


def test_a_run_without_held_out_questions_says_so(tmp_path):
    recipe = small_recipe("toy", tmp_path / "run", [rl_stage()], data={"toy": {"scenes": 4, "eval_scenes": 0}})
    recipe.run_dir.mkdir()
    dump_recipe(recipe, recipe.run_dir / "recipe.yaml")
    with pytest.raises(HartError, match="held-out: no row can be asked"):
        read_questions({"held-out": str(recipe.run_dir)}, None, strict=False)


def test_the_images_of_a_trainings_evaluation_are_found_where_the_run_is_now(run, tmp_path):
    recipe = small_recipe("toy", run, [rl_stage()])
    model = open_model("toy", device="cpu")
    RunEvaluator(run, recipe, model, load_splits(recipe).eval).evaluate("before", "toy")
    shutil.move(run, tmp_path / "elsewhere")
    evaluation = read_evaluation(tmp_path / "elsewhere" / "evaluation" / "before")
    image_of = images_of(evaluation)
    assert evaluation.settings["benchmarks"] == {"held-out": str(run)}
    assert [image_of(row).key for row in evaluation.rows] == [row.cluster for row in evaluation.rows]
    shutil.move(tmp_path / "elsewhere" / "evaluation" / "before", tmp_path / "alone")
    with pytest.raises(DataError, match="holds no run"):
        images_of(read_evaluation(tmp_path / "alone"))
