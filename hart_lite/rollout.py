"""Run a loop: B questions x G samples -> groups of trajectories. Answering a question is a rollout of one.

The full image never reaches the second turn of `hart`: that turn is a new sequence whose only images are crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from hart_lite import loops
from hart_lite.generate import Sampling, batches
from hart_lite.grading import grade
from hart_lite.memory import Budget, within_memory
from hart_lite.policy import Policy
from hart_lite.recipe_schema import PixelBudgets, Rollout
from hart_lite.types import Box, Example, Group, HartError, ImageView, Tokens, Trajectory, Turn
from hart_lite.views import crop_view, full_views, read_boxes

# The loops of training, and the two further ways of answering (method.md, section 4).
Way = Literal["hart", "mgpo", "direct", "full+crops"]


@dataclass(frozen=True)
class Located:
    """What turn 1 came to: boxes in original pixels (unpadded), the crops cut from them, and boxes refused."""

    turn: Turn
    boxes: tuple[Box, ...]
    crops: tuple[ImageView, ...]
    rejected: int


@dataclass(frozen=True)
class Runner:
    """A policy with the pixel budgets and rollout settings it is used under.

    `budget` is what of `settings.tokens_per_batch` fits: it shrinks where memory runs out.
    """

    policy: Policy
    pixels: PixelBudgets
    settings: Rollout
    train_turns: frozenset[str] = frozenset({"locate", "verify"})
    budget: Budget = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", Budget("rollout.tokens_per_batch", self.settings.tokens_per_batch))

    def rollout(self, examples: Sequence[Example], way: Way, samples: int, seed: int, first: int = 0) -> list[Group]:
        """Sampled trajectories, graded: for every example one group of `samples`.

        `first` is the number of the first example where several processes share one step: each draws what one process
        would have drawn for it.
        """
        repeated = [example for example in examples for _ in range(samples)]
        drawn = self.run(repeated, way, self.settings.temperature, seed, first * samples)
        return [Group(example, tuple(drawn[n * samples : (n + 1) * samples])) for n, example in enumerate(examples)]

    def run(
        self, examples: Sequence[Example], way: Way, temperature: float, seed: int, first: int = 0
    ) -> list[Trajectory]:
        """One graded trajectory for each example, in order. `temperature` 0 is greedy.

        A trajectory follows from `seed` and its number, counted from `first`, not from what else is in the batch.
        """
        if way == "direct":
            return self.answer_directly(examples, temperature, seed, first)
        located = self.locate(examples, temperature, seed, first)
        return self.answer_from(examples, located, way, temperature, seed, first)

    # -- views -----------------------------------------------------------------------------------------------------

    def full_views(self, example: Example) -> tuple[ImageView, ...]:
        return full_views(example, self.policy.family, self.pixels.full, self.pixels.min)

    def crop_view(self, example: Example, box: Box) -> ImageView:
        """The padded box, shown within the crop budget."""
        pixels, pad = self.pixels, self.settings.crop_pad
        return crop_view(example, box, self.policy.family, pad, pixels.crop, pixels.min)

    # -- turns -----------------------------------------------------------------------------------------------------

    def locate(self, examples: Sequence[Example], temperature: float, seed: int, first: int = 0) -> list[Located]:
        """Turn 1: where to look."""
        family = self.policy.family
        views = [self.full_views(example) for example in examples]
        prompts = [family.chat(loops.locate_content(e, full, family)) for e, full in zip(examples, views, strict=True)]
        turns = self._say("locate", dict(enumerate(prompts, first)), temperature, 2 * seed)
        out = []
        for example, full, turn in zip(examples, views, turns, strict=True):
            limits = self.settings.max_boxes, self.settings.max_box_share
            boxes, rejected = read_boxes(example, full, turn.text, family, *limits)
            out.append(Located(turn, boxes, tuple(self.crop_view(example, box) for box in boxes), rejected))
        return out

    def answer_directly(
        self, examples: Sequence[Example], temperature: float, seed: int, first: int = 0
    ) -> list[Trajectory]:
        family = self.policy.family
        prompts = [family.chat(loops.direct_content(e, self.full_views(e))) for e in examples]
        turns = self._say("answer", dict(enumerate(prompts, first)), temperature, 2 * seed + 1)
        return [self._graded(e, (turn,), (turn.tokens,)) for e, turn in zip(examples, turns, strict=True)]

    def answer_from(
        self,
        examples: Sequence[Example],
        located: Sequence[Located],
        way: Way,
        temperature: float,
        seed: int,
        first: int = 0,
    ) -> list[Trajectory]:
        """Turn 2, after `locate`. Without a valid box `hart` has no turn 2 and earns nothing; the ways that keep the
        full image in sight answer from that."""
        prompts: dict[int, Tokens] = {}
        for n, (example, found) in enumerate(zip(examples, located, strict=True), first):
            if found.crops or way != "hart":
                prompts[n] = self._second_prompt(example, found, way)
        answers = dict(zip(prompts, self._say("verify", prompts, temperature, 2 * seed + 1), strict=True))
        out = []
        for n, (example, found) in enumerate(zip(examples, located, strict=True), first):
            turns = (found.turn, answers[n]) if n in answers else (found.turn,)
            # In one conversation the second turn's sequence holds the first one's.
            sequences = (turns[1].tokens,) if way == "mgpo" else tuple(turn.tokens for turn in turns)
            out.append(replace(self._graded(example, turns, sequences), boxes=found.boxes, rejected=found.rejected))
        return out

    def _second_prompt(self, example: Example, found: Located, way: Way) -> Tokens:
        family = self.policy.family
        if way == "hart":
            return family.chat(loops.verify_content(example, found.crops))
        if way == "full+crops":
            return family.chat(loops.with_crops_content(example, self.full_views(example), found.crops))
        ended = bool(found.turn.response) and found.turn.response[-1] in family.eos_ids
        shown = found.crops or self.full_views(example)
        content = loops.sub_image_content(example, shown, valid=bool(found.crops))
        return found.turn.tokens + family.reply(content, ended)

    def _say(self, kind: str, prompts: dict[int, Tokens], temperature: float, seed: int) -> list[Turn]:
        """One turn for each prompt, in order; the keys number the trajectories."""
        settings = self.settings
        longest = settings.max_tokens_locate if kind == "locate" else settings.max_tokens_answer
        responses: list[tuple[int, ...]] = []
        waiting = dict(prompts)
        while waiting:
            batch = next(batches(waiting, dict.fromkeys(waiting, longest), self.budget.value))
            sampling = Sampling(longest, temperature, settings.top_p, seed, tuple(batch), graph=settings.cuda_graph)
            said = within_memory(partial(self.policy.generate, list(batch.values()), sampling))
            if said is not None:
                responses += said
                waiting = {n: prompt for n, prompt in waiting.items() if n not in batch}
            elif len(batch) > 1:
                self.budget.halve("sampling")
            else:
                [prompt] = batch.values()
                raise HartError(
                    f"out of memory: up to {longest} tokens after a prompt of {len(prompt)} do not fit, not even "
                    "alone. Lower pixels.full, pixels.crop or rollout.max_tokens_*, or set model.quant=nf4; `hart-lite "
                    "plan` says what fits"
                )
        return [
            Turn(kind, prompt, ids, self.policy.family.text(ids))
            for prompt, ids in zip(prompts.values(), responses, strict=True)
        ]

    def _graded(self, example: Example, turns: tuple[Turn, ...], sequences: tuple[Tokens, ...]) -> Trajectory:
        """The reward is the grader's word on the last turn; a trajectory that never answered earns nothing."""
        answered = turns[-1].kind != "locate"
        reward = float(answered and grade(turns[-1].text, example.answer, example.choices))
        answer = turns[-1].text if answered else ""
        return Trajectory(turns, answer=answer, reward=reward, sequences=self._trained(turns, sequences))

    def _trained(self, turns: tuple[Turn, ...], sequences: tuple[Tokens, ...]) -> tuple[Tokens, ...]:
        """The sequences with only the spans of trained turns marked; those without any are dropped."""
        if self.train_turns >= {"locate", "verify"}:
            return sequences
        spans_left = iter(turns)
        out = []
        for tokens in sequences:
            spans = [s for s in tokens.sampled if _turn_name(next(spans_left)) in self.train_turns]
            if spans:
                out.append(replace(tokens, sampled=tuple(spans)))
        return tuple(out)


def _turn_name(turn: Turn) -> str:
    return "locate" if turn.kind == "locate" else "verify"
