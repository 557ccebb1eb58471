"""Files and folders that are whole or not there, also when the process is killed or the machine stops; folders that one
process holds at a time."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path

from hart_lite.errors import CheckpointError
from hart_lite.utils.text import cut, printable

log = logging.getLogger(__name__)
LOCK = ".lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # of some network file systems


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


class FolderLock:
    """FOLDER/.lock, which names who holds it, until it is closed.

    The lock is the system's (flock on Unix), which lets go of it when the process ends, however it ends. filelock's
    other kind, a file that is there or not, would stay after a kill; so a folder that cannot be locked is warned of.

    `doing` and `way_out` complete the sentence for whoever comes second. Raises `CheckpointError` where another process
    holds the folder, or nothing may be written there, and `OSError` where the disk is full, as every write does.
    """

    def __init__(self, folder: Path, doing: str, way_out: str) -> None:
        from filelock import FileLock, Timeout  # here: it takes 40 ms, and most who write a file hold no folder

        self.path = folder / LOCK
        # It waits for a moment, since a lock that its last holder removes has to be made anew.
        how = {"timeout": 0.2, "thread_local": False, "fallback_to_soft": False, "preserve_lock_file": True}
        self._lock = FileLock(self.path, **how, on_acquired=_sign)
        try:
            self._lock.acquire()
        except Timeout:
            raise CheckpointError(f"{folder}: {self._holder()} is {doing} there; {way_out}") from None
        except OSError as error:
            if error.errno in _FULL:
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            if error.errno not in _NO_LOCKS:
                raise CheckpointError(f"{folder} cannot be written ({error.strerror}); choose another place") from error
            self.path.unlink(missing_ok=True)
            log.warning("%s cannot be locked (%s): see that only one process writes there", folder, error.strerror)

    def _holder(self) -> str:
        with suppress(OSError), self.path.open("rb") as file:  # Windows lets nobody else read it
            return printable(cut(file.read(200).decode(errors="replace"))) or "another process"
        return "another process"

    def close(self) -> None:
        if self._lock.is_locked:
            with suppress(PermissionError):  # Windows removes no open file
                self.path.unlink(missing_ok=True)  # while it is held: nobody else's lock can be meant
            self._lock.release()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
