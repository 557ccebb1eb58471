"""The run directory: opening it, and what is written there once and whole (`hart_lite.training.train` shows it).

Where several processes share a run, the first one writes and the others wait.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from hart_lite.config.recipe import dump_recipe, load_recipe
from hart_lite.config.schema import Recipe
from hart_lite.errors import HartError
from hart_lite.models.adapter_files import ADAPTER_WEIGHTS
from hart_lite.models.families.base import Family
from hart_lite.models.fingerprint import KEY, check_fingerprint, fingerprint
from hart_lite.models.loading import ADAPTER_BASE, FRAME
from hart_lite.models.policy import Policy
from hart_lite.runs.checkpoints import DISK_ERRORS
from hart_lite.runs.versions import hardware, versions
from hart_lite.utils.files import LOCK, FolderLock, move_whole, write_whole
from hart_lite.utils.phase import begin_phase

log = logging.getLogger(__name__)

BEGUN = {LOCK, "versions.json", "versions.json.part", "recipe.yaml.part"}  # all that a kill leaves before recipe.yaml


@contextmanager
def held_run(run: Path, recipe: Recipe, resume: bool) -> Iterator[None]:
    """The place checked, and held by this run alone. A refusal is every process's; a place that was made for the run
    and stays empty is taken away again."""
    lock, made = None, False
    try:
        refusal = None
        try:
            if PartialState().is_main_process:
                check_place(run)
                made = not run.exists()
                run.mkdir(parents=True, exist_ok=True)
                lock = FolderLock(run, "training", "wait for it, stop it, or choose another place with output=...")
                check_run(run, recipe, resume)
        except HartError as error:
            refusal = str(error)
        except OSError as error:
            refusal = (
                f"{error.filename or run} could not be written: {error.strerror}. Free some space, or choose another "
                "place with output=..."
            )
        [refusal] = broadcast_object_list([refusal])
        if refusal:
            raise HartError(refusal)
        yield
    finally:
        if lock:
            lock.close()
        if made:
            with suppress(OSError):  # it holds something now
                run.rmdir()


def check_place(run: Path) -> None:
    """Where the run shall be is a folder to write in, or may become one."""
    ground = next(place for place in (run.absolute(), *run.absolute().parents) if place.exists())
    if not ground.is_dir() or not os.access(ground, os.W_OK):
        raise HartError(f"{run} cannot be written: {ground} is no folder to write in; choose another with output=...")


def check_run(run: Path, recipe: Recipe, resume: bool) -> None:
    """The place is free, or holds a run that --resume may go on with: made by the same recipe."""
    saved = run / "recipe.yaml"
    if saved.exists():
        if not resume:
            raise HartError(
                f"{run} already holds a run; add --resume to continue it, or choose another place with output=..."
            )
        changed = sorted(_differing(load_recipe(saved).model_dump(), recipe.model_dump()))
        if changed:
            raise HartError(
                f"{saved} was made by another recipe; differing: {', '.join(changed)}. Resume with the same values: "
                f"hart-lite train {saved} --resume"
            )
    elif any(path.name not in BEGUN for path in run.iterdir()):
        raise HartError(f"{run} is not empty and holds no run; choose another place with output=...")
    elif resume:
        log.warning("%s holds no run to go on with, so a new one begins", run)


def _differing(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """Keys of values that differ, in full: stages.0.steps."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in now.keys() | before.keys():
            yield from _differing(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for n, pair in enumerate(zip(before, now, strict=True)):
            yield from _differing(*pair, f"{key}.{n}")
    elif before != now:
        yield key


def open_run(run: Path, recipe: Recipe, family: Family, device: str) -> None:
    """What the run is made of. Written once the model is there: a base that cannot be read leaves nothing behind.

    A run that is there must have begun on the same base: its checkpoints would be noise on another.
    """
    made_with = run / "versions.json"
    if (run / "recipe.yaml").exists():
        way_out = "put the old files back, or start a new run with output=..."
        check_fingerprint(made_with, family, f"{run} was begun on", way_out)
        if (now := _begun_from(recipe)) and json.loads(made_with.read_text(encoding="utf-8"))["adapter"] != now:
            raise HartError(
                f"{run} was begun from another adapter: {recipe.model.adapter} has been replaced; {way_out}"
            )
        return
    begun = {KEY: fingerprint(family), "adapter": _begun_from(recipe)}
    made = versions() | hardware(device) | {name: value for name, value in begun.items() if value}
    write_whole(made_with, json.dumps(made, indent=2) + "\n")
    dump_recipe(recipe, run / "recipe.yaml")  # last: with it the run has begun


def _begun_from(recipe: Recipe) -> str:
    """Tells the adapter that training starts from; "" for a fresh one, and once it is gone, which a stage that is done
    does not mind."""
    weights = Path(recipe.model.adapter or "") / ADAPTER_WEIGHTS
    if not recipe.model.adapter or not weights.is_file():
        return ""
    with weights.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def save_adapter(policy: Policy, folder: Path) -> None:
    """Adapter in PEFT format with the processor files; the folder appears whole or not at all."""
    begin_phase("adapter")
    with PartialState().main_process_first():
        if PartialState().is_main_process:
            _write_adapter(policy, folder)


def _write_adapter(policy: Policy, folder: Path) -> None:
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        policy.peft.save_pretrained(partial)
        # An empty form that names a path of this machine and the stages that this very process has trained.
        (partial / "README.md").unlink(missing_ok=True)
        policy.family.save_processor(partial)
        made_for = {KEY: fingerprint(policy.family), FRAME: policy.family.box_format}
        write_whole(partial / ADAPTER_BASE, json.dumps(made_for) + "\n")
        move_whole(partial, folder)
    except DISK_ERRORS as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise HartError(
            f"adapter {folder} could not be saved: {error}\nThe stage's checkpoints are whole. Free some space, then "
            "go on with --resume"
        ) from error
