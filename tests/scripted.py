"""Runners whose model says what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from hart_lite.config.sections import PixelBudgets, Rollout
from hart_lite.inference.engine import Decoding
from hart_lite.inference.load import OpenModel
from hart_lite.inference.local_engine import LocalEngine
from hart_lite.inference.protocols import hart
from hart_lite.inference.rollout import Runner, graded
from hart_lite.models.generation import Response, Sampling, generate
from hart_lite.models.policy import Policy
from hart_lite.models.prompt_cache import PromptCache
from hart_lite.types import Example, Group, Tokens, Trajectory

PIXELS = PixelBudgets(full=16 * 784, crop=4 * 784, min=784)
PROTOCOLS = {"hart": hart.crops, "mgpo": hart.keep_image, "direct": hart.full, "full+crops": hart.full_and_crops}
SAMPLED = Decoding(temperature=1.0)  # greedily, questions that are alike are answered once


@dataclass
class Script:
    """Stands in for `generate`: the responses of each call; None: what the real model says."""

    responses: list[list[str] | None]
    calls: list[tuple[list[Tokens], Sampling]] = field(default_factory=list)

    def __call__(
        self, policy: Policy, prompts: Sequence[Tokens], sampling: Sampling, cache: PromptCache | None
    ) -> list[Response]:
        texts = self.responses[len(self.calls)]
        self.calls.append((list(prompts), sampling))
        if texts is None:
            return generate(policy, prompts, sampling, cache)
        return [Response(policy.family.response_ids(text)) for _, text in zip(prompts, texts, strict=True)]


def runner(policy: Policy, *script, train=("locate", "verify"), pixels=PIXELS, rewarded=graded, **settings) -> Runner:
    """On the tiny model; with a script, on one that follows it."""
    rollout = Rollout(**settings)
    stand_in = {"generate": Script(list(script))} if script else {}
    engine = LocalEngine(policy, rollout.tokens_per_batch, 8, **stand_in)
    return Runner(OpenModel("tiny", engine, policy.family.name, {}, pixels, rollout), rewarded, train)


def play(run: Runner, examples: Sequence[Example], way: str, decoding: Decoding = SAMPLED) -> list[Trajectory]:
    """One trajectory with its reward for each example."""
    return run.rewarded(examples, run.run(examples, PROTOCOLS[way], decoding))


def without_logps(groups: list[Group]) -> list[Group]:
    """What was drawn and earned. Log-probs are the same to rounding alone: sums follow from the shape of a batch."""

    def unmarked(tokens: Tokens) -> Tokens:
        return replace(tokens, sampled=tuple(replace(span, logps=()) for span in tokens.sampled))

    def drawn(trajectory: Trajectory) -> Trajectory:
        turns = tuple(replace(t, prompt=unmarked(t.prompt), logps=()) for t in trajectory.turns)
        return replace(trajectory, turns=turns, sequences=tuple(map(unmarked, trajectory.sequences)))

    return [replace(group, trajectories=tuple(map(drawn, group.trajectories))) for group in groups]


def logps_of(groups: list[Group]) -> torch.Tensor:
    sequences = [s for group in groups for t in group.trajectories for s in t.sequences]
    return torch.tensor([logp for s in sequences for span in s.sampled for logp in span.logps])
