"""Files and folders that are whole or not there, also when the process is killed or the machine stops."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file, entirely or not at all."""
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)  # it would take the space that a full disk has left
        raise
    sync(path.parent)


def move_whole(partial: Path, place: Path) -> None:
    """Give a folder its name once all that is in it has reached the disk; what had the name before goes."""
    for path in (*partial.rglob("*"), partial):
        sync(path)
    if place.exists():
        shutil.rmtree(place)
    os.replace(partial, place)
    sync(place.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the list of a folder's entries, is on the disk."""
    if os.name == "nt":  # it opens no folders, and keeps its list of entries in a journal
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
