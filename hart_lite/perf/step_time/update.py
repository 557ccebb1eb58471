"""The update pass alone: packed, against the same sequences one beside the other with each its own prefix."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from hart_lite.config.sections import ModelSection
from hart_lite.models.packing import Pack, pack
from hart_lite.perf.memory_model import Cost
from hart_lite.perf.peak_memory import peak_bytes
from hart_lite.perf.step_time.models import Workload
from hart_lite.types import Tokens


@dataclass(frozen=True)
class Pass:
    """What one forward and backward pass gave: seconds, tokens, log-probs by (sequence, sampled token), gradients."""

    seconds: float
    tokens: int
    logps: torch.Tensor
    gradients: torch.Tensor


def packed_pass(work: Workload, sequences: list[Tokens]) -> Pass:
    """As in training: one row for each pack, prefixes once, each image encoded once."""
    policy = work.runner.policy
    packs = pack(sequences, policy.family.positions, work.tokens_per_pack)

    def scored() -> torch.Tensor:
        policy.forget_images()
        logps, places = [], []
        for packed in packs:
            logps.append(policy.logps(packed))
            (-logps[-1].sum()).backward()
            places += zip(packed.owners_N.tolist(), packed.offsets_N.tolist(), strict=True)
        order = sorted(range(len(places)), key=places.__getitem__)
        return torch.cat(logps).detach()[order]

    return _pass(work, scored, sum(map(len, packs)))


def unpacked_pass(work: Workload, sequences: list[Tokens]) -> Pass:
    """As elsewhere: a right-padded batch, every sequence with its whole prompt and its own copy of the image."""
    policy = work.runner.policy
    batch = {name: value.to(work.device) for name, value in policy.family.collate(sequences).items()}
    batch["pixel_values"] = batch["pixel_values"].to(next(policy.model.model.visual.parameters()).dtype)

    def scored() -> torch.Tensor:
        hidden = policy.model.model(**batch, use_cache=False).last_hidden_state
        logps = []
        for n, tokens in enumerate(sequences):
            for span in tokens.sampled:
                logits = policy.model.lm_head(hidden[n, span.start - 1 : span.stop - 1]).float()
                targets = torch.tensor(tokens.ids[span.start : span.stop], device=work.device)
                logps.append(logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0])
        (-torch.cat(logps).sum()).backward()
        return torch.cat(logps).detach()

    return _pass(work, scored, len(sequences) * max(map(len, sequences)))


def _pass(work: Workload, scored: Callable[[], torch.Tensor], tokens: int) -> Pass:
    policy = work.runner.policy
    policy.model.train()
    policy.peft.zero_grad(set_to_none=True)
    work.wait()
    start = time.perf_counter()
    logps = scored()
    work.wait()
    seconds = time.perf_counter() - start
    gradients = torch.cat([p.grad.flatten().float().cpu() for p in policy.adapter_parameters])
    policy.peft.zero_grad(set_to_none=True)
    policy.model.eval()
    return Pass(seconds, tokens, logps.cpu(), gradients)


def differences(one: Pass, other: Pass) -> tuple[float, float]:
    """(largest difference of a log-prob, largest difference of gradients relative to their size)."""
    gradients = (one.gradients - other.gradients).norm() / other.gradients.norm()
    return (one.logps - other.logps).abs().max().item(), gradients.item()


# -- memory ------------------------------------------------------------------------------------------------------------


def update_peak(work: Workload, sequences: list[Tokens]) -> tuple[int, int]:
    """(measured, planned) bytes of an update beyond weights, adapters, their gradients and the images' features."""
    policy = work.runner.policy
    packs = pack(sequences, policy.family.positions, work.tokens_per_pack)

    def update() -> None:
        for packed in packs:
            (-policy.logps(packed).sum()).backward()

    policy.model.train()
    update()  # the gradients and the features are there from now on
    measured = peak_bytes(update, work.device)
    policy.peft.zero_grad(set_to_none=True)
    policy.model.eval()
    return measured, max(_planned(work, packed) for packed in packs)


def _planned(work: Workload, packed: Pack) -> int:
    """As `hart-lite plan` has it."""
    preset, tokens, sampled = work.preset, len(packed), len(packed.targets_N)
    section = ModelSection(
        dtype=preset.dtype,
        quant=preset.quant,
        device=preset.device,
        gradient_checkpointing=preset.gradient_checkpointing,
        lora=work.runner.policy.lora,
    )
    cost = Cost(work.dims, section)
    at_head, in_layer = cost.head_backward(tokens, sampled), cost.layer_backward(tokens)
    kept = cost.kept(tokens) + cost.around(tokens, sampled)
    return kept + max(at_head + cost.logits(sampled), in_layer)
