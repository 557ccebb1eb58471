"""Protocols on a model of our own: all conversations go on together, turn by turn.

Everything that waits to be answered goes into one call of the policy, so what prompts share (several questions and
modes on one image) is encoded and read once, and prompts that are the same to the last token are answered once. Greedy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hart_lite.inference.conversation import Conversation, Spoken, cut_after
from hart_lite.inference.protocols.base import Outcome, ProtocolRun, Say
from hart_lite.models.families.base import Family
from hart_lite.models.generation import Sampling, batches
from hart_lite.models.policy import Policy
from hart_lite.types import Tokens


@dataclass
class _Talk:
    """A conversation under way. `prompt` is all that was said so far, up to where the model begins to speak."""

    run: ProtocolRun
    say: Say
    prompt: Tokens = field(default_factory=Tokens)
    response: tuple[int, ...] = ()
    turns: list[Spoken] = field(default_factory=list)

    def ask(self, family: Family) -> None:
        say = self.say
        if say.fresh:
            self.prompt = family.chat(say.content, system=say.system)
            return
        stands = self.response if say.keep is None else family.response_ids(say.keep)
        ended = bool(stands) and stands[-1] in family.eos_ids
        self.prompt = self.prompt + Tokens(stands) + family.reply(say.content, ended)

    def hear(self, ids: tuple[int, ...], family: Family) -> Outcome | None:
        """Take the model's response to the protocol: what the conversation came to, or None when it goes on."""
        whole = family.text(ids)
        text = cut_after(whole, self.say.stop)
        self.response = ids if text == whole else family.response_ids(text)
        spoken = Spoken(self.say.kind, text, len(self.prompt), len(ids), len(self.prompt.slots))
        self.turns.append(spoken)
        try:
            self.say = self.run.send(text)
        except StopIteration as end:
            return end.value
        return None


@dataclass
class LocalEngine:
    """`tokens_per_batch` bounds what is read and sampled at one time, as in a rollout; `at_once` counts questions."""

    policy: Policy
    tokens_per_batch: int
    at_once: int
    in_company = True

    @property
    def frame(self) -> Family:
        return self.policy.family

    def answer(self, runs: Sequence[ProtocolRun]) -> Iterator[tuple[int, Conversation]]:
        family = self.policy.family
        talks = {n: _Talk(run, next(run)) for n, run in enumerate(runs)}
        try:
            while talks:
                for talk in talks.values():
                    talk.ask(family)
                for n, ids in self._sample(talks).items():
                    talk = talks[n]
                    outcome = talk.hear(ids, family)
                    if outcome is not None:
                        del talks[n]
                        yield n, Conversation(tuple(talk.turns), outcome)
        finally:
            self.policy.forget_images()

    def _sample(self, talks: dict[int, _Talk]) -> dict[int, tuple[int, ...]]:
        """A response for each. The same prompt is sampled once, as far as the most patient of its talks wants it."""
        askers: dict[tuple, list[int]] = {}
        for n, talk in talks.items():
            seen = tuple((slot.start, slot.view) for slot in talk.prompt.slots)
            askers.setdefault((talk.prompt.ids, seen), []).append(n)
        limits = {numbers[0]: max(talks[n].say.max_tokens for n in numbers) for numbers in askers.values()}
        # By limit: a batch makes room for its longest response in every row.
        prompts = {n: talks[n].prompt for n in sorted(limits, key=lambda n: (limits[n], n))}
        sampled: dict[int, tuple[int, ...]] = {}
        for batch in batches(prompts, limits, self.tokens_per_batch):
            room = tuple(limits[n] for n in batch)
            responses = self.policy.generate(list(batch.values()), Sampling(max(room), temperature=0, limits=room))
            sampled.update(zip(batch, responses, strict=True))
        return {n: sampled[same[0]][: talks[n].say.max_tokens] for same in askers.values() for n in same}
