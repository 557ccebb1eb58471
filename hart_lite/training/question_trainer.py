"""What stages that ask questions of their own policy share: which ones a step asks, and from which seed it draws."""

from __future__ import annotations

import random
from collections.abc import Sequence

from accelerate import PartialState
from transformers import TrainingArguments

from hart_lite.config.schema import Recipe
from hart_lite.config.sections import DistilStage, RLStage
from hart_lite.inference.rollout import Runner
from hart_lite.models.oom import Budget
from hart_lite.training.question_order import QuestionOrder
from hart_lite.training.step_trainer import StepTrainer
from hart_lite.types import Example


class QuestionTrainer(StepTrainer):
    """Trains `runner.policy` on `examples` as `recipe` and its `stage` say.

    `number` is the stage's place in the recipe: a second stage asks in another order and draws other samples.
    """

    def __init__(
        self,
        runner: Runner,
        examples: Sequence[Example],
        recipe: Recipe,
        stage: RLStage | DistilStage,
        args: TrainingArguments,
        number: int = 0,
        **kwargs,
    ) -> None:
        self.runner, self.examples, self.recipe, self.stage = runner, examples, recipe, stage
        self._seed = f"{recipe.seed}/{number}"
        self._order = QuestionOrder(len(examples), stage.questions_per_step, self._seed, [e.id for e in examples])
        budget = Budget(f"stages.{number}.tokens_per_pack", stage.tokens_per_pack)
        super().__init__(runner.policy, args, budget, [runner.engine.budget, runner.scorer.budget], **kwargs)

    def begin_step(self) -> None:
        """All processes agree to go on, and servers that draw for this one get the weights of this step."""
        self.guard.agree()
        with PartialState().main_process_first():  # which hands the weights over
            self.runner.engine.sync()

    @property
    def _share(self) -> int:
        """How many questions of a step are this process's."""
        return self.stage.questions_per_step // self.args.world_size

    def questions(self, step: int) -> list[Example]:
        """Those of this process in a step. Each has the next questions after the ones of the process before it."""
        first = (step * self.args.world_size + self.args.process_index) * self._share
        return [self.examples[self._order[first + n]] for n in range(self._share)]

    def seed_of(self, step: int, attempt: int = 0) -> int:
        return random.Random(f"{self._seed}/{step}" + f"/{attempt}" * bool(attempt)).getrandbits(60)

    def budgets(self) -> dict[str, int]:
        """As the step's metrics show them."""
        return {"tokens_per_pack": self.budget.value, "tokens_per_batch": self.runner.engine.budget.value}

    def most_tokens(self, longest: int) -> int:
        """Of a pack: the budget, but for a single sequence that is longer. The recipe allows it, so it is tried."""
        return min(max(self.budget.value, longest), self.stage.tokens_per_pack)
