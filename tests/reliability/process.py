"""What the system says of a process."""

from __future__ import annotations

from pathlib import Path


def status_bytes(name: str, pid: int | str = "self") -> int:
    """A size of /proc/PID/status in bytes: VmSize and VmPeak of its addresses, VmRSS and VmHWM of its memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))
