"""Evaluation on scripted answers: what is counted, and that the policy is left as it was."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from hart_lite.eval.evaluate import evaluate
from pictures import Photo
from small_runs import make_up, small_recipe

from hart_lite.eval.run_summary import summary_table
from hart_lite.inference.rollout import Located, Runner
from hart_lite.runs.splits import load_splits
from hart_lite.types import Box, Example, Tokens, Trajectory, Turn

MODES = ["full", "crops", "full+crops"]
TARGET = Box(0, 0, 10, 10)
ELSEWHERE = Box(50, 50, 60, 60)


def question(name: str, boxes=(TARGET,)) -> Example:
    return Example(name, (Photo(100, 100),), "?", "A", ("a", "b"), boxes, "small")


@dataclass
class Scripted:
    """A runner that looks and answers as `script` says: {id: (boxes, right when full, from crops, from both)}."""

    script: dict
    calls: list = field(default_factory=list)
    policy: object = None

    def __post_init__(self):
        self.policy = SimpleNamespace(model=torch.nn.Linear(1, 1), forget_images=lambda: self.calls.append("forget"))

    def locate(self, examples, temperature, seed):
        self.calls.append("locate")
        assert temperature == 0
        turn = Turn("locate", Tokens(), (), "there")
        return [Located(turn, self.script[e.id][0], (), 0) for e in examples]

    def answer_directly(self, examples, temperature, seed):
        return self._answers(examples, 1, temperature)

    def answer_from(self, examples, located, way, temperature, seed):
        assert [found.boxes for found in located] == [self.script[e.id][0] for e in examples]
        return self._answers(examples, {"hart": 2, "full+crops": 3}[way], temperature)

    def _answers(self, examples, column, temperature):
        assert temperature == 0
        rewards = [float(self.script[e.id][column]) for e in examples]
        return [Trajectory((), answer=f"said {column}", reward=reward) for reward in rewards]


SCRIPT = {
    "both": ((TARGET,), True, True, True),
    "lucky": ((ELSEWHERE,), True, True, False),
    "blind": ((), False, False, True),
    "misread": ((TARGET, ELSEWHERE), False, False, True),
    "no truth": ((ELSEWHERE,), False, True, True),
}


def test_a_summary_by_hand():
    """One turn 1 for each batch of two, shared by the modes; `no truth` has no boxes and counts for answers only."""
    runner = Scripted(SCRIPT)
    asked = [question(name, () if name == "no truth" else (TARGET,)) for name in SCRIPT]
    summary, rows = evaluate(runner, asked, MODES, batch_size=2)
    assert runner.calls == ["locate", "forget"] * 3
    assert summary["questions"] == 5
    assert summary["accuracy"] == {"full": 2 / 5, "crops": 3 / 5, "full+crops": 4 / 5}
    assert summary["valid_box"] == 4 / 5
    grounding = summary["grounding"]
    assert grounding["wrong_grounding"] == 2 / 4
    assert grounding["mean_iou"] == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert grounding["coverage"] == pytest.approx((0.01 + 0.01 + 0 + 0.02) / 4)
    # rows: box wrong, box right; columns: answer wrong, answer right
    assert summary["joint"]["full"]["counts"] == [[1, 1], [1, 1]]
    assert summary["joint"]["full"]["mutual_information"] == pytest.approx(0)
    assert summary["joint"]["full+crops"]["counts"] == [[1, 1], [0, 2]]
    assert summary["joint"]["full+crops"]["wrong_box_given_right"] == pytest.approx(1 / 3)
    assert [row["id"] for row in rows] == list(SCRIPT)
    assert rows[1]["boxes"] == [[50, 50, 60, 60, 0]]
    assert rows[1]["answers"] == {"full": "said 1", "crops": "said 2", "full+crops": "said 3"}
    assert rows[1]["right"] == {"full": True, "crops": True, "full+crops": False}
    assert rows[0]["located"] == "there"
    assert "grounding" not in rows[4]


def test_a_summary_without_boxes_has_no_grounding():
    summary, _ = evaluate(Scripted(SCRIPT), [question("both", ())], ["full"], 8)
    assert summary == {"questions": 1, "accuracy": {"full": 1.0}, "valid_box": 1.0}
    assert "IoGT" not in summary_table({"before": summary})


def test_the_table_stands_side_by_side():
    asked = [question(name) for name in SCRIPT]
    before, _ = evaluate(Scripted(SCRIPT), asked, MODES, 8)
    after, _ = evaluate(Scripted(dict.fromkeys(SCRIPT, SCRIPT["both"])), asked, MODES, 8)
    lines = summary_table({"before": before, "after": after}).splitlines()
    assert lines[0] == "| held-out questions: 5, 5 | before | after |"
    assert "| answers right, full | 0.400 | 1.000 |" in lines
    assert "| wrong grounding (IoGT <= 0.3) | 0.600 | 0.000 |" in lines
    assert "| box coverage | 0.010 | 0.010 |" in lines
    assert "| P(wrong box given right), crops | 0.667 | 0.000 |" in lines


@pytest.mark.parametrize("training", [True, False])
def test_the_policy_is_left_as_it_was(policy, tiny_base, tmp_path, monkeypatch, training):
    make_up(monkeypatch.setattr)
    recipe = small_recipe(tiny_base, tmp_path)
    runner = Runner(policy, recipe.pixels, recipe.rollout)
    asked = load_splits(recipe).eval
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    policy.model.train(training)
    state = torch.get_rng_state()
    first = evaluate(runner, asked, MODES, 3)
    assert policy.model.training is training
    assert torch.equal(torch.get_rng_state(), state)
    assert policy._features == {}
    assert all(p.grad is None for p in policy.adapter_parameters)
    assert all(torch.equal(p, before[name]) for name, p in policy.model.named_parameters())
    assert evaluate(runner, asked, MODES, 3) == first
    policy.model.eval()
