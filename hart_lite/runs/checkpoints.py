"""Checkpoints that are whole or not there, and the metrics file that goes with them.

A checkpoint is made in `checkpoint.part` and gets its place once it is sealed and on the disk: `complete.json` lists
the hash of each of its files. What a kill leaves half-written never gets there, what a disk damages no longer matches
its seal; resuming passes both by.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from tqdm import tqdm
from transformers import TrainerCallback

from hart_lite.errors import HartError
from hart_lite.utils.files import move_whole, write_whole
from hart_lite.utils.phase import begin_phase

SEAL = "complete.json"
PARTIAL = "checkpoint.part"
KEPT = 2  # the newest and the one before it
DISK_ERRORS = (OSError, RuntimeError, SafetensorError)  # a full disk comes as any of the three
log = logging.getLogger(__name__)


def seal(folder: Path) -> None:
    """Mark a checkpoint folder as complete."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SEAL)
    hashes = {}
    for path in files:
        with path.open("rb") as file:
            hashes[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    write_whole(folder / SEAL, json.dumps(hashes, indent=1))


def damage(folder: Path) -> str | None:
    """Why a checkpoint cannot be used, or None when it is whole."""
    try:
        hashes = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "it was never finished"
    except (ValueError, RecursionError):
        return f"its {SEAL} is damaged"
    if not isinstance(hashes, dict) or not hashes:
        return f"its {SEAL} is damaged"
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                return f"{name} is damaged"
    return None


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def is_last(checkpoint: Path) -> bool:
    """Whether it was saved after the stage's last step."""
    path = checkpoint / "trainer_state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return state["global_step"] >= state["max_steps"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # sealed so: no disk did this
        raise HartError(f"{path} is damaged: {error!r}. Remove {checkpoint} to go on from the one before it") from error


def _numbered(folder: Path) -> list[Path]:
    """The checkpoints of a stage, oldest first; a copy somebody made beside them is none."""
    found = [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(found, key=step_of)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole `checkpoint-N` in a stage's folder; damaged newer ones are named in the log and removed, and so
    is what a kill left half-made."""
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    for checkpoint in reversed(_numbered(folder)):
        reason = damage(checkpoint)
        if reason is None:
            return checkpoint
        log.warning("checkpoint %s is passed by: %s", checkpoint, reason)
        shutil.rmtree(checkpoint)
    return None


class SealedCheckpoints:
    """Mixin for trainers: seals what `transformers.Trainer` saves, puts it in its place, lets go of the oldest."""

    def _get_output_dir(self, trial) -> str:
        """Where the Trainer makes its `checkpoint-N`."""
        return str(Path(self.args.output_dir) / PARTIAL)

    def _save_checkpoint(self, model, trial) -> None:
        begin_phase("checkpoint")
        folder = Path(self.args.output_dir)
        newest = folder / f"checkpoint-{self.state.global_step}"
        partial = folder / PARTIAL / newest.name
        with _full_disk_explained(newest):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process adds the state of its generators
        if not self.args.should_save:
            return
        with _full_disk_explained(newest):
            # A pickle of the arguments that nothing here reads: the resolved recipe says the same.
            (partial / "training_args.bin").unlink(missing_ok=True)
            seal(partial)
            move_whole(partial, newest)
        for old in (folder / PARTIAL, *_numbered(folder)[:-KEPT]):
            shutil.rmtree(old)


@contextmanager
def _full_disk_explained(newest: Path) -> Iterator[None]:
    try:
        yield
    except DISK_ERRORS as error:
        last = newest_checkpoint(newest.parent)
        raise HartError(
            f"checkpoint {newest} could not be saved: {error}\nThe last whole checkpoint is {last or 'none yet'}. "
            "Free some space, then go on with --resume"
        ) from error


class MetricsFile(TrainerCallback):
    """Appends every step's figures to metrics.jsonl. They are on the disk before the step's checkpoint is, or a machine
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
            row.pop("num_tokens", None)  # TRL counts it from zero after a resume
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())


def rewind_metrics(path: Path, stage: str, step: int) -> None:
    """Drop the rows after a step of a stage: they will be written again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
            keep = row["stage"] != stage or row["step"] <= step
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # the last line of a killed run, or what a disk made of one
        if keep:
            kept.append(json.dumps(row) + "\n")
    write_whole(path, "".join(kept))


class LiveProgress(TrainerCallback):
    """One bar for a stage, with the latest figures behind it: the first ones, as many as the terminal has room for."""

    LINE = "{desc} {n_fmt}/{total_fmt} {bar:10} {elapsed}<{remaining}{postfix}"

    def __init__(self, title: str, figures: Callable[[dict], dict[str, str]]) -> None:
        self.title, self.figures, self.bar = title, figures, None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc=self.title,
                bar_format=self.LINE,
                dynamic_ncols=True,
            )

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if self.bar and logs and "train_runtime" not in logs:
            self.bar.n = state.global_step
            self.bar.set_postfix_str("", refresh=False)
            self.bar.set_postfix_str(self._fitting(self.figures(logs)))

    def _fitting(self, figures: dict[str, str]) -> str:
        """No figure is cut in two: half a number reads like another one."""
        columns = self.bar.format_dict["ncols"]
        text = ""
        for name, value in figures.items():
            longer = f"{text}, {name}={value}" if text else f"{name}={value}"
            if columns and len(str(self.bar)) + len(", ") + len(longer) > columns:
                break
            text = longer
        return text

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.close()

    def close(self) -> None:
        """A bar that is left open draws itself once more, below what is said of the end."""
        if self.bar:
            self.bar.close()
