"""What training measures of its held-out questions: by hand, and that the policy is left as it was."""

import json

import pytest
import torch
from pictures import Photo
from small_runs import make_up, small_recipe

from hart_lite.eval.benchmarks import held_out
from hart_lite.eval.evaluator import prediction
from hart_lite.eval.questions import Question
from hart_lite.eval.results import EvalFolder, read_evaluation
from hart_lite.eval.run_summary import run_metrics, run_summary_table
from hart_lite.inference.engine import Conversation
from hart_lite.inference.load import recipe_model
from hart_lite.inference.protocols.base import Outcome
from hart_lite.runs.layout import EVALUATION, SUMMARY
from hart_lite.runs.splits import load_splits
from hart_lite.training.evaluation import RunEvaluator, failed_before_training, summarise
from hart_lite.types import Box, Example

MODES = ["full", "crops", "full+crops"]
TARGET = Box(0, 0, 10, 10)
ELSEWHERE = Box(50, 50, 60, 60)
# {id: (boxes, right in mode full, from crops, from both)}
SCRIPT = {
    "both": ((TARGET,), True, True, True),
    "lucky": ((ELSEWHERE,), True, True, False),
    "blind": ((), False, False, True),
    "misread": ((TARGET, ELSEWHERE), False, False, True),
    "no truth": ((ELSEWHERE,), False, True, True),
}


def evaluation(folder, script=SCRIPT, modes=MODES):
    """An evaluation that came out as `script` says; `no truth` has no boxes and counts for answers only."""
    with EvalFolder(folder, {"model": "m", "benchmarks": {"held-out": "RUN"}, "modes": modes}) as held:
        for id, (boxes, *right) in script.items():
            truth = () if id == "no truth" else (TARGET,)
            example = Example(id, (Photo(100, 100),), "?", "A", ("a", "b"), truth, "small")
            for mode, correct in zip(MODES, right, strict=True):
                if mode in modes:
                    looked = boxes if mode != "full" else ()
                    done = Conversation((), Outcome("A" if correct else "B", looked))
                    held.append(prediction(Question(held_out.BENCHMARK, example), mode, done))
        held.write_summary({}, "")
    return read_evaluation(folder)


def test_figures_by_hand(tmp_path):
    figures = run_metrics(evaluation(tmp_path / "eval"))
    assert figures["questions"] == 5
    assert figures["accuracy"] == {"full": 2 / 5, "crops": 3 / 5, "full+crops": 4 / 5}
    assert figures["valid_box"] == 4 / 5
    grounding = figures["grounding"]
    assert grounding["wrong_grounding"] == 2 / 4
    assert grounding["mean_iou"] == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert grounding["coverage"] == pytest.approx((0.01 + 0.01 + 0 + 0.02) / 4)
    # rows: box wrong, box right; columns: answer wrong, answer right
    assert figures["joint"]["full"]["counts"] == [[1, 1], [1, 1]]
    assert figures["joint"]["full"]["mutual_information"] == pytest.approx(0)
    assert figures["joint"]["full+crops"]["counts"] == [[1, 1], [0, 2]]
    assert figures["joint"]["full+crops"]["wrong_box_given_right"] == pytest.approx(1 / 3)


def test_figures_without_boxes_have_no_grounding(tmp_path):
    figures = run_metrics(evaluation(tmp_path / "eval", {"no truth": SCRIPT["no truth"]}, ["full"]))
    assert figures == {"questions": 1, "accuracy": {"full": 0.0}}
    assert "IoGT" not in run_summary_table({"before": figures})


def test_the_table_stands_side_by_side(tmp_path):
    asked = {id: row for id, row in SCRIPT.items() if id != "no truth"}
    evaluation(tmp_path / EVALUATION / "before", asked)
    evaluation(tmp_path / EVALUATION / "after-1-rl", dict.fromkeys(asked, SCRIPT["both"]))
    summary = summarise(tmp_path, ["before", "after-1-rl", "after-2-sft"])
    lines = run_summary_table(summary).splitlines()
    assert lines[0] == "| held-out questions: 4, 4 | before | after-1-rl |"
    assert "| answers right, full | 0.500 | 1.000 |" in lines
    assert "| wrong grounding (IoGT <= 0.3) | 0.500 | 0.000 |" in lines
    assert "| P(wrong box given right), crops | 0.500 | 0.000 |" in lines
    assert json.loads((tmp_path / SUMMARY).read_text()) == summary


def test_what_failed_before_training(tmp_path):
    """The box where there is ground truth, else the answer in every mode."""
    assert failed_before_training(tmp_path) == set()
    evaluation(tmp_path / EVALUATION / "before", SCRIPT | {"no truth": ((ELSEWHERE,), False, False, False)})
    assert failed_before_training(tmp_path) == {"lucky", "blind", "no truth"}


@pytest.mark.parametrize("training", [True, False])
def test_the_policy_is_left_as_it_was(policy, tiny_base, tmp_path, monkeypatch, training):
    make_up(monkeypatch.setattr)
    recipe = small_recipe(tiny_base, tmp_path)
    asked = load_splits(recipe).eval
    evaluator = RunEvaluator(tmp_path, recipe, recipe_model("m", policy, recipe, {}), asked)
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    policy.model.train(training)
    state = torch.get_rng_state()
    for name in ("before", "again"):
        evaluator.evaluate(name, "m")
    assert policy.model.training is training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in policy.adapter_parameters)
    assert all(torch.equal(p, before[name]) for name, p in policy.model.named_parameters())
    first, second = (read_evaluation(tmp_path / EVALUATION / name) for name in ("before", "again"))
    assert len(first.rows) == 3 * len(asked)
    assert first.rows == second.rows
    policy.model.eval()
