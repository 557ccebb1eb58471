import math
from types import SimpleNamespace

import pytest
import torch
from trl_loss import B, G, T, random_step, trl_grpo

from hart_lite.rl.advantages import ap_weights, group_advantages
from hart_lite.rl.losses import importance_weights, kl_k3, policy_loss, token_nll, token_weights


def ours(s, logps, k, beta, clip_eps_high=None):
    mu1, mu2 = ap_weights(s.rewards, k=k, beta=beta)

    def per_token(values_B_G):
        return values_B_G.reshape(-1, 1).expand(-1, T)[s.mask]

    return policy_loss(
        logps_T=logps[s.mask],
        old_logps_T=s.old[s.mask],
        advantages_T=per_token(group_advantages(s.rewards)),
        mu1_T=per_token(mu1),
        weights_T=per_token(token_weights(s.lengths)),
        clip_eps=0.2,
        clip_eps_high=clip_eps_high,
        ref_logps_T=s.ref[s.mask],
        mu2_T=per_token(mu2),
    )


@pytest.mark.parametrize(("beta", "high"), [(0.0, None), (0.04, None), (0.04, 0.05)])
def test_with_mu_one_it_is_trls_grpo_loss(beta, high):
    s = random_step()
    logps, theirs = s.logps.clone().requires_grad_(), s.logps.clone().requires_grad_()
    loss, metrics = ours(s, logps, k=0, beta=beta, clip_eps_high=high)
    expected = trl_grpo(s, theirs, beta, clip=(0.2, high or 0.2))
    assert metrics["clip_share"] > 0  # otherwise the clip is not compared
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(logps.grad, theirs.grad, rtol=1e-10, atol=1e-12)


def test_k_above_zero_is_not_grpo():
    s = random_step()
    assert abs(ours(s, s.logps, k=0.6, beta=0.04)[0] - trl_grpo(s, s.logps, 0.04)) > 1e-3


def test_k_zero_equals_no_weights_bit_for_bit():
    s = random_step()
    kind = {"logps_T": s.logps[s.mask], "old_logps_T": s.old[s.mask], "ref_logps_T": s.ref[s.mask], "clip_eps": 0.2}
    per_token = lambda x: x.reshape(-1, 1).expand(-1, T)[s.mask]  # noqa: E731
    advantages, weights = per_token(group_advantages(s.rewards)), per_token(token_weights(s.lengths))
    ones = torch.ones_like(advantages)
    plain = policy_loss(advantages_T=advantages, weights_T=weights, mu1_T=ones, mu2_T=0.01 * ones, **kind)[0]
    assert torch.equal(ours(s, s.logps, k=0, beta=0.01)[0], plain)


def one_token(advantage, logp=0.0, old=0.0, mu1=1.0, **kl):
    value = torch.tensor([logp], dtype=torch.float64, requires_grad=True)

    def tensor(number):
        return torch.tensor([number], dtype=torch.float64)

    loss, metrics = policy_loss(
        logps_T=value,
        old_logps_T=tensor(old),
        advantages_T=tensor(advantage),
        mu1_T=tensor(mu1),
        weights_T=tensor(1.0),
        clip_eps=0.2,
        **{name: tensor(number) for name, number in kl.items()},
    )
    loss.backward()
    return loss.item(), value.grad.item(), metrics


def test_descending_makes_rewarded_tokens_likelier():
    assert one_token(advantage=2.0)[:2] == (-2.0, -2.0)
    assert one_token(advantage=-2.0)[:2] == (2.0, 2.0)
    assert one_token(advantage=2.0, mu1=1.45)[:2] == (-2.9, -2.9)


def test_descending_pulls_towards_the_reference():
    """d = ref - lp = ln 2: k3 = 2 - ln 2 - 1, its slope in lp is 1 - exp(d) = -1."""
    loss, slope, metrics = one_token(0.0, logp=-1.0, old=-1.0, ref_logps_T=-1.0 + math.log(2), mu2_T=0.5)
    assert loss == pytest.approx(0.5 * (1 - math.log(2)))
    assert slope == pytest.approx(-0.5)
    assert metrics["kl"] == pytest.approx(1 - math.log(2))
    assert metrics["kl_loss"] == pytest.approx(loss)
    assert one_token(0.0, logp=-1.0, old=-1.0, ref_logps_T=-1.0 - math.log(2), mu2_T=0.5)[1] == pytest.approx(0.25)


def test_the_clip_stops_only_steps_that_go_too_far():
    far, near = math.log(1.5), math.log(1.1)
    assert one_token(1.0, logp=far)[:2] == (pytest.approx(-1.2), 0.0)
    assert one_token(-1.0, logp=far)[:2] == (pytest.approx(1.5), pytest.approx(1.5))
    assert one_token(-1.0, logp=-far)[:2] == (pytest.approx(0.8), 0.0)
    assert one_token(1.0, logp=near)[:2] == (pytest.approx(-1.1), pytest.approx(-1.1))
    assert [one_token(a, logp=far)[2]["clip_share"].item() for a in (1.0, -1.0)] == [1.0, 0.0]


