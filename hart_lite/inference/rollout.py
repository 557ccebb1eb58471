"""Rollouts: B questions x G samples through a loop, each trajectory with its reward. A question asked once is the same
with one greedy sample and no reward.

The full image never reaches the second turn of `hart`: that turn is a new sequence whose only images are crops.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from hart_lite.boxes import control_boxes
from hart_lite.errors import HartError
from hart_lite.inference.engine import GREEDY, Conversation, Decoding
from hart_lite.inference.load import OpenModel
from hart_lite.inference.local_engine import LocalEngine
from hart_lite.inference.protocols import hart
from hart_lite.inference.protocols.base import Protocol, Setting
from hart_lite.inference.protocols.registry import LOOPS
from hart_lite.inference.scoring import Scorer, Scores
from hart_lite.inference.settings import AskSettings, setting_for
from hart_lite.models.policy import Policy
from hart_lite.models.views import full_views
from hart_lite.rl.rewards import TIMEOUT, grade_reward, with_rewards
from hart_lite.rl.rewards.terms import less_boxes, less_control
from hart_lite.types import Box, Example, Group, Tokens, Trajectory, Turn

Rewarded = Callable[[Sequence[Example], Sequence[Trajectory]], list[Trajectory]]

graded: Rewarded = partial(with_rewards, grade_reward, TIMEOUT, 1)


class Runner:
    """A model on an engine of our own, asked as its recipe says, with the reward of its answers."""

    def __init__(
        self,
        model: OpenModel,
        rewarded: Rewarded = graded,
        train_turns: Collection[str] = ("locate", "verify"),
    ) -> None:
        self.model, self.rewarded, self.train_turns = model, rewarded, frozenset(train_turns)
        self.engine: LocalEngine = model.engine
        self.setting: Setting = setting_for("crops", model, AskSettings())
        self.scorer = Scorer(self.policy, model.rollout.temperature)

    @property
    def policy(self) -> Policy:
        return self.engine.policy

    def rollout(self, examples: Sequence[Example], loop: str, samples: int, seed: int, first: int = 0) -> list[Group]:
        """One group of `samples` for every example, with rewards.

        `first` is the number of the first example where several processes share one step: each draws what one process
        would have drawn for it.
        """
        rollout = self.model.rollout
        decoding = Decoding(rollout.temperature, rollout.top_p, seed, first * samples)
        repeated = [example for example in examples for _ in range(samples)]
        drawn = self._drawn(repeated, loop, decoding)
        parts = [tuple(drawn[start : start + samples]) for start in range(0, len(drawn), samples)]
        spread = rollout.least_spread
        return [Group(example, part, spread) for example, part in zip(examples, parts, strict=True)]

    def _drawn(self, examples: Sequence[Example], loop: str, decoding: Decoding) -> list[Trajectory]:
        """Trajectories with their rewards."""
        rollout = self.model.rollout
        if rollout.verify == "score":
            located = self.run(examples, hart.locate, decoding)
            scored = self._scores(examples, [t.boxes for t in located])
            drawn = [_verified(t, *scores) if scores else t for t, scores in zip(located, scored, strict=True)]
        else:
            drawn = self.rewarded(examples, self.run(examples, LOOPS[loop], decoding))
        if rollout.control_region:
            boxes = [self._control(e, t.boxes, decoding.seed) for e, t in zip(examples, drawn, strict=True)]
            scored = self._scores(examples, [found or () for found in boxes])
            controls = [scores[1].right if scores else None for scores in scored]
            drawn = [less_control(t, control) for t, control in zip(drawn, controls, strict=True)]
        return [less_boxes(t, rollout.max_overlap, rollout.box_budget) for t in drawn]

    def _control(self, example: Example, boxes: Sequence[Box], seed: int) -> tuple[Box, ...] | None:
        """A control region. Its places are drawn from the seed of the step and the question, in the same way for all
        samples of the question: what one of them is luckier in is then its boxes alone."""
        return control_boxes(boxes, [image.size() for image in example.images], random.Random(f"{seed}/{example.id}"))

    def _scores(
        self, examples: Sequence[Example], boxes: Sequence[Sequence[Box]]
    ) -> list[tuple[Tokens, Scores] | None]:
        """(the prompt that shows the crops around these boxes alone, what is answered to it); None without a box."""
        prompts = {n: self.prompt(examples[n], hart.given(own)) for n, own in enumerate(boxes) if own}
        scores = self.scorer.scores(list(prompts.values()), [examples[n] for n in prompts])
        found = {n: (prompts[n], own) for n, own in zip(prompts, scores, strict=True)}
        return [found.get(n) for n in range(len(boxes))]

    def run(self, examples: Sequence[Example], protocol: Protocol, decoding: Decoding = GREEDY) -> list[Trajectory]:
        """One trajectory for each example, in order, before any reward."""
        runs = [protocol(example, self.setting) for example in examples]
        conversations = dict(self.engine.answer(runs, decoding))
        return [trajectory(conversations[n], self.train_turns) for n in range(len(examples))]

    def look_ahead(self, examples: Sequence[Example]) -> None:
        """Begin to load the images of questions that will be asked next. One that cannot be read is left for then."""
        setting, views = self.setting, []
        for example in examples:
            with suppress(HartError):
                views += full_views(example, setting.interface, setting.full_pixels, setting.min_pixels)
        self.policy.views.ahead(views)

    def prompt(self, example: Example, protocol: Protocol, responses: Sequence[str] = ()) -> Tokens:
        """What a protocol asks after these responses, in the conversation that this begins."""
        run = protocol(example, self.setting)
        say = next(run)
        for text in responses:
            say = run.send(text)
        return self.policy.family.chat(say.content, system=say.system)


def trajectory(conversation: Conversation, train_turns: Collection[str]) -> Trajectory:
    """What a conversation comes to, with the sequences to train on: a turn that continues the one before it is part of
    that turn's sequence."""
    turns, outcome = conversation.turns, conversation.outcome
    ends = [turn for turn, after in zip(turns, (*turns[1:], None), strict=True) if after is None or after.fresh]
    return Trajectory(
        turns,
        outcome.boxes,
        outcome.text,
        rejected=outcome.counts.get("rejected_boxes", 0),
        crops=outcome.crops,
        sequences=_trained([turn.tokens for turn in ends], train_turns),
    )


def _verified(located: Trajectory, prompt: Tokens, scores: Scores) -> Trajectory:
    """With the second turn, which was scored and not answered."""
    text = f"[right with probability {scores.right:.3f}]"
    turn = Turn("verify", prompt, (), text, len(prompt), 0, len(prompt.slots))
    return replace(located, turns=(*located.turns, turn), reward=scores.right, terms={"answers_mass": scores.mass})


def _trained(sequences: Sequence[Tokens], train_turns: Collection[str]) -> tuple[Tokens, ...]:
    """The sequences with only the spans of trained turns marked; those without any are dropped. Every turn but
    `locate` counts as `verify`."""
    out = []
    for tokens in sequences:
        spans = [s for s in tokens.sampled if ("locate" if s.kind == "locate" else "verify") in train_turns]
        if spans:
            out.append(replace(tokens, sampled=tuple(spans)))
    return tuple(out)
