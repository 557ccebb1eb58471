"""From the rewards of a group to its advantages and asymmetric weights (AP-GRPO, arXiv 2602.23615).

`rewards_B_G`: B questions x G samples, as a float tensor (the result has its dtype) or nested lists (float32).
G < 2 raises `HartError`: there is nothing to compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hart_lite.errors import HartError

Rewards = Tensor | Sequence[Sequence[float]]

STD_EPS = 1e-4  # as in TRL's GRPO


def group_advantages(rewards_B_G: Rewards) -> Tensor:
    """(r - mean) / (std + 1e-4) within each group, std with Bessel's correction; exactly 0 where all rewards agree."""
    rewards_B_G = _as_groups(rewards_B_G)
    return _centred(rewards_B_G) / (rewards_B_G.std(dim=1, keepdim=True) + STD_EPS)


def ap_weights(rewards_B_G: Rewards, *, k: float, beta: float) -> tuple[Tensor, Tensor]:
    """(mu1_B_G, mu2_B_G): weights of the policy term, 1 + k (r - mean), and of the KL term, beta (1 - k (r - mean)).

    Right answers push harder and are held less, wrong ones the reverse. k = 0 gives exactly 1 and beta, which is GRPO.
    """
    shift_B_G = k * _centred(_as_groups(rewards_B_G))
    return 1 + shift_B_G, beta * (1 - shift_B_G)


def _as_groups(rewards: Rewards) -> Tensor:
    rewards_B_G = torch.as_tensor(rewards)
    if not rewards_B_G.is_floating_point():
        rewards_B_G = rewards_B_G.float()
    if rewards_B_G.dim() != 2 or rewards_B_G.shape[1] < 2:
        raise HartError(
            f"Rewards of shape {list(rewards_B_G.shape)}: expected B questions x G samples with G of at least 2; "
            "set rollout.samples to 2 or more"
        )
    return rewards_B_G


def _centred(rewards_B_G: Tensor) -> Tensor:
    # The mean of equal floats may be off by a rounding, which the small std would blow up: flat groups are set to 0.
    flat_B_1 = rewards_B_G.amin(dim=1, keepdim=True) == rewards_B_G.amax(dim=1, keepdim=True)
    return (rewards_B_G - rewards_B_G.mean(dim=1, keepdim=True)).masked_fill(flat_B_1, 0.0)
