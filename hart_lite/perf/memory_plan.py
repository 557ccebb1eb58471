"""Will it fit? Peak memory, tokens and FLOPs of a recipe, from its numbers alone: no download, no model, no card.

A plan is a list of phases, each with all that is held then; the peak is the largest. Two cases are planned: `worst`,
in which every image fills its budget, every turn runs to its longest and every sample names `max_boxes` crops that no
other names; and `typical`, the same with one box a sample.
"""

from __future__ import annotations

import math
from dataclasses import replace

from hart_lite.config.limits import ENCODE_TOKENS, FEED_TOKENS
from hart_lite.config.schema import Recipe
from hart_lite.config.sections import DistilStage, RLStage, SFTStage
from hart_lite.perf.memory_model import Cost
from hart_lite.perf.model_sizes import Dimensions
from hart_lite.perf.plan_values import (
    KL_COPIES,
    SCORED_TOKENS,
    TEXT_TOKENS,
    Phase,
    Plan,
    Step,
    Turn,
    kv_tokens,
    prompt_tokens,
)


def plan(recipe: Recipe, dims: Dimensions, boxes: int | None = None) -> Plan:
    """The plan with so many boxes a sample; None: the worst case, `max_boxes`."""
    estimator = MemoryEstimator(recipe, dims, boxes or recipe.rollout.max_boxes)
    phases, steps, problems = estimator.evaluation(), [], estimator.small_budgets()
    for index, stage in enumerate(recipe.stages):
        name = f"{index + 1}-{stage.kind}"
        if isinstance(stage, SFTStage):
            phases += estimator.sft(name, stage)
            continue
        if isinstance(stage, DistilStage):
            phases += estimator.distil(name, stage)
            problems += estimator.long_rows(index, stage, estimator.distilled(stage))
            continue
        phases += estimator.rl(name, stage)
        steps.append(estimator.step(name, stage))
        problems += estimator.long_rows(index, stage, estimator.sequences(stage))
    return Plan(tuple(phases), tuple(steps), tuple(problems))


