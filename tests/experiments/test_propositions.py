"""The exact gradients against every group there is, through the loss that training uses; and what was found."""

import itertools
import json

import numpy as np
import pytest
import torch
from evaluations import questions, rows_of, sound, write_evaluation

from experiments import proposition2 as p2
from hart_lite.rl.advantages import ap_weights, group_advantages
from hart_lite.rl.losses import policy_loss


def brute_force(bandit: p2.Bandit, rewards: np.ndarray, k: float, beta: float, group: int) -> np.ndarray:
    """Minus the gradient of `policy_loss`, over every group of trajectories and every way the rewards can fall."""
    logits = torch.tensor(np.log(bandit.probs), requires_grad=True)
    total = torch.zeros_like(logits)
    for drawn in itertools.product(range(len(rewards)), repeat=group):
        for fell in itertools.product((0.0, 1.0), repeat=group):
            right = rewards[list(drawn)]
            chance = np.prod(bandit.probs[list(drawn)] * np.where(fell, right, 1 - right))
            if chance == 0 or len(set(fell)) == 1:  # a flat group is left out of training
                continue
            earned = torch.tensor([fell], dtype=torch.float64)
            mu1, mu2 = ap_weights(earned, k=k, beta=beta)
            logps = torch.log_softmax(logits, 0)[list(drawn)]
            loss, _ = policy_loss(
                logps_T=logps,
                old_logps_T=logps.detach(),
                advantages_T=group_advantages(earned)[0],
                mu1_T=mu1[0],
                weights_T=torch.full((group,), 1 / group, dtype=torch.float64),
                clip_eps=0.2,
                ref_logps_T=torch.tensor(bandit.reference)[list(drawn)],
                mu2_T=mu2[0],
            )
            total -= chance * torch.autograd.grad(loss, logits)[0]
    return total.numpy()


@pytest.mark.parametrize(("k", "beta"), [(0.0, 0.0), (0.6, 0.0), (0.6, 0.5)])
def test_the_gradients_are_those_of_the_training_loss(k, beta):
    bandit = p2.random_bandit(np.random.default_rng(4), actions=4)
    found = p2.objective_gradient(bandit, bandit.rewards, k, beta, group=3)
    assert np.abs(found).max() > 0.01
    assert found == pytest.approx(brute_force(bandit, bandit.rewards, k, beta, 3), abs=1e-9)


def test_the_term_of_lucky_answers_by_hand():
    """Three trajectories of 1/2, 1/4, 1/4; the second is right behind a wrong box: 1/4 * (unit vector - policy)."""
    probs = np.array([0.5, 0.25, 0.25])
    bandit = p2.Bandit(probs, np.array([1.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.0]), 0.8, np.log(probs))
    assert bandit.lucky == pytest.approx([-0.125, 0.1875, -0.0625])
    assert bandit.rewards == pytest.approx([1, 0.2, 0])


def test_alpha_has_the_sign_that_the_proposition_gives_it():
    lucky = np.array([3.0, 4.0])
    assert p2.fit(np.array([1.0, 1.0]) - 0.3 * lucky, np.array([1.0, 1.0]), lucky) == p2.Fit(
        pytest.approx(0.3), pytest.approx(0)
    )
    sideways = p2.fit(np.array([-4.0, 3.0]), np.zeros(2), lucky)
    assert (sideways.alpha, sideways.residual) == (pytest.approx(0), pytest.approx(1))
    up_to = p2.fit_up_to_scale(2 * (np.array([1.0, 0.0]) - 0.3 * lucky), np.array([1.0, 0.0]), lucky)
    assert (up_to.alpha, up_to.residual) == (pytest.approx(0.3), pytest.approx(0))


def test_where_the_proposition_holds_and_where_not():
    rng = np.random.default_rng(0)
    bandits = [p2.random_bandit(rng) for _ in range(60)]
    for bandit in bandits:
        for k in p2.KS:
            found = p2.readings(bandit, k)
            for holds in (p2.PLAIN, p2.SCALED):
                assert found[holds].alpha == pytest.approx(bandit.withheld, abs=1e-6)
                assert found[holds].residual < 1e-6
            assert 0 < found[p2.SCALED_KL].residual < 0.3
    ours = [p2.readings(bandit, 0.6) for bandit in bandits]
    assert sum(one[p2.PRINTED].alpha > 1 for one in ours) > 10
    assert sum(one[p2.SAME].residual > 0.3 for one in ours) > 50
    assert sum(one[p2.SAME].alpha < 0 for one in ours) > 30


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_what_k_does_to_the_length_in_large_groups(rate):
    factor = p2.gradient_scale(rate, 0.6, group=400) / p2.gradient_scale(rate, 0, group=400)
    assert factor == pytest.approx(1 + 0.6 * (1 - 2 * rate), abs=0.005)


def test_proposition_1_on_the_papers_counts():
    assert p2.paper_information() == [
        ("Qwen2.5-VL-7B", pytest.approx(0.00105, abs=5e-6), pytest.approx(0.11299, abs=5e-6)),
        ("InternVL3-8B", pytest.approx(0.03226, abs=5e-6), pytest.approx(0.07964, abs=5e-6)),
    ]


def test_proposition_1_on_evaluations_and_runs(tmp_path):
    """At a glance the answers are those of the next question: they tell nothing of its boxes."""
    asked = questions(80)
    crops = rows_of(asked, sound)
    verdicts = [row["strict"] for row in crops]
    glance = rows_of(asked, lambda q: ("ABCD"[(q.number + (not verdicts[q.number - 1])) % 4], []), mode="full")
    folder = write_evaluation(tmp_path / "eval", [*glance, *crops])
    ((name, full, closed),) = p2.measured_information(folder)
    assert name == "treebench"
    assert full < 0.05 < 0.3 < closed
    (tmp_path / "run").mkdir()
    joint = {mode: {"mutual_information": bits} for mode, bits in (("full", 0.25), ("crops", 0.5))}
    (tmp_path / "run/summary.json").write_text(json.dumps({"before": {"joint": joint}, "after": {"accuracy": {}}}))
    assert p2.measured_information(tmp_path / "run") == [("before", 0.25, 0.5)]
    text = p2.report(5, [folder, tmp_path / "run"])
    assert "it holds in 2 of 2" in text
    assert "| run, before | 0.25000 | 0.50000 | yes |" in text
