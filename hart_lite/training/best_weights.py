"""The best weights of a stage, by its evaluations along the way, and when none better is waited for any longer.

RUN/stages/1-rl/best-00025/     the adapter as it was after the best step so far

Which step is best follows from the evaluations on the disk alone, up to the step that is asked about. So a run that was
killed keeps and stops as an unbroken one, also where it repeats steps whose evaluations are there already.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from accelerate import PartialState
from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from hart_lite.config.sections import Evaluate
from hart_lite.errors import HartError
from hart_lite.eval.results import read_evaluation
from hart_lite.eval.run_summary import run_metrics
from hart_lite.models.adapter_files import ADAPTER_WEIGHTS
from hart_lite.models.policy import Policy
from hart_lite.runs.layout import EVALUATION
from hart_lite.runs.run_dir import save_adapter
from hart_lite.types import Example

GROUNDING = ("wrong_grounding", "mean_iou")


def check_measurable(spec: Evaluate, held_out: list[Example]) -> None:
    """Raises `HartError` where the held-out questions say nothing of the metric that is kept by."""
    if spec.keep_best in GROUNDING and not any(example.boxes for example in held_out):
        raise HartError(
            f"evaluate.keep_best = {spec.keep_best!r}, and none of the {len(held_out)} held-out questions has boxes; "
            "give boxes, or keep by the answers of a mode, such as evaluate.keep_best=crops"
        )
    if spec.keep_best and not held_out:
        raise HartError(f"evaluate.keep_best = {spec.keep_best!r} needs held-out questions; give data.eval")


class BestWeights:
    """Of the stage called `stage`, whose checkpoints are in `folder`."""

    def __init__(self, spec: Evaluate, run: Path, stage: str, folder: Path) -> None:
        self.spec, self.run, self.stage, self.folder = spec, run, stage, folder
        self._values: dict[int, float] = {}

    def keep(self, step: int, policy: Policy) -> bool:
        """Keep the weights of this step, which has been evaluated, if none were better before. Returns whether so many
        evaluations have passed since the best one that training should end."""
        steps = self._evaluated(step)
        best = self._best(steps)
        if best == step:
            save_adapter(policy, self._place(step))
            if PartialState().is_main_process:
                for old in self.folder.glob("best-*"):
                    if old != self._place(step):
                        shutil.rmtree(old)
        return self.spec.patience is not None and len(steps) - 1 - steps.index(best) >= self.spec.patience

    def restore(self, last: int, policy: Policy) -> int:
        """Put the best weights up to the step `last` into the policy. Returns their step."""
        best = self._best(self._evaluated(last))
        weights = load_file(self._place(best) / ADAPTER_WEIGHTS)
        with torch.no_grad():
            set_peft_model_state_dict(policy.peft, weights)
        policy.forget_images()
        return best

    def clear(self) -> None:
        """Once the stage's adapter is saved, which has the same weights."""
        if PartialState().is_main_process:
            for folder in self.folder.glob("best-*"):
                shutil.rmtree(folder)

    def _place(self, step: int) -> Path:
        return self.folder / f"best-{step:05d}"

    def _evaluated(self, step: int) -> list[int]:
        every = self.spec.every
        return sorted({*range(every, step + 1, every), step})

    def _best(self, steps: list[int]) -> int:
        """The first of the best."""
        return max(steps, key=lambda step: (self._value(step), -step))

    def _value(self, step: int) -> float:
        """Of the metric, turned so that more is better."""
        if step not in self._values:
            name = f"during-{self.stage}-{step:05d}"
            figures = run_metrics(read_evaluation(self.run / EVALUATION / name))
            metric = self.spec.keep_best
            if metric in GROUNDING:
                value = figures["grounding"][metric]
                self._values[step] = -value if metric == "wrong_grounding" else value
            else:
                self._values[step] = figures["accuracy"][metric]
        return self._values[step]
