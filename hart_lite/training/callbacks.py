"""What happens at the end of a step, beside training itself: evaluations that are due, a polite stop, and the step's
metrics in a file and on the screen."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import TrainerCallback

from hart_lite.training.signals import Stop, Stopped
from hart_lite.utils.phase import begin_phase
from hart_lite.utils.progress import progress


def highest_of_all(number: int) -> int:
    """The highest of the numbers that the processes of a run give; each has to ask."""
    highest = torch.tensor(number, device=PartialState().device)
    torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
    return int(highest)


class StopAfterStep(TrainerCallback):
    """Ends training with a checkpoint after the step in which a stop was asked for. After the last step there is
    nothing to end."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step < state.max_steps and self.stop.asked():
            end_with_checkpoint(control)


class Enough(Exception):  # noqa: N818, it is no error
    """Training goes on from a step after which it was to end: there is no step to take."""


class AtSteps(TrainerCallback):
    """Calls `act(step)` after each step that is `due`, the last one of the stage left out; then `enough(step)`, which
    says whether training ends there.

    A stop breaks `act` off. The checkpoint is that of a step with something still due, so `act` is called again when
    training goes on from it, and has to do nothing where it was done.
    """

    def __init__(
        self,
        due: Callable[[int], bool],
        act: Callable[[int], None],
        stop: Stop,
        enough: Callable[[int], bool] = lambda step: False,
    ) -> None:
        self.due, self.act, self.stop, self.enough = due, act, stop, enough

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step and self._act(state):
            raise Enough

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if control.should_training_stop:
            return
        try:
            control.should_training_stop = self._act(state)
        except Stopped:
            end_with_checkpoint(control)

    def _act(self, state) -> bool:
        if not self.due(state.global_step) or state.global_step == state.max_steps:
            return False
        with self.stop.at_once():
            self.act(state.global_step)
        return self.enough(state.global_step)


def end_with_checkpoint(control) -> None:
    control.should_save = control.should_training_stop = True


class MetricsFile(TrainerCallback):
    """Appends every step's metrics to metrics.jsonl. They are on the disk before the step's checkpoint is, or a machine
    that stops would leave a gap before it."""

    def __init__(self, path: Path, stage: str) -> None:
        self.path, self.stage, self.begun, self.seconds = path, stage, 0.0, 0.0

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.begun = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Before the callbacks that evaluate: their time is not the step's."""
        self.seconds = time.perf_counter() - self.begun

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if logs and state.is_world_process_zero and "train_runtime" not in logs:
            begin_phase("metrics")
            row = {"stage": self.stage, "step": state.global_step, "seconds_step": self.seconds, **logs}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())


class LiveProgress(TrainerCallback):
    """One bar for a stage, with the latest metrics behind it: the first ones, as many as the terminal has room for.

    `select` turns the metrics of a step into the names and texts to show, the most important first.
    """

    LINE = "{desc} {n_fmt}/{total_fmt} {bar:10} {elapsed}<{remaining}{postfix}"

    def __init__(self, title: str, select: Callable[[dict], dict[str, str]]) -> None:
        self.title, self.select, self.bar = title, select, None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            bar = progress(
                total=state.max_steps,
                initial=state.global_step,
                desc=self.title,
                bar_format=self.LINE,
                dynamic_ncols=True,
            )
            self.bar = None if bar.disable else bar

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if self.bar and logs and "train_runtime" not in logs:
            self.bar.n = state.global_step
            self.bar.set_postfix_str("", refresh=False)
            self.bar.set_postfix_str(self._fitting(self.select(logs)))

    def _fitting(self, shown: dict[str, str]) -> str:
        """No number is cut in two: half a number reads like another one."""
        columns = self.bar.format_dict["ncols"]
        text = ""
        for name, value in shown.items():
            longer = f"{text}, {name}={value}" if text else f"{name}={value}"
            if columns and len(str(self.bar)) + len(", ") + len(longer) > columns:
                break
            text = longer
        return text

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.close()

    def close(self) -> None:
        """A bar that is not closed would draw itself once more, below the last message of the run."""
        if self.bar:
            self.bar.close()