def test_a_worked_group_by_hand():
    """Rewards (1, 0), ratio 1, k = 0.6: A = +-a, mu1 = (1.3, 0.7): loss = -(1.3 a - 0.7 a) / 2 whatever the lengths."""
    lengths = torch.tensor([[3, 1]])
    mu1, _ = ap_weights([[1, 0]], k=0.6, beta=0.01)
    owner = torch.tensor([0, 0, 0, 1])
    logps = torch.full((4,), -0.7)
    loss, _ = policy_loss(
        logps_T=logps,
        old_logps_T=logps,
        advantages_T=group_advantages([[1, 0]])[0, owner],
        mu1_T=mu1[0, owner],
        weights_T=token_weights(lengths)[0, owner],
        clip_eps=0.2,
    )
    assert loss.item() == pytest.approx(-0.3 * 0.5 / (0.5**0.5 + 1e-4), rel=1e-5)


def test_micro_batches_add_up_to_the_step():
    s = random_step()
    whole, metrics = ours(s, s.logps, k=0.6, beta=0.04)
    parts = []
    for keep in (torch.arange(B * G) < 3, torch.arange(B * G) >= 3):
        part = SimpleNamespace(**vars(s) | {"mask": s.mask & keep.view(-1, 1)})
        parts.append(ours(part, s.logps, k=0.6, beta=0.04))
    torch.testing.assert_close(parts[0][0] + parts[1][0], whole)
    for name, value in metrics.items():
        torch.testing.assert_close(parts[0][1][name] + parts[1][1][name], value)


def test_token_weights():
    """Two groups of two: each trajectory weighs 1/4 in all, shared by its tokens; an empty one weighs nothing."""
    assert token_weights(torch.tensor([[1, 2], [4, 0]])).tolist() == [[0.25, 0.125], [0.0625, 0.0]]


def test_k3_by_hand():
    logps = torch.tensor([-1.0, -1.0, -1.0])
    kl = kl_k3(logps + torch.tensor([0.0, math.log(2), -math.log(2)]), logps)
    torch.testing.assert_close(kl, torch.tensor([0.0, 1 - math.log(2), math.log(2) - 0.5]))
    tiny = torch.full((1000,), 1e-4)
    assert (kl_k3(logps[0] + tiny, logps[0].expand(1000)) >= 0).all()


def test_half_a_kl_term_is_refused():
    with pytest.raises(ValueError, match="both ref_logps_T and mu2_T"):
        one_token(1.0, mu2_T=0.01)


def test_importance_weights_by_hand():
    """exp(0.1), exp(-0.5), 2 in place of exp(1), and 1 within the bound or where nobody knows."""
    logps = torch.tensor([-1.0, -1.0, -1.0, -1.0, -1.0], requires_grad=True)
    drawn = torch.tensor([-1.1, -0.5, -2.0, -1.04, float("nan")])
    weights = importance_weights(logps, drawn, bound=0.05)
    assert weights.tolist() == pytest.approx([1.10517, 0.60653, 2.0, 1.0, 1.0], rel=1e-5)
    assert not weights.requires_grad


def test_importance_weights_correct_the_gradient_for_the_engine_that_drew():
    """Two words, drawn with 0.6 and 0.4, of a policy with 0.5 each, and advantages 1 and 0: the gradient is
    0.5 * (1 - 0.5, -0.5), and without weights it is 0.6 * (0.5, -0.5)."""
    logits, drawn = torch.zeros(2, requires_grad=True), torch.tensor([0.6, 0.4])

    def gradient(weights: torch.Tensor) -> list[float]:
        logps = logits.log_softmax(-1)
        value = (drawn * weights * torch.tensor([1.0, 0.0]) * logps).sum()
        return torch.autograd.grad(value, logits)[0].tolist()

    weights = importance_weights(logits.log_softmax(-1), drawn.log(), bound=0.01)
    assert gradient(weights) == pytest.approx([0.25, -0.25])
    assert gradient(torch.ones(2)) == pytest.approx([0.3, -0.3])


def test_token_nll_is_the_mean_over_answer_tokens():
    logps = torch.tensor([-1.0, -2.0, -6.0], requires_grad=True)
    hits, weights = torch.tensor([1.0, 1.0, 0.0]), torch.full((3,), 1 / 3)
    loss, metrics = token_nll(logps_T=logps, hits_T=hits, weights_T=weights)
    assert loss.item() == pytest.approx(3.0)
    assert metrics["mean_token_accuracy"].item() == pytest.approx(2 / 3)
    loss.backward()
    torch.testing.assert_close(logps.grad, torch.full((3,), -1 / 3))
