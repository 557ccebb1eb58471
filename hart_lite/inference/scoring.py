"""Scored verification: how probable the right answer is from what a prompt shows, computed instead of sampled.

A sampled answer says of a box what the toss of a coin says of the coin: it is right with probability p. That p is
computed here by one forward pass. Every text that gives an answer is scored as the response to the prompt, its end
token included. All of them are leaves of one tree, so that the words of a question and each crop are read once.

With choices an answer is given by its letter or by its text, as the prompt asks; the grader says which choice a text
gives. p is the share of the right choice in the probability of all of them, so that it does not matter how many words a
policy puts around its answer. A policy that would rather say what is no choice has a share all the same: `mass` says
how much of its probability is shared, and a sampled answer of nothing but a choice is right with p times that.

An open answer has no rivals to share with: its p is the probability of the very words of the answer. That is too low
where other words are right as well, and the more so the longer the answer is, so only short ones are scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import torch

from hart_lite.config.limits import FEED_TOKENS
from hart_lite.errors import DataError, ModelError, NotFiniteError
from hart_lite.grading import answer_letter, letters_of, read_answer
from hart_lite.models.oom import Budget, within_memory
from hart_lite.models.packing import pack
from hart_lite.models.policy import Policy
from hart_lite.types import Example, Tokens
from hart_lite.utils.text import shown

LONGEST = 32  # characters of an open answer that is scored: a number, a name, a few words


@lru_cache(maxsize=4096)
def ways_to_choose(choices: tuple[str, ...]) -> dict[str, str]:
    """{a text that gives a choice: the letter of that choice}: the letters, and the texts that name one choice."""
    read = {text: read_answer(text, choices) for text in (*letters_of(choices), *choices)}
    return {text: letter for text, letter in read.items() if letter}


def check_scorable(examples: Sequence[Example]) -> None:
    """Raises `DataError` for questions whose right answer has no probability to speak of."""
    long = [e for e in examples if not e.choices and len(e.answer) > LONGEST]
    if long:
        raise DataError(
            f"rollout.verify = 'score' and rollout.control_region take the probability of an answer: that of a choice, "
            f"or of an open answer of at most {LONGEST} characters. {len(long)} of {len(examples)} questions have no "
            f"choices and a longer answer, {shown(long[0].id)} the first: {shown(long[0].answer)}. Give them choices, "
            "leave them out, or use rollout.verify=sample and rollout.control_region=false"
        )


class Scores(NamedTuple):
    """The probability of the right answer, and of all texts together that were scored, 0 to 1."""

    right: float
    mass: float


class Scorer:
    """`budget` bounds the tokens of one pass; it shrinks where memory runs out. Answers are scored at the temperature
    at which they would be sampled."""

    def __init__(self, policy: Policy, temperature: float) -> None:
        self.policy, self.temperature = policy, temperature
        self.budget = Budget("scored tokens", FEED_TOKENS, in_recipe=False)

    def scores(self, prompts: Sequence[Tokens], examples: Sequence[Example]) -> list[Scores]:
        """One for each prompt, which asks the question of its example.

        Raises `NotFiniteError` where the model's scores are not finite, and `ModelError` where a prompt with its
        answers does not fit.
        """
        leaves = self.sequences(prompts, examples)
        logps = self._logps([leaf for own in leaves for leaf in own]).split([len(own) for own in leaves])
        return [_scores(example, own) for example, own in zip(examples, logps, strict=True)]

    def sequences(self, prompts: Sequence[Tokens], examples: Sequence[Example]) -> list[list[Tokens]]:
        """For each prompt the sequences to score, the response of each marked as sampled."""
        ids = self.policy.family.response_ids
        return [
            [prompt + Tokens.response(ids(text), "verify") for text in _texts(example)]
            for prompt, example in zip(prompts, examples, strict=True)
        ]

    def _logps(self, sequences: Sequence[Tokens]) -> torch.Tensor:
        """(N,) log-prob of the response of each sequence, in double precision."""
        longest = max(map(len, sequences), default=0)
        self.policy.model.eval()
        while (logps := within_memory(partial(self._pass, sequences, max(self.budget.value, longest)))) is None:
            if self.budget.value <= longest:
                raise ModelError(
                    f"out of memory: a prompt with one answer, of {longest} tokens, cannot be scored alone. Lower "
                    "pixels.crop or rollout.max_boxes, or set model.quant=nf4; `hart-lite plan` says what fits"
                )
            self.budget.halve("scoring answers")
        if not bool(logps.isfinite().all()):
            raise NotFiniteError(
                "the scores of answers are not finite: the model's weights are damaged, or their precision is too "
                "narrow; try model.dtype=bfloat16, or float32"
            )
        return logps

    @torch.no_grad()
    def _pass(self, sequences: Sequence[Tokens], tokens: int) -> torch.Tensor:
        logps = torch.zeros(len(sequences), dtype=torch.float64)
        for packed in pack(sequences, self.policy.family.positions, tokens):
            logps.index_add_(0, packed.owners_N, self.policy.logps(packed, self.temperature).double().cpu())
        return logps


def _texts(example: Example) -> Sequence[str]:
    return list(ways_to_choose(example.choices)) if example.choices else [example.answer]


def _scores(example: Example, logps: torch.Tensor) -> Scores:
    mass = float(logps.exp().sum().clamp(max=1.0))
    if not example.choices:
        return Scores(mass, mass)
    letters, right = list(ways_to_choose(example.choices).values()), answer_letter(example.answer, example.choices)
    return Scores(float(logps.softmax(0)[[letter == right for letter in letters]].sum().clamp(max=1.0)), mass)