class MemoryEstimator:
    """A recipe with a number of boxes for every sample."""

    def __init__(self, recipe: Recipe, dims: Dimensions, boxes: int) -> None:
        self.recipe, self.dims, self.cost = recipe, dims, Cost(dims, recipe.model)
        vision, pixels = dims.vision, recipe.pixels
        self.full = vision.tokens(pixels.full)
        self.crops = boxes * vision.tokens(pixels.crop)
        self.patches_per_token = max(vision.patches_per_token(pixels.full), vision.patches_per_token(pixels.crop))
        adapters, casts = self.cost.adapters(), self.cost.casts
        self.still = {"weights": self.cost.weights(), "adapters": adapters + casts, "optimizer": 2 * adapters}
        self.training = self.still | {"adapters": 2 * adapters + casts}  # with their gradients

    def small_budgets(self) -> list[str]:
        """Budgets of pixels in which a family that sees tiles has room for none."""
        least, pixels = self.dims.vision.min_pixels, self.recipe.pixels
        budgets = {"full": pixels.full, "crop": pixels.crop}
        return [
            f"pixels.{name} is {budget}, and this model is shown {least} pixels at least: training would stop there; "
            "raise it"
            for name, budget in budgets.items()
            if budget < least
        ]

    def long_rows(self, index: int, stage: RLStage | DistilStage, turns: list[Turn]) -> list[str]:
        """Sequences that no pack of the stage holds."""
        longest = max(map(len, turns))
        if longest <= stage.tokens_per_pack:
            return []
        return [
            f"these budgets allow a sequence of {longest} tokens, and stages.{index}.tokens_per_pack is "
            f"{stage.tokens_per_pack}: training would stop there; raise it, or lower pixels or max_tokens_*"
        ]

    # -- tokens ----------------------------------------------------------------------------------------------------

    def turns(self, loop: str) -> list[Turn]:
        """The prompts of `hart_lite.inference.prompts`, in tokens."""
        rollout, prompt = self.recipe.rollout, self.full + TEXT_TOKENS
        if loop == "direct":
            return [Turn("answer", prompt, 0, rollout.max_tokens_answer)]
        first = Turn("locate", prompt, 0, rollout.max_tokens_locate)
        if loop == "hart":
            scored = Turn("verify", TEXT_TOKENS, self.crops, SCORED_TOKENS, scored=True)
            control = [replace(scored, name="control")] * rollout.control_region
            if rollout.verify == "score":
                return [first, scored, *control]
            return [first, Turn("verify", TEXT_TOKENS, self.crops, rollout.max_tokens_answer), *control]
        again = first.sampled + max(self.crops, self.full) + TEXT_TOKENS  # without a valid box mgpo repeats the image
        return [first, Turn("verify", prompt, again, rollout.max_tokens_answer)]

    def sequences(self, stage: RLStage) -> list[Turn]:
        """The turns that the update trains on. In one conversation the second holds the first."""
        loop = stage.loop or self.recipe.loop
        turns = self.turns(loop)
        if loop == "hart":
            return [turn for turn in turns if turn.name in self.recipe.train_turns and not turn.scored]
        return turns[-1:]

    def distilled(self, stage: DistilStage) -> list[Turn]:
        """What the student reads of a question, and the teacher."""
        sampled = self.recipe.rollout.max_tokens_answer
        crops = self.crops + (self.full if stage.teacher == "full+crops" else 0)
        prompts = {"answer": self.full, "teacher": crops}
        return [Turn(name, image + TEXT_TOKENS, 0, sampled) for name, image in prompts.items()]

    def packed(self, stage: RLStage) -> int:
        """Tokens of a step's packs when nothing is cut: a question's prompt once."""
        return sum(
            kv_tokens(turn, stage.questions_per_step, self.recipe.rollout.samples) for turn in self.sequences(stage)
        )

    def _patches(self, image_tokens: int) -> float:
        return image_tokens * self.patches_per_token

    # -- phases ---------------------------------------------------------------------------------------------------

    def rl(self, name: str, stage: RLStage) -> list[Phase]:
        loop, samples = stage.loop or self.recipe.loop, self.recipe.rollout.samples
        questions = stage.questions_per_step
        images = questions * self.full + (len(self.turns(loop)) - 1) * questions * samples * self.crops
        features = self._features(images)
        phases = self._encode(f"{name}: see images", images)
        known = 0 if loop == "mgpo" else None
        for turn in self.turns(loop):
            if turn.scored:
                phases.append(self._scored(name, turn, questions, samples, features))
                continue
            phases += self._turn(name, turn, questions, samples, features, known)
            if known is not None:
                known = min(self.recipe.rollout.tokens_per_batch, known + prompt_tokens(turn, questions, samples))
        return phases + self._update(name, stage, features)

    def _features(self, image_tokens: int) -> int:
        """Features that wait for a pass which shows them: a card leaves them in its host's memory."""
        return self.cost.features(image_tokens) if self.cost.cpu else 0

    def _encode(self, name: str, image_tokens: int) -> list[Phase]:
        """Some images are in the tower while the features of all that a batch shows are on the card."""
        at_once = image_tokens if self.cost.cpu else min(image_tokens, self.recipe.rollout.tokens_per_batch)
        encoding = self.cost.encoding(self._patches(min(image_tokens, max(ENCODE_TOKENS, self.full))))
        return [Phase(name, **self.still, features=self.cost.features(at_once), activations=encoding)]

    def _turn(
        self, name: str, turn: Turn, questions: int, samples: int, features: int, known: int | None = None
    ) -> list[Phase]:
        """One batch under the rollout's budget of tokens is held at a time, or one row that is longer. Its prompts are
        read in passes; then their keys and values move from one store to the levels that rows stand under.

        `known`: tokens of prompts whose keys and values are kept since an earlier turn, where a conversation goes on;
        those of this turn are kept as well then, in the store and in the levels.
        """
        cost, rollout, rows = self.cost, self.recipe.rollout, questions * samples
        whole, prompts = kv_tokens(turn, questions, samples), prompt_tokens(turn, questions, samples)
        batch = min(1, max(rollout.tokens_per_batch, len(turn)) / whole)
        read, at_once = math.ceil(batch * prompts), math.ceil(batch * rows)
        others, twice = (0, 0) if known is None else (known, read)
        fed = min(read, FEED_TOKENS)
        kept = {**self.still, "features": features}
        reading = cost.reading(fed) + cost.features(fed + read)  # embeddings of the pass, and of all
        sampling = {
            "kv": cost.kv(math.ceil(batch * whole) + others + twice),
            "activations": cost.stepping(at_once, len(turn)),
            "logits": cost.drawing(at_once),
        }
        return [
            Phase(f"{name}: read for {turn.name}", **kept, kv=cost.kv(read + others), activations=reading),
            Phase(f"{name}: sample {turn.name}", **kept, **sampling),
        ]

    def _scored(self, name: str, turn: Turn, questions: int, samples: int, features: int) -> Phase:
        """Passes of at most `FEED_TOKENS`, or one prompt with an answer that is longer, which keep nothing. A layer
        holds most, or the head."""
        tokens = min(max(FEED_TOKENS, len(turn)), kv_tokens(turn, questions, samples))
        kept = {**self.still, "features": features}
        reading = self.cost.reading(tokens) + self.cost.features(tokens)
        in_layer = Phase(f"{name}: score {turn.name}", **kept, activations=reading)
        logits = self.cost.logits(min(tokens, questions * samples * turn.sampled), copies=2)
        at_head = replace(in_layer, activations=self.cost.features(tokens), logits=logits)
        return max(in_layer, at_head, key=lambda phase: phase.total)

    def _update(self, name: str, stage: RLStage, features: int) -> list[Phase]:
        """The reference pass, then the two heights of the update: at the head, and inside the last layer."""
        tokens = min(stage.tokens_per_pack, self.packed(stage))
        all_sampled = sum(turn.sampled for turn in self.sequences(stage))
        sampled = min(tokens, stage.questions_per_step * self.recipe.rollout.samples * all_sampled)
        if {"vision", "projector"} & set(self.recipe.model.lora.parts):
            # Other ones than the rollout's, which stay: the base's in the reference, the graph's after it.
            features *= 2
        phases = self._backward(name, tokens, sampled, features, self.cost.tower_kept(self._patches(tokens)))
        if self.recipe.beta:
            reading = self.cost.reading(tokens) + self.cost.features(tokens)
            phases.insert(0, Phase(f"{name}: reference", **self.still, features=features, activations=reading))
        return phases

    def _backward(self, name: str, tokens: int, sampled: int, features: int, tower: int = 0) -> list[Phase]:
        cost = self.cost
        kept = cost.kept(tokens) + cost.around(tokens, sampled) + tower
        at_head, in_layer = cost.head_backward(tokens, sampled), cost.layer_backward(tokens)
        held = {**self.training, "features": features}
        logits = cost.logits(sampled)
        return [
            Phase(f"{name}: update, at the head", **held, activations=kept + at_head, logits=logits),
            Phase(f"{name}: update, in a layer", **held, activations=kept + in_layer),
        ]

    def sft(self, name: str, stage: SFTStage) -> list[Phase]:
        """A pack for each micro-batch, of rows that have nothing in common, with the features of its images."""
        rows = stage.micro_batch_size
        images = self.full + (self.crops if stage.context == "full+crops" else 0)
        said = self.recipe.rollout.max_tokens_locate  # of rows that repeat a first turn, which see no crops
        row = max(images + TEXT_TOKENS, self.full + TEXT_TOKENS + said)
        features = self._features(rows * images)
        seen = self._encode(f"{name}: see images", rows * images)
        tower = self.cost.tower_kept(self._patches(rows * images))
        return seen + self._backward(name, rows * row, rows * said, features, tower)

    def distil(self, name: str, stage: DistilStage) -> list[Phase]:
        """Sampling, the teacher's pass, and the update, which holds what the teacher saw of each sampled token. The
        teacher's adapters are there all the time; the crops are those of one greedy answer for each question."""
        student, teacher = self.distilled(stage)
        questions, samples = stage.questions_per_step, self.recipe.rollout.samples
        images, sampled = questions * (self.full + self.crops), questions * samples * student.sampled
        features, taught = self._features(images), self.cost.features(sampled)
        read, packed = (min(stage.tokens_per_pack, kv_tokens(t, questions, samples)) for t in (teacher, student))
        reading = self.cost.reading(read) + self.cost.features(read) + taught
        tower, in_pack = self.cost.tower_kept(self._patches(packed)), min(packed, sampled)
        at_head, in_layer = self._backward(name, packed, in_pack, features, tower)
        at_head = replace(at_head, logits=self.cost.logits(in_pack, copies=KL_COPIES))
        phases = [
            *self._encode(f"{name}: see images", images),
            *self._turn(name, student, questions, samples, features),
            Phase(f"{name}: teacher", **self.still, features=features, activations=reading),
            *(replace(phase, activations=phase.activations + taught) for phase in (at_head, in_layer)),
        ]
        return [replace(phase, adapters=phase.adapters + self.cost.adapters()) for phase in phases]

    def evaluation(self) -> list[Phase]:
        """One greedy sample a question; the widest prompt is the image with its crops."""
        rollout = self.recipe.rollout
        batch = rollout.questions_at_once(self.full)
        shown = self.full + self.crops if "full+crops" in self.recipe.evaluate.modes else max(self.full, self.crops)
        turn = Turn("answers", shown + TEXT_TOKENS, 0, max(rollout.max_tokens_locate, rollout.max_tokens_answer))
        return self._turn("evaluation", turn, batch, 1, self._features(batch * (self.full + self.crops)))

    # -- work ------------------------------------------------------------------------------------------------------

    def step(self, name: str, stage: RLStage) -> Step:
        """FLOPs of the linears, two for a weight and token; attention's own products are left out."""
        questions, samples = stage.questions_per_step, self.recipe.rollout.samples
        sequences, turns = self.sequences(stage), self.turns(stage.loop or self.recipe.loop)
        packed = self.packed(stage)
        unshared = questions * samples * sum(map(len, sequences))
        trained = questions * samples * sum(turn.sampled for turn in sequences)
        token, head = 2 * self.dims.linears, 2 * self.dims.vocab * self.dims.hidden
        images = questions * self.full + (len(turns) - 1) * questions * samples * self.crops
        sampled = questions * samples * sum(turn.sampled for turn in turns if not turn.scored)
        scored = questions * samples * sum(turn.sampled for turn in turns if turn.scored)
        read = sum(kv_tokens(turn, questions, samples) for turn in turns)
        # Reference, forward and backward; recomputing is one forward more. A frozen base needs no gradient of its own
        # weights, so that a backward pass costs what a forward pass does. The head is always recomputed.
        passes = 2 + bool(self.recipe.beta) + self.recipe.model.gradient_checkpointing
        heads = trained * head * (3 + bool(self.recipe.beta))
        return Step(
            stage=name,
            sampled=sampled,
            packed=packed,
            unshared=unshared,
            rollout_flops=read * token + (sampled + scored) * head + round(2 * self._patches(images) * self.dims.tower),
            update_flops=passes * packed * token + heads,
            update_flops_unshared=passes * unshared * token + heads,
        )
