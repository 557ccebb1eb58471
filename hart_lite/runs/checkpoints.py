"""Checkpoints that are whole or not there.

A folder `checkpoint-N` is a checkpoint once it is sealed: `complete.json`, written last, lists the hash of each of its
files, which are on the disk by then. What a kill leaves half-written has no seal, what a disk damages no longer matches
it; resuming passes both by.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path

from safetensors import SafetensorError

from hart_lite.utils.files import sync, write_whole

SEAL = "complete.json"
KEPT = 2  # the newest and the one before it
DISK_ERRORS = (OSError, RuntimeError, SafetensorError)  # a full disk comes as any of the three
log = logging.getLogger(__name__)


def seal(folder: Path) -> None:
    """Mark a checkpoint folder as complete, once all that is in it has reached the disk."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SEAL)
    hashes = {}
    for path in files:
        with path.open("rb") as file:
            hashes[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    for path in (*folder.rglob("*"), folder, folder.parent):
        sync(path)
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


def checkpoint_of(folder: Path, step: int) -> Path:
    """Where a stage in `folder` keeps the checkpoint of a step. The Trainer gives it this name."""
    return folder / f"checkpoint-{step}"


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in a stage's folder; newer ones that are not are named in the log and removed."""
    for checkpoint in reversed(_numbered(folder)):
        reason = damage(checkpoint)
        if reason is None:
            return checkpoint
        log.warning("checkpoint %s is passed by: %s", checkpoint, reason)
        shutil.rmtree(checkpoint)
    return None


def drop_old_checkpoints(folder: Path) -> None:
    """All but the newest `KEPT`."""
    for old in _numbered(folder)[:-KEPT]:
        shutil.rmtree(old)


def _numbered(folder: Path) -> list[Path]:
    """The checkpoints of a stage, oldest first; a copy that somebody made beside them is not one of them."""
    found = [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(found, key=step_of)
