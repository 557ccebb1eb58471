"""Stage 2's rows: questions with the full image in sight, and turns that point at the right place.

The crops come from the stage-1 policy, greedily and once. A share of the rows repeats a box that led that policy to a
right answer from the crops alone: self-verified, so still free of annotation. Prompts are those of the loops.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from hart_lite.config.sections import SFTStage
from hart_lite.errors import HartError
from hart_lite.inference.prompts import target_text
from hart_lite.inference.protocols import hart
from hart_lite.inference.rollout import Runner
from hart_lite.types import Example, Tokens
from hart_lite.utils.files import write_whole
from hart_lite.utils.phase import begin_phase
from hart_lite.utils.progress import progress


def locate_once(runner: Runner, examples: Sequence[Example], cache: Path) -> dict[str, dict]:
    """Where the policy looks, greedily, and whether it is right from there: {example id: {said, right}}.

    `said` is the first turn as it was sampled, in ids.

    Written to `cache` when complete and read from there afterwards, since training changes the policy.
    """
    if cache.exists():
        found = json.loads(cache.read_text(encoding="utf-8"))
        if found.keys() != {example.id for example in examples}:
            raise HartError(f"{cache} is about other questions: the data changed since the run began; start a new run")
        return found
    begin_phase("locate")
    found, batch_size = {}, runner.engine.max_batch
    for start in progress(range(0, len(examples), batch_size), desc="locate for SFT", unit="batch", leave=False):
        batch = examples[start : start + batch_size]
        for example, t in zip(batch, runner.rewarded(batch, runner.run(batch, hart.crops)), strict=True):
            found[example.id] = {"said": list(t.turns[0].response), "right": t.reward == 1}
        runner.engine.forget_images()
    write_whole(cache, json.dumps(found))
    return found


def answer_row(runner: Runner, example: Example, said: Sequence[int], stage: SFTStage) -> Tokens:
    """The question with the full image, and its answer as the sampled span (the only tokens with loss)."""
    family = runner.policy.family
    if stage.context == "full":
        prompt = runner.prompt(example, hart.full)
    else:
        prompt = runner.prompt(example, hart.full_and_crops, [family.text(said)])
    return prompt + Tokens.response(family.response_ids(target_text(example, stage.target)), "verify")


def locate_row(runner: Runner, example: Example, said: Sequence[int]) -> Tokens:
    """(I_f, question) -> the turn whose boxes earned the reward, word for word."""
    return runner.prompt(example, hart.locate) + Tokens.response(said, "locate")


class SFTRows:
    """Rows as tokens, made when asked for. `keep_locate` is the share of self-verified locate rows among all; of these
    only turns that ended themselves are targets."""

    def __init__(
        self, runner: Runner, examples: Sequence[Example], found: dict[str, dict], stage: SFTStage, seed: int
    ) -> None:
        self.runner, self.stage = runner, stage
        self.items = [("answer", e, found[e.id]) for e in examples]
        ended = runner.policy.family.eos_ids  # a turn that the limit cut off would teach to go on for ever
        verified = [
            ("locate", e, found[e.id]) for e in examples if found[e.id]["right"] and found[e.id]["said"][-1] in ended
        ]
        if stage.keep_locate < 1:
            wanted = round(len(self.items) * stage.keep_locate / (1 - stage.keep_locate))
        else:
            self.items, wanted = [], len(verified)
        rng = random.Random(seed)
        self.items += rng.sample(verified, min(wanted, len(verified)))
        if not self.items:
            raise HartError(
                "sft: keep_locate = 1 and the policy was never right from a turn that it ended itself, so there is no "
                "row; lower keep_locate or raise rollout.max_tokens_locate"
            )
        rng.shuffle(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def example_id(self, i: int) -> str:
        return self.items[i][1].id

    def kind(self, i: int) -> str:
        """ "answer" or "locate"."""
        return self.items[i][0]

    def __getitem__(self, i: int) -> Tokens:
        kind, example, entry = self.items[i]
        if kind == "locate":
            return locate_row(self.runner, example, entry["said"])
        return answer_row(self.runner, example, entry["said"], self.stage)
