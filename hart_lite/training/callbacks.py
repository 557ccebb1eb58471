"""What happens at the end of a step, beside training itself: evaluations that are due, a polite stop, and the step's
metrics in a file and on the screen."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import torch
from accelerate import PartialState
from transformers import TrainerCallback

from hart_lite.runs.metrics_file import FIRST_STEPS, read_metrics, values, without_signal
from hart_lite.runs.time_left import duration
from hart_lite.training.signals import Stop, Stopped
from hart_lite.utils.phase import begin_phase
from hart_lite.utils.progress import progress

log = logging.getLogger(__name__)


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
    that stops would leave a gap before it. `rows` are those of the whole run so far."""

    def __init__(self, path: Path, stage: str) -> None:
        self.path, self.stage, self.begun, self.seconds = path, stage, 0.0, 0.0
        self.rows: list[dict] = []

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.rows = read_metrics(self.path)

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.begun = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Before the callbacks that evaluate: their time is not the step's."""
        self.seconds = time.perf_counter() - self.begun

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if logs and state.is_world_process_zero and "train_runtime" not in logs:
            begin_phase("metrics")
            row = {"stage": self.stage, "step": state.global_step, "seconds_step": self.seconds, **logs}
            self.rows.append(row)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())


class WarnWithoutSignal(TrainerCallback):
    """Says so after the first steps of a stage in which every group was flat: such a run only costs time."""

    def __init__(self, steps: MetricsFile) -> None:
        self.steps = steps

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        own = [row for row in self.steps.rows if row["stage"] == self.steps.stage]
        if len(own) == FIRST_STEPS and without_signal(own):
            log.warning(
                "%s: in each of its first %d steps all samples of a question earned the same (%.2f on average), and "
                "nothing can be learned from that. What to do: hart-lite report %s",
                *(self.steps.stage, FIRST_STEPS, fmean(values(own, "reward") or [0]), self.steps.path.parent),
            )


class LiveProgress(TrainerCallback):
    """One bar for a stage, with the latest metrics behind it: the first ones, as many as the terminal has room for.

    `select` turns the metrics of a step into the texts to show, the most important first.
    """

    LINE = "{desc} {n_fmt}/{total_fmt} {bar:8}{postfix}"

    def __init__(self, title: str, select: Callable[[dict], Sequence[str]]) -> None:
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

    def _fitting(self, texts: Sequence[str]) -> str:
        """No number is cut in two: half a number reads like another one."""
        columns, empty = self.bar.format_dict["ncols"], len(str(self.bar))
        lengths = [empty + len("".join(f", {text}" for text in texts[:n])) for n in range(len(texts) + 1)]
        fitting = max((n for n, length in enumerate(lengths) if not columns or length <= columns), default=0)
        return ", ".join(texts[:fitting])

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.close()

    def close(self) -> None:
        """A bar that is not closed would draw itself once more, below the last message of the run."""
        if self.bar:
            self.bar.close()


PHASES = ("rollout", "reference", "update")
SHOWN = {  # name in the bar -> key of the metrics
    "reward": "reward",
    "box coverage": "coverage",
    "valid boxes": "valid_box",
    "flat groups": "flat_groups",
    "KL": "kl",
    "loss": "loss",
    "tokens right": "mean_token_accuracy",
    "peak GiB": "peak_memory_gib",
    "reserved GiB": "peak_reserved_gib",
    "tokens a second": "tokens_per_second",
    "tokens to locate": "tokens_locate",
    "to verify": "tokens_verify",
}


def step_in_words(metrics: dict, left: float | None) -> list[str]:
    """What the bar shows of a step of either kind of stage, the most important first. `left`: seconds until the whole
    run is finished, None where nobody knows. Shares are shares, and seconds those of the step's phases."""
    texts = [f"{name} {_short(metrics[key])}" for name, key in SHOWN.items() if key in metrics]
    laps = [f"{phase} {_short(metrics[key])}" for phase in PHASES if (key := f"seconds_{phase}") in metrics]
    seconds = [f"{' + '.join(laps)} s"] if laps else []
    return [*([] if left is None else [f"{duration(left)} left in the run"]), *texts[:1], *seconds, *texts[1:]]


def _short(value: float) -> str:
    """Two digits, zeros at the end, too, so that what stands behind stays in its place."""
    return f"{value:,.0f}" if abs(value) >= 99.5 else f"{value:#.2g}".rstrip(".")
