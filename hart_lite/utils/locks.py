"""One process at a time in a folder. The system lets go of the lock when the process ends, however it ends."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import BinaryIO

from hart_lite.errors import HartError
from hart_lite.utils.text import cut

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

log = logging.getLogger(__name__)
LOCK = ".lock"


class FolderLock:
    """FOLDER/.lock, which names who holds it, until it is closed.

    `doing` and `way_out` complete the sentence for whoever comes second. Raises `HartError` if another process holds
    it.
    """

    def __init__(self, folder: Path, doing: str, way_out: str) -> None:
        self.path = folder / LOCK
        self._file = None if fcntl is None else self._held(doing, way_out)

    def _held(self, doing: str, way_out: str) -> BinaryIO:
        while True:
            file = self.path.open("a+b")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = cut(file.read(200).decode(errors="replace")) or "another process"
                file.close()
                raise HartError(f"{self.path.parent}: {holder} is {doing} there; {way_out}") from None
            except OSError as error:  # some network file systems
                where, why = self.path.parent, error.strerror
                log.warning("%s cannot be locked (%s): see that only one process writes there", where, why)
            if self._is_ours(file):
                break
            file.close()  # its last holder has removed it in the meantime
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
        return file

    def _is_ours(self, file: BinaryIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Removed while it is held: nobody else's lock can be meant."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
