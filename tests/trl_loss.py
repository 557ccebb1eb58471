"""TRL's own GRPO loss on given log-probs, as a reference in float64."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import torch
from trl import GRPOTrainer

from hart_lite.rl.advantages import group_advantages

B, G, T = 2, 4, 6


def random_step(seed: int = 0) -> SimpleNamespace:
    """Log-probs (N, T) of B x G trajectories of 1 to T tokens, with rewards and a mask."""
    random = torch.Generator().manual_seed(seed)

    def draw():
        return -torch.rand(B * G, T, generator=random, dtype=torch.float64) * 2

    lengths = torch.randint(1, T + 1, (B, G), generator=random)
    rewards = torch.tensor([[1, 0, 0, 1], [0, 0, 1, 0]], dtype=torch.float64)
    mask = torch.arange(T) < lengths.view(-1, 1)
    logps = draw()
    return SimpleNamespace(
        logps=logps, old=logps + 0.3 * draw() + 0.3, ref=draw(), rewards=rewards, lengths=lengths.double(), mask=mask
    )


def trl_grpo(s: SimpleNamespace, logps: torch.Tensor, beta: float, clip=(0.2, 0.2)) -> torch.Tensor:
    """Its method on a stand-in trainer whose model is a table. `clip`: epsilon low and high."""
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logps, torch.zeros_like(logps), None),
        accelerator=SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x),
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None),
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        beta=beta,
        current_gradient_accumulation_steps=1,
        epsilon_high=clip[1],
        epsilon_low=clip[0],
        importance_sampling_level="token",
        loss_type="grpo",
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    ids = torch.zeros(B * G, T, dtype=torch.long)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": ids,
        "completion_ids": ids,
        "completion_mask": s.mask.long(),
        "advantages": group_advantages(s.rewards).flatten(),
        "old_per_token_logps": s.old,
        "ref_per_token_logps": s.ref,
    }
    return GRPOTrainer._compute_loss(trainer, None, inputs)
