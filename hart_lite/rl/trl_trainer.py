"""AP-GRPO inside TRL: `trl.GRPOTrainer` with the asymmetric weights of arXiv 2602.23615, for those who stay with TRL.

    args = GRPOConfig(beta=0.01, loss_type="grpo", use_bias_correction_kl=False)
    trainer = APGRPOTrainer(model, reward_funcs=right, args=args, train_dataset=questions, k=0.6)

Sampling, advantages, reference and log-probs are TRL's; the loss on them is `hart_lite.rl.losses.policy_loss`. Unlike
in `hart_lite.training.rl_trainer`, groups whose rewards all agree stay in the mean and keep their KL.

TRL has no public place for a weight per sequence. Three of its private methods are used:

- `_calculate_rewards` is overridden: only there are the rewards of all processes, and so of whole groups, at hand.
- `_generate_and_score_completions` is overridden: tensors added to its batch are shuffled and split like TRL's own.
- `_get_per_token_logps_and_entropies` is called: it knows TRL's tiled head, its temperature and its image inputs.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from typing import ClassVar

import torch
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from hart_lite.errors import ConfigError, RewardError
from hart_lite.rl.advantages import ap_weights
from hart_lite.rl.losses import policy_loss
from hart_lite.utils.text import shown

# What AP-GRPO's loss needs of a GRPOConfig. Other values average in another way, or add a term or a factor.
NEEDED = {
    "loss_type": "grpo",
    "use_bias_correction_kl": False,
    "importance_sampling_level": "token",
    "delta": None,
    "top_entropy_quantile": 1.0,
    "entropy_coef": 0.0,
    "use_adaptive_entropy": False,
    "off_policy_mask_threshold": None,
}
TOLERANCE = 1e-6  # of rewards that were weighted and summed in float32


class APGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` with a `k` from 0 up to, not including, 1; k = 0 is `GRPOTrainer` exactly.

    A sequence's reward is the sum of its reward functions, weighted as TRL does; it has to lie in 0 to 1, the paper's
    being 0 or 1, so that no weight turns negative. Raises `RewardError` for other rewards, and `ConfigError` for a k
    outside its range and, with k > 0, for beta = 0 (mu2 would do nothing) or other settings than `NEEDED`. With k > 0
    the log has the metrics of `policy_loss`, and the `entropy`, in the place of TRL's own of the loss.
    """

    _name = "AP-GRPO"  # TRL writes both into its model card
    _paper: ClassVar[dict[str, str]] = {
        "title": "HART: High-Resolution Annotation-Free Reasoning Technique through a Closed-loop Framework",
        "id": "2602.23615",
    }

    def __init__(self, model, reward_funcs=None, args: GRPOConfig | None = None, *rest, k: float = 0.6, **kwargs):
        if isinstance(k, bool) or not isinstance(k, int | float) or not 0 <= k < 1:
            raise ConfigError(f"k = {shown(k)}; 0 up to, not including, 1 is allowed (0.6 in the paper; 0 is GRPO)")
        if k > 0:
            _refuse_other_losses(k, args)
        super().__init__(model, reward_funcs, args, *rest, **kwargs)
        if k > 0 and self.aux_loss_enabled:
            raise ConfigError(
                f"k = {k} with a mixture of experts: AP-GRPO's loss has no term that balances them; set "
                "GRPOConfig(router_aux_loss_coef=0.0), or k=0"
            )
        self.k = k
        self._since_log: defaultdict[str, list[float]] = defaultdict(list)  # metrics of the loss

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
        """TRL's batch, and with it `mu1` and `mu2` (B,)."""
        return super()._generate_and_score_completions(inputs) | self._mu

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Tensor:
        if "mu1" not in inputs or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        logps, entropies = self._logps(model, inputs)
        mask = (inputs["completion_mask"] * inputs.get("tool_mask", 1)).bool()
        owner, ones = mask.nonzero()[:, 0], torch.ones_like(logps)  # the sequence that each trained token is of
        loss, metrics = policy_loss(
            logps_T=logps[mask],
            old_logps_T=inputs.get("old_per_token_logps", logps.detach())[mask],  # left out where they are equal
            advantages_T=inputs["advantages"][owner],
            # The ratios are there where vLLM has sampled: TRL's correction for it, of the policy term alone.
            mu1_T=inputs["mu1"][owner] * inputs.get("importance_sampling_ratio", ones).expand_as(logps)[mask],
            weights_T=ones[mask] / (mask.sum(1)[owner] * len(mask)),
            clip_eps=self.epsilon_low,
            clip_eps_high=self.epsilon_high,
            ref_logps_T=inputs["ref_per_token_logps"][mask],
            mu2_T=inputs["mu2"][owner],
        )
        for name, value in (metrics | {"entropy": entropies[mask].mean()}).items():
            self._since_log[name].append(self.accelerator.gather(value).nanmean().item())
        return loss / (self.current_gradient_accumulation_steps if self.model.training else 1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        prefix = "" if self.model.training else "eval_"
        means = {prefix + name: sum(values) / len(values) for name, values in self._since_log.items()}
        self._since_log.clear()
        super().log(logs | means, start_time)

    def _logps(self, model, inputs) -> tuple[Tensor, Tensor]:
        """(log-probs, entropies) of the completions, both (B, T)."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        length, score = inputs["completion_ids"].shape[1], self._get_per_token_logps_and_entropies
        images = {name: value for name, value in inputs.items() if name in inspect.signature(score).parameters}
        logps, entropies, _ = score(model, ids, mask, length, compute_entropy=True, **images)
        return logps, entropies


def _refuse_other_losses(k: float, args: GRPOConfig | None) -> None:
    if args is None or args.beta <= 0:
        raise ConfigError(
            f"k = {k} needs a KL term to weight: give args=GRPOConfig(beta=0.01, ..), as TRL's default is beta = 0.0, "
            "or set k=0"
        )
    wrong = {name: value for name, value in NEEDED.items() if getattr(args, name) != value}
    if wrong:
        given = ", ".join(f"{name} = {shown(getattr(args, name))}" for name in wrong)
        settings = ", ".join(f"{name}={value!r}" for name, value in wrong.items())
        raise ConfigError(
            f"{given} with k = {k}: that is another loss than AP-GRPO's; set GRPOConfig({settings}), or k=0 for TRL's"
        )


def _weights(rewards_B_G: Tensor, k: float, beta: float) -> tuple[Tensor, Tensor]:
    """mu1 and mu2, each (B, G). A sequence that no function rewarded is NaN, as in TRL; it is given its group's mean,
    so that it counts in none and is weighted as by GRPO."""
    mean_B_1 = rewards_B_G.nanmean(dim=1, keepdim=True).nan_to_num()
    rewards_B_G = torch.where(rewards_B_G.isnan(), mean_B_1, rewards_B_G)
    least, most = rewards_B_G.min().item(), rewards_B_G.max().item()
    if least < -TOLERANCE or most > 1 + TOLERANCE:
        raise RewardError(
            f"The rewards of a batch lie between {least:g} and {most:g}; AP-GRPO needs them from 0 to 1 (the paper's "
            "are 0 or 1): scale the reward functions, or their sum by GRPOConfig(reward_weights=..)"
        )
    return ap_weights(rewards_B_G, k=k, beta=beta)
