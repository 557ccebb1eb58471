"""Small files that ask for much, read in a process with limited memory: `python -m tests.reliability.bombs KIND`."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hart_lite.config.recipe import load_recipe
from hart_lite.data.images import CACHE_BYTES, FREE_PIXELS, ImageBytes
from hart_lite.errors import HartError
from tests.bombs import HARMLESS, image_bombs, yaml_bombs
from tests.reliability.check import Check
from tests.reliability.process import status_bytes

MIB = 2**20
LIMIT_S = 1.0  # of the processor, for one file
# What is kept decoded, and the largest image that is decoded whatever its file holds, with its copies on the way.
PEAK_BYTES = CACHE_BYTES + 20 * FREE_PIXELS
ADDRESSES = 8 * 2**30  # bytes: a reader that asks for more gets a MemoryError, and the machine stays usable
SAID = {"images": "images", "YAML": "recipes in YAML"}
REASON = {"images": "image: ", "YAML": "cannot be read as YAML"}  # a recipe may be refused for its keys, too


def checks(folder: Path) -> Iterator[Check]:
    for kind in SAID:
        command = [sys.executable, "-m", "tests.reliability.bombs", kind]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2])
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
        found = json.loads(done.stdout)
        read = sorted(set(found["read"]) - HARMLESS)
        measured = f"{found['tried'] - len(found['read'])} of {found['tried']} refused"
        measured += ", the rest decodes as a small image" * (not read and bool(found["read"]))
        measured += f"; slowest {found['slowest'] * 1000:.0f} ms, {found['memory'] / MIB:.0f} MiB"
        yield Check(
            f"decompression bombs: {SAID[kind]} that hold too much are refused, in under {LIMIT_S:g} s of the "
            f"processor and {PEAK_BYTES / MIB:,.0f} MiB",
            "; ".join([measured, *(f"read: {name}" for name in read)]),
            found["tried"] > 0 and not read and found["slowest"] < LIMIT_S and found["memory"] <= PEAK_BYTES,
        )


def _read_all(kind: str) -> dict:
    """An error of another kind than `HartError` ends the process."""
    bombs = image_bombs() if kind == "images" else yaml_bombs()
    read, slowest = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM, the peak of what is resident, begins anew
        before = status_bytes("VmRSS")
        resource.setrlimit(resource.RLIMIT_AS, (status_bytes("VmSize") + ADDRESSES, resource.RLIM_INFINITY))
        for name, bomb in bombs.items():
            began = time.process_time()
            try:
                if kind == "images":
                    ImageBytes(bomb, "image").checked_size()
                    ImageBytes(bomb, "image").load()
                else:
                    (Path(folder) / "bomb.yaml").write_text(bomb)
                    load_recipe(Path(folder) / "bomb.yaml")
                read.append(name)
            except HartError as error:
                if REASON[kind] not in str(error):
                    read.append(name)
            slowest = max(slowest, time.process_time() - began)
    return {"tried": len(bombs), "read": read, "slowest": slowest, "memory": status_bytes("VmHWM") - before}


if __name__ == "__main__":
    print(json.dumps(_read_all(sys.argv[1])))
