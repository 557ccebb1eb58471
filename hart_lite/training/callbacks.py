"""What happens at the end of a step, beside training itself: evaluations that are due, and a polite stop."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import PartialState
from transformers import TrainerCallback

from hart_lite.training.signals import Stop, Stopped


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


class AtSteps(TrainerCallback):
    """Calls `act(step)` after each step that is `due`, the last one of the stage left out.

    A stop breaks `act` off. The checkpoint is that of a step with something still due, so `act` is called again when
    training goes on from it, and has to do nothing where it was done.
    """

    def __init__(self, due: Callable[[int], bool], act: Callable[[int], None], stop: Stop) -> None:
        self.due, self.act, self.stop = due, act, stop

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step:
            self._act(state)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if control.should_training_stop:
            return
        try:
            self._act(state)
        except Stopped:
            end_with_checkpoint(control)

    def _act(self, state) -> None:
        if self.due(state.global_step) and state.global_step < state.max_steps:
            with self.stop.at_once():
                self.act(state.global_step)


def end_with_checkpoint(control) -> None:
    control.should_save = control.should_training_stop = True
