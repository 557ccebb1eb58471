"""What a run says when it cannot go on: the reason, what is intact, and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from torch.distributed import DistError

from hart_lite.errors import BrokenImageError, HartError, ServerError
from hart_lite.runs.splits import Splits
from hart_lite.training.signals import resume_command
from hart_lite.utils.text import shown

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def translate_errors(run: Path, splits: Splits) -> Iterator[None]:
    """An image found broken in mid-run, a server that is away, a disk that takes no more, or a process that is gone
    becomes a `HartError`."""
    intact = f"The checkpoints in {run} are intact"
    try:
        yield
    except BrokenImageError as error:
        examples = (*splits.rl, *splits.sft, *splits.eval)
        rows = [e.id for e in examples if any(image.key == error.key for image in e.images)]
        raise HartError(
            f"{error}\nIt is the image of {len(rows)} rows, id {shown(rows[0])} the first. {intact}: put a whole image "
            f"in its place, then {resume_command(run)}"
        ) from error
    except ServerError as error:
        raise ServerError(f"{error}\n{intact}. Once that is mended, go on with {resume_command(run)}") from error
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise HartError(
            f"{error.filename or run} could not be written: {error.strerror}\n{intact}. Once that is mended, go on "
            f"with {resume_command(run)}"
        ) from error
    except RuntimeError as error:
        if not lost_a_process(error):
            raise
        raise HartError(
            f"another process of this run has ended, and its own messages may say why: {error}\n{intact}; to go on, "
            f"launch all processes again with {resume_command(run)}"
        ) from error


def lost_a_process(error: RuntimeError) -> bool:
    """Whether one of several processes is gone, which the others notice when they next share something."""
    several = PartialState().num_processes > 1
    return several and (isinstance(error, DistError) or "gloo/transport" in str(error))  # gloo raises a plain one
