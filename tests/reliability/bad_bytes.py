"""Bad bytes: whatever is read ends read or refused with a typed error, within a second and within memory.

Images are damaged and bombs built (`fuzz_images`), everything else is damaged byte by byte (`fuzz_bytes`), bent value
by value with hypothesis (`fuzz_values`) and sought out by a coverage-guided fuzzer (`fuzz_guided`; it needs
`pip install -e '.[fuzz]'`). What is read, and how: `fuzz_targets`. Each part runs in a process of its own, whose memory
is measured and limited. What breaks a reader is saved in experiments/results/bad_bytes:

    python -m tests.reliability.bad_bytes TARGET FILE    reads it again, and shows what happens
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hart_lite.data.images import CACHE_BYTES, FREE_PIXELS
from tests.reliability import fuzz_images
from tests.reliability.fuzz_bytes import damaged_of
from tests.reliability.fuzz_guided import REPOSITORY, Guided, guided, installed
from tests.reliability.fuzz_watch import LIMIT_S, Target, Watch
from tests.reliability.promise import Promise

SEED = 0
IMAGES, DAMAGED, BENT, GUIDED = 3000, 180, 180, 6000  # the second and third for each target
QUICK = 20  # times fewer
FAULTS = REPOSITORY / "benchmarks" / "results" / "bad_bytes"
# What images.py keeps, and the largest image that is decoded whatever its file holds, in all its copies on the way.
PEAK_BYTES = CACHE_BYTES + 20 * FREE_PIXELS
_ROOM = 8 * 2**30  # of addresses: a reader that asks for more gets a MemoryError instead of the machine
_MOST_S = 1800


def promises(folder: Path, quick: bool) -> Iterator[Promise]:
    fewer = QUICK if quick else 1
    found = _child("images", folder, IMAGES // fewer)
    yield _typed(f"damaged images, at least {IMAGES:,}: read, or a typed error", found, IMAGES // fewer)
    yield _quick("the slowest image", found)
    yield Promise(
        f"memory for damaged images at most {PEAK_BYTES / 2**20:,.0f} MiB above the start",
        f"{found['memory'] / 2**20:,.0f} MiB",
        found["memory"] <= PEAK_BYTES,
    )
    bombs = _child("bombs", folder, 0)
    harmless = sorted(set(bombs["read"]) - fuzz_images.HARMLESS)
    yield Promise(
        "decompression bombs are refused",
        f"{bombs['inputs'] - len(bombs['read'])} of {bombs['inputs']} refused, the rest decodes as a small image; "
        f"slowest {bombs['slowest_s'] * 1000:.0f} ms, {bombs['memory'] / 2**20:.0f} MiB"
        + (f"; decoded: {', '.join(harmless)}" if harmless else ""),
        not harmless and not bombs["faults"] and bombs["memory"] <= PEAK_BYTES,
    )
    texts = _child("texts", folder, fewer)
    least = 10_000 // fewer
    yield _typed("damaged and bent rows, recipes, responses, .., at least 10,000: read, or a typed error", texts, least)
    yield _quick("the slowest of them", texts)
    if not installed():
        yield Promise("coverage-guided", "atheris is not installed: pip install -e '.[fuzz]'", False)
        return
    yield _guided(guided("parsers", SEED + 1, GUIDED // fewer, folder / "guided"))


def _typed(promise: str, found: dict, least: int) -> Promise:
    outcomes = ", ".join(f"{count:,} {name}" for name, count in Counter(found["outcomes"]).most_common())
    measured = f"{found['inputs']:,}: {outcomes}" + _shown(found["faults"])
    return Promise(promise, measured, found["inputs"] >= least and not found["faults"])


def _quick(what: str, found: dict) -> Promise:
    measured = f"{found['slowest_s'] * 1000:.0f} ms ({found['slowest_of']})"
    return Promise(f"{what} takes under {LIMIT_S:g} s", measured, found["slowest_s"] < LIMIT_S)


def _guided(found: Guided) -> Promise:
    outcomes = ", ".join(f"{count:,} {name}" for name, count in found.outcomes.most_common())
    measured = f"{found.inputs:,} inputs, {found.edges:,} edges, {found.kept} kept; {outcomes}; "
    measured += f"slowest {found.slowest_s * 1000:.0f} ms" + _shown(_kept(found.faults))
    return Promise("coverage-guided: read, or a typed error, under 1 s", measured, not found.faults)


def _shown(faults: list[str]) -> str:
    return f"; {len(faults)} FAULTS, the first: {faults[0]}" if faults else ""


def _kept(faults: list[str]) -> list[str]:
    """Faults of a folder that is about to go, with their inputs where they stay."""
    kept = []
    for fault in faults:
        path, _, reason = fault.partition(": ")
        (FAULTS / Path(path).parent.name).mkdir(parents=True, exist_ok=True)
        kept.append(f"{shutil.copy(path, FAULTS / Path(path).parent.name)}: {reason}")
    return kept


def _child(part: str, folder: Path, size: int) -> dict:
    account = folder / f"{part}.json"
    command = [sys.executable, "-m", "tests.reliability.bad_bytes", part, str(size), str(account)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, errors="replace", timeout=_MOST_S
    )
    if ended.returncode:
        raise RuntimeError(f"{part}: the process ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return json.loads(account.read_text())


# -- in a process of its own ---------------------------------------------------------------------------------------


def _images(watch: Watch, count: int) -> list[str]:
    target = Target("images", fuzz_images.read_image, ())
    for data in fuzz_images.seeds().values():
        fuzz_images.read_image(data)  # the good ones can be read
    for data in fuzz_images.mutants(SEED, count):
        watch.give(target, data)
    return []


def _bombs(watch: Watch, _: int) -> list[str]:
    """The names of those that were read."""
    read = []
    for name, data in fuzz_images.bombs().items():
        before = watch.outcomes["read"]
        watch.give(Target("images", fuzz_images.read_image, ()), data)
        read += [name] * (watch.outcomes["read"] - before)
    return read


def _texts(watch: Watch, fewer: int) -> list[str]:
    from tests.reliability.fuzz_targets import targets
    from tests.reliability.fuzz_values import give_bent

    with tempfile.TemporaryDirectory() as scratch:
        for number, target in enumerate(targets(Path(scratch)).values()):
            for data in (*target.seeds, *itertools.islice(damaged_of(SEED + number, target.seeds), DAMAGED // fewer)):
                watch.give(target, data)
            give_bent(watch, target, SEED + number, BENT // fewer)
    return []


PARTS = {"images": _images, "bombs": _bombs, "texts": _texts}


def _measured(part: str, size: int, account: Path) -> None:
    warnings.simplefilter("ignore")
    logging.disable()
    watch = Watch(FAULTS)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: a new process begins with its parent's
    before = _kib("VmRSS")
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    read = PARTS[part](watch, size)
    found = {name: getattr(watch, name) for name in ("inputs", "slowest_s", "slowest_of", "outcomes", "faults")}
    memory = (_kib("VmHWM") - before) * 1024
    account.write_text(json.dumps(found | {"read": read, "memory": memory}))


def _kib(name: str) -> int:
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])


def _again(name: str, file: Path) -> None:
    """Without a watch: the traceback shows."""
    from tests.reliability.fuzz_targets import targets

    with tempfile.TemporaryDirectory() as scratch:
        found = targets(Path(scratch)) | {"images": Target("images", fuzz_images.read_image, ())}
        found[name].read(file.read_bytes())
    print("read")


if __name__ == "__main__":
    if sys.argv[1] in PARTS and len(sys.argv) == 4:
        _measured(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    else:
        _again(sys.argv[1], Path(sys.argv[2]))
