"""AP-GRPO inside TRL: `trl.GRPOTrainer` with the asymmetric weights of arXiv 2602.23615, for those who stay with TRL.

    args = GRPOConfig(beta=0.01, loss_type="grpo", use_bias_correction_kl=False)
    trainer = APGRPOTrainer(model, reward_funcs=right, args=args, train_dataset=questions, k=0.6)

mu1 multiplies the clipped policy term of a sequence, mu2 stands in the place of beta before its KL. Everything else is
TRL's, sampling and averages included; so, unlike in `hart_lite.training.rl_trainer`, groups whose rewards all agree
stay in the mean and keep their KL. With the arguments above it is the paper's loss; TRL's own defaults average over the
tokens of all sequences ("dapo") and multiply the KL by the importance ratio, which changes its gradient.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from hart_lite.errors import HartError
from hart_lite.rl.advantages import ap_weights
from hart_lite.utils.text import shown

CLIPPED = ("grpo", "bnpo", "dapo", "dr_grpo")  # the clipped term of the paper; they differ in how tokens are averaged
TOLERANCE = 1e-6  # of rewards that were weighted and summed in float32


class APGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` with a `k` from 0 up to, not including, 1; k = 0 is `GRPOTrainer` exactly.

    A sequence's reward is the sum of its reward functions, weighted as TRL does; it has to lie in 0 to 1, the paper's
    being 0 or 1, so that no weight turns negative. Raises `HartError` for what AP-GRPO is not defined for: a k outside
    its range or, with k > 0, beta = 0 (mu2 would do nothing), other losses than `CLIPPED`, other rewards.
    """

    _name = "AP-GRPO"  # TRL's model card reads both
    _paper: ClassVar[dict[str, str]] = {
        "title": "HART: High-Resolution Annotation-Free Reasoning Technique through a Closed-loop Framework",
        "id": "2602.23615",
    }

    def __init__(self, model, reward_funcs=None, args: GRPOConfig | None = None, *rest, k: float = 0.6, **kwargs):
        if isinstance(k, bool) or not isinstance(k, int | float) or not 0 <= k < 1:
            raise HartError(f"k = {shown(k)}; 0 up to, not including, 1 is allowed (0.6 in the paper; 0 is GRPO)")
        if k > 0 and (args is None or args.beta <= 0):
            raise HartError(
                f"k = {k} needs a KL term to weight: give args=GRPOConfig(beta=0.01, ..), as TRL's default is "
                "beta = 0.0, or set k=0"
            )
        if k > 0 and args.loss_type not in CLIPPED:
            raise HartError(
                f"loss_type = {shown(args.loss_type)} with k = {k}; AP-GRPO weights a clipped policy term: "
                f"{', '.join(CLIPPED)} are allowed, grpo being the paper's"
            )
        super().__init__(model, reward_funcs, args, *rest, **kwargs)
        self.k = k

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list) -> Tensor:
        """TRL's rewards (all processes' sequences x functions); the weights of this process's sequences are kept."""
        rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        samples = self.num_generations if self.model.training else self.num_generations_eval
        self._mu: dict[str, Tensor] = {}
        if self.k > 0 and samples > 1:
            rewards = (rewards_per_func * self.reward_weights.to(rewards_per_func.device)).nansum(dim=1)
            rewards[rewards_per_func.isnan().all(dim=1)] = torch.nan
            mu1, mu2 = _weights(rewards.view(-1, samples), self.k, self.beta)
            first = self.accelerator.process_index * len(prompts)
            own = slice(first, first + len(prompts))
            self._mu = {"mu1": mu1.flatten()[own], "mu2": mu2.flatten()[own]}
        return rewards_per_func

    def _generate_and_score_completions(self, inputs) -> dict:
        """TRL's batch, and with it `mu1` and `mu2` (B,): they are shuffled and split as its other tensors are."""
        return super()._generate_and_score_completions(inputs) | self._mu

    def _compute_loss(self, model, inputs) -> Tensor:
        if "mu1" not in inputs:
            return super()._compute_loss(model, inputs)
        # mu1 is positive, so it may as well be multiplied before the clip and the minimum as after them.
        weighted = inputs | {"advantages": inputs["advantages"] * inputs["mu1"]}
        beta = self.beta
        self.beta = per_sequence = _BetaPerSequence(beta, inputs["mu2"])
        try:
            loss = super()._compute_loss(model, weighted)
        finally:
            self.beta = beta
        if not per_sequence.used:
            raise HartError("This trl weights its KL in a new way, which k does not reach; use trl 1.15 or 1.16")
        return loss


def _weights(rewards_B_G: Tensor, k: float, beta: float) -> tuple[Tensor, Tensor]:
    """mu1 and mu2, each (B, G). A sequence that no function rewarded is NaN, as in TRL; it is given its group's mean,
    so that it counts in none and is weighted as by GRPO."""
    mean_B_1 = rewards_B_G.nanmean(dim=1, keepdim=True).nan_to_num()
    rewards_B_G = torch.where(rewards_B_G.isnan(), mean_B_1, rewards_B_G)
    least, most = rewards_B_G.min().item(), rewards_B_G.max().item()
    if least < -TOLERANCE or most > 1 + TOLERANCE:
        raise HartError(
            f"The rewards of a batch lie between {least:g} and {most:g}; AP-GRPO needs them from 0 to 1 (the paper's "
            "are 0 or 1): scale the reward functions, or their sum by GRPOConfig(reward_weights=..)"
        )
    return ap_weights(rewards_B_G, k=k, beta=beta)


class _BetaPerSequence(float):
    """A beta that multiplies the KL (B, T) of every sequence by a value of its own, for TRL's `self.beta * kl`."""

    def __new__(cls, beta: float, mu2_B: Tensor) -> _BetaPerSequence:
        number = super().__new__(cls, beta)
        number.mu2_B, number.used = mu2_B, False
        return number

    def __mul__(self, kl_B_T: Tensor) -> Tensor:
        self.used = True
        return self.mu2_B.unsqueeze(1) * kl_B_T
