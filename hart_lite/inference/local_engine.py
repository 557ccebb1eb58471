"""Protocols on a model of our own: all conversations go on together, turn by turn.

Everything that waits to be answered goes into few calls of the model, so that what prompts share (the samples of a
question, several questions or modes on one image) is encoded and read once. Where memory runs out a batch is drawn
again in halves, to the same responses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from hart_lite.errors import ModelError
from hart_lite.inference.engine import GREEDY, Conversation, Decoding, cut_after
from hart_lite.inference.protocols.base import Outcome, ProtocolRun, Say
from hart_lite.models.families.base import Family
from hart_lite.models.generation import Response, Sampling, batches, generate
from hart_lite.models.oom import Budget, within_memory
from hart_lite.models.policy import Policy
from hart_lite.models.prompt_cache import PromptCache
from hart_lite.types import Tokens, Turn

Generate = Callable[[Policy, Sequence[Tokens], Sampling, PromptCache | None], list[Response]]


@dataclass
class Talk:
    """A conversation under way. `prompt` is all that was said so far, up to where the model begins to speak."""

    run: ProtocolRun
    say: Say
    prompt: Tokens = field(default_factory=Tokens)
    said: Tokens = field(default_factory=Tokens)  # the last response, as it stands in the conversation
    turns: list[Turn] = field(default_factory=list)

    def ask(self, family: Family) -> None:
        say = self.say
        if say.fresh:
            self.prompt = family.chat(say.content, system=say.system)
            return
        stands = self.said if say.keep is None else Tokens(family.response_ids(say.keep))
        ended = bool(stands.ids) and stands.ids[-1] in family.eos_ids
        self.prompt = self.prompt + stands + family.reply(say.content, ended)

    @property
    def asked(self) -> tuple:
        """What the model reads: equal where two prompts are."""
        return self.prompt.ids, tuple((slot.start, slot.view) for slot in self.prompt.slots)

    def hear(self, response: Response, family: Family) -> Outcome | None:
        """Take the model's response to the protocol: what the conversation came to, or None when it goes on."""
        ids, logps = response
        whole = family.text(ids)
        text = cut_after(whole, self.say.stop)
        # What was cut is no longer what was drawn.
        drawn = Tokens.response(ids, self.say.kind, logps)
        self.said = drawn if text == whole else Tokens(family.response_ids(text))
        prompt, counts = self.prompt, (len(self.prompt), len(ids), len(self.prompt.slots))
        self.turns.append(Turn(self.say.kind, prompt, ids, text, *counts, self.say.fresh, logps))
        try:
            self.say = self.run.send(text)
        except StopIteration as end:
            return end.value
        return None


class LocalEngine:
    """`budget` bounds the tokens that are read and sampled at one time; it shrinks where memory runs out. `generate`
    draws the responses: measurements put a stand-in there."""

    batch_dependent = True

    def __init__(
        self,
        policy: Policy,
        tokens_per_batch: int,
        max_batch: int,
        cuda_graph: bool = False,
        generate: Generate = generate,
    ) -> None:
        self.policy, self.max_batch, self.generate = policy, max_batch, generate
        self.cuda_graph = cuda_graph and policy.device.type == "cuda"
        self.budget = Budget("rollout.tokens_per_batch", tokens_per_batch)

    @property
    def interface(self) -> Family:
        return self.policy.family

    def forget_images(self) -> None:
        self.policy.forget_images()

    def sync(self) -> None:
        """Answers come from the policy's own weights, so there is nothing to bring up to date."""

    def close(self) -> None:
        """Nothing is held that others wait for."""

    def answer(self, runs: Sequence[ProtocolRun], decoding: Decoding = GREEDY) -> Iterator[tuple[int, Conversation]]:
        """Features of images stay in the policy's cache until `policy.forget_images`."""
        family = self.policy.family
        talks = {n: Talk(run, next(run)) for n, run in enumerate(runs)}
        turn, cache = 0, PromptCache(self.budget.value)
        while talks:
            for talk in talks.values():
                talk.ask(family)
            for n, response in self.sample(talks, cache, decoding, decoding.turn_seed(turn)).items():
                talk = talks[n]
                outcome = talk.hear(response, family)
                if outcome is not None:
                    del talks[n]
                    yield n, Conversation(tuple(talk.turns), outcome)
            turn += 1

    def sample(self, talks: dict[int, Talk], cache: PromptCache, decoding: Decoding, seed: int) -> dict[int, Response]:
        """A response for each. A prompt that several talks have in common is read greedily once, as far as the longest
        of their limits."""
        groups: dict[tuple, list[int]] = {}
        for n, talk in talks.items():
            same = talk.asked if decoding.temperature == 0 else (n,)
            groups.setdefault(same, []).append(n)
        limits = {numbers[0]: max(talks[n].say.max_tokens for n in numbers) for numbers in groups.values()}
        # By limit: a batch makes room for its longest response in every row.
        waiting = {n: talks[n].prompt for n in sorted(limits, key=lambda n: (limits[n], n))}
        drawn: dict[int, Response] = {}
        while waiting:
            batch = next(batches(waiting, limits, self.budget.value))
            going_on = any(talks[n].say.goes_on or not talks[n].say.fresh for n in batch)
            responses = self._within_memory(batch, limits, decoding, seed, cache if going_on else None)
            if responses is not None:
                drawn.update(zip(batch, responses, strict=True))
                waiting = {n: prompt for n, prompt in waiting.items() if n not in batch}
        return {n: drawn[numbers[0]].up_to(talks[n].say.max_tokens) for numbers in groups.values() for n in numbers}

    def _within_memory(
        self,
        batch: dict[int, Tokens],
        limits: dict[int, int],
        decoding: Decoding,
        seed: int,
        cache: PromptCache | None,
    ) -> list[Response] | None:
        """None where memory ran out and the budget was halved. Raises `ModelError` where a prompt alone is too much."""
        own, rows = tuple(limits[n] for n in batch), tuple(decoding.first + n for n in batch)
        sampling = Sampling(max(own), decoding.temperature, decoding.top_p, seed, rows, own, self.cuda_graph)
        responses = within_memory(partial(self.generate, self.policy, list(batch.values()), sampling, cache))
        if responses is None and cache is not None:
            cache.forget()
        if responses is None and len(batch) == 1:
            [prompt] = batch.values()
            raise ModelError(
                f"out of memory: up to {max(own)} tokens after a prompt of {len(prompt)} do not fit, not even alone. "
                "Lower pixels.full, pixels.crop or rollout.max_tokens_*, or set model.quant=nf4; `hart-lite plan` says "
                "what fits"
            )
        if responses is None:
            self.budget.halve("sampling")
        return responses
