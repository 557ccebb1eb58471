"""Losses as pure functions: flat token tensors in, (loss, metrics) out.

Every `weights_T` sums to 1 over the whole optimizer step, not over one micro-batch: losses and metrics of micro-batches
then simply add up to those of the step, however it was cut. Metrics are detached scalars.
"""

from __future__ import annotations

import torch
from torch import Tensor

Metrics = dict[str, Tensor]
IMPORTANCE_CAP = 2.0


def token_weights(lengths_B_G: Tensor) -> Tensor:
    """Weight of each trained token of a trajectory, 1 / (its trained tokens * G * B), as `weights_B_G` (float32).

    Lengths count both turns together. A trajectory without tokens weighs 0 and still counts in the mean, as in TRL.
    """
    return torch.where(lengths_B_G > 0, 1 / (lengths_B_G.clamp(min=1) * lengths_B_G.numel()), 0.0)


def kl_k3(ref_logps: Tensor, logps: Tensor) -> Tensor:
    """KL(policy || reference) per token by the k3 estimator, exp(d) - d - 1 with d = ref - policy; never negative.

    http://joschu.net/blog/kl-approx.html. `expm1` keeps small differences that exp(d) - 1 would round away.
    """
    difference = ref_logps - logps
    return torch.expm1(difference) - difference


def policy_loss(
    *,
    logps_T: Tensor,
    old_logps_T: Tensor,
    advantages_T: Tensor,
    mu1_T: Tensor,
    weights_T: Tensor,
    clip_eps: float,
    clip_eps_high: float | None = None,
    ref_logps_T: Tensor | None = None,
    mu2_T: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """AP-GRPO: -sum w (mu1 min(ratio A, clip(ratio) A) - mu2 k3), ratio = exp(logps - old_logps).

    All tensors are (T,): one entry per trained token, with the values of its trajectory. mu1 = 1 and mu2 = beta is GRPO
    (TRL's loss_type "grpo"). The ratio is clipped to 1 - `clip_eps` and 1 + `clip_eps_high`, which is the same where it
    is not given. Without `ref_logps_T` and `mu2_T` there is no KL term; one alone is a `ValueError`.
    Metrics: `policy_loss`, `kl_loss` (both as in the loss), `kl` (mean over trajectories), `clip_share` of the tokens.
    """
    if (ref_logps_T is None) != (mu2_T is None):
        raise ValueError("The KL term needs both ref_logps_T and mu2_T, or neither.")
    ratio_T = torch.exp(logps_T - old_logps_T)
    low, high = 1 - clip_eps, 1 + (clip_eps if clip_eps_high is None else clip_eps_high)
    clipped_T = ratio_T.clamp(low, high)
    surrogate_T = torch.minimum(ratio_T * advantages_T, clipped_T * advantages_T)
    loss = -(weights_T * mu1_T * surrogate_T).sum()
    acts_T = ((ratio_T < low) & (advantages_T < 0)) | ((ratio_T > high) & (advantages_T > 0))
    metrics = {"policy_loss": loss.detach(), "clip_share": (weights_T * acts_T).sum().detach()}
    if ref_logps_T is not None and mu2_T is not None:
        kl_T = kl_k3(ref_logps_T, logps_T)
        kl_loss = (weights_T * mu2_T * kl_T).sum()
        loss = loss + kl_loss
        metrics |= {"kl_loss": kl_loss.detach(), "kl": (weights_T * kl_T).sum().detach()}
    return loss, metrics


def importance_weights(logps_T: Tensor, drawn_logps_T: Tensor, bound: float) -> Tensor:
    """(T,) truncated importance weights of tokens that another engine drew, min(exp(logps - drawn_logps), 2).

    They make the gradient that of the policy although the engine's probabilities are a little off (Yao et al. 2025,
    "Your efficient RL framework secretly brings you off-policy RL training"; 2 is the cap in TRL). Within `bound` nats,
    and where `drawn_logps_T` is NaN, a weight is 1: rounding is no reason to weigh. No gradient passes.
    """
    gap_T = logps_T.detach() - drawn_logps_T
    return torch.where(gap_T.abs() > bound, gap_T.exp().clamp(max=IMPORTANCE_CAP), 1.0)


def token_nll(*, logps_T: Tensor, hits_T: Tensor, weights_T: Tensor) -> tuple[Tensor, Metrics]:
    """Equation (8), the weighted negative log-likelihood of the answer tokens (T,): with weights 1/T, their mean.

    `hits_T` is 1 where a token is the model's first choice. Metric: `mean_token_accuracy`, their weighted sum.
    """
    loss = -(weights_T * logps_T).sum()
    return loss, {"mean_token_accuracy": (weights_T * hits_T).sum().detach()}


def token_kl(logits_N_V: Tensor, teacher_logits_N_V: Tensor) -> Tensor:
    """(N,) KL(policy || teacher) between two next-token distributions over all V words, in the precision of the logits.

    On-policy distillation takes it in this direction on the policy's own tokens (GKD, arXiv 2306.13649): what the
    policy would say is to be what the teacher would. No gradient reaches the teacher.
    """
    logps_N_V, teacher_N_V = logits_N_V.log_softmax(-1), teacher_logits_N_V.detach().log_softmax(-1)
    return (logps_N_V.exp() * (logps_N_V - teacher_N_V)).sum(-1)
