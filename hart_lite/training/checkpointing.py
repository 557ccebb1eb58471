"""Checkpoints of `transformers.Trainer`: sealed when they are saved; errors of saving and resuming explained."""

from __future__ import annotations

import pickle
from pathlib import Path

from accelerate import PartialState
from transformers import Trainer, TrainerCallback

from hart_lite.errors import CheckpointError
from hart_lite.runs.checkpoints import (
    DISK_ERRORS,
    checkpoint_of,
    damage,
    drop_old_checkpoints,
    newest_checkpoint,
    seal,
)
from hart_lite.training.failures import lost_a_process
from hart_lite.utils.phase import begin_phase


class SealCheckpoints(TrainerCallback):
    """Seals what the Trainer has just saved, and lets go of the oldest."""

    def on_save(self, args, state, control, **kwargs) -> None:
        PartialState().wait_for_everyone()  # each process has added the state of its generators
        if not state.is_world_process_zero:
            return
        begin_phase("checkpoint")
        folder = Path(args.output_dir)
        checkpoint = checkpoint_of(folder, state.global_step)
        # A pickle of the arguments that nothing here reads: the resolved recipe says the same.
        (checkpoint / "training_args.bin").unlink(missing_ok=True)
        seal(checkpoint)
        drop_old_checkpoints(folder)


def train_from(trainer: Trainer, checkpoint: Path | None) -> None:
    """`trainer.train()`, from a checkpoint where there is one; from that of the last step it takes no step.

    Raises `CheckpointError` where the checkpoint holds code, and where one cannot be saved.
    """
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except pickle.UnpicklingError:  # its message advises to load the file all the same
        raise CheckpointError(
            f"checkpoint {checkpoint} holds more than numbers: its optimizer.pt, scheduler.pt or rng_state.pth "
            "asks to run code, and none was run. It was not written by this training; remove it, and --resume "
            "goes on from the one before"
        ) from None
    except DISK_ERRORS as error:
        folder = Path(trainer.args.output_dir)
        under_way = checkpoint_of(folder, trainer.state.global_step)
        if lost_a_process(error) or not under_way.is_dir() or damage(under_way) is None:  # no save has failed
            raise
        last = newest_checkpoint(folder)  # which also gives back the room that the unfinished one takes
        raise CheckpointError(
            f"checkpoint {under_way} could not be saved: {error}\nThe last whole checkpoint is {last or 'none yet'}. "
            "Free some space, then go on with --resume"
        ) from error
