"""A save is whole or not there: what reaches the disk in what order, and a disk that is full at any write."""

import contextlib
import errno
import io
import os
import resource
import subprocess
from pathlib import Path

import pytest
from small_runs import make_up, metrics, rl_stage, sft_stage, small_recipe, without_timings

from hart_lite.config.recipe import dump_recipe
from hart_lite.errors import HartError
from hart_lite.runs import run_dir
from hart_lite.runs.checkpoints import SEAL, damage
from hart_lite.training import checkpointing, evaluation, rl_trainer
from hart_lite.training import stage as stage_module
from hart_lite.training import train as training
from hart_lite.training.callbacks import MetricsFile
from hart_lite.training.sample_tracking import SampleTracker
from hart_lite.training.train import train
from hart_lite.utils import files
from hart_lite.utils.files import move_whole, write_whole

NO_EVAL = {"toy": {"scenes": 4, "eval_scenes": 0, "size": 168}}


@pytest.fixture
def disk(monkeypatch):
    """What is asked of the disk, in order: ("sync", path) and ("move", from, to). It is asked for real."""
    events: list[tuple] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(number):
        events.append(("sync", os.readlink(f"/proc/self/fd/{number}")))
        fsync(number)

    def noted_replace(source, target):
        events.append(("move", str(source), str(target)))
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", noted_fsync)
    monkeypatch.setattr(files.os, "replace", noted_replace)
    return events


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_before_all_else(tmp_path, disk):
    path = tmp_path / "a.json"
    write_whole(path, "ü")
    assert disk == [("sync", f"{path}.part"), ("move", f"{path}.part", str(path)), ("sync", str(tmp_path))]
    assert path.read_bytes() == b"\xc3\xbc"
    write_whole(path, b"\xff")
    assert path.read_bytes() == b"\xff"


def test_a_folder_is_on_the_disk_with_all_that_is_in_it_before_it_has_its_name(tmp_path, disk):
    partial, place = tmp_path / "a.part", tmp_path / "a"
    (partial / "inner").mkdir(parents=True)
    (partial / "inner" / "new").touch()
    place.mkdir()
    (place / "old").touch()
    move_whole(partial, place)
    at = disk.index(("move", str(partial), str(place)))
    assert {path for _, path in disk[:at]} == {str(partial / name) for name in ("inner", "inner/new")} | {str(partial)}
    assert disk[at + 1 :] == [("sync", str(tmp_path))]
    assert [str(path.relative_to(place)) for path in sorted(place.rglob("*"))] == ["inner", "inner/new"]


def test_what_could_not_be_written_takes_no_room(tmp_path, monkeypatch):
    def fail(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_whole(tmp_path / "a.json", "old")
    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "a.json", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_run_puts_metrics_checkpoint_and_adapter_on_the_disk_in_that_order(tiny_base, tmp_path, disk, monkeypatch):
    make_up(monkeypatch.setattr)
    run = tmp_path / "run"
    train(small_recipe(tiny_base, run, [rl_stage(steps=1, save_every=1)], data=NO_EVAL))
    stage = run / "stages" / "1-rl"
    place = stage / "checkpoint-1"
    saved = disk.index(("move", str(place / f"{SEAL}.part"), str(place / SEAL)))
    synced = [event[1] for event in disk[:saved] if event[0] == "sync"]
    assert {str(path) for path in place.rglob("*") if path.name != SEAL} <= set(synced)
    assert {str(place / f"{SEAL}.part"), str(place), str(stage)} <= set(synced)
    assert synced.index(str(run / "metrics.jsonl")) < synced.index(str(place))
    done = disk.index(("move", str(stage / "adapter.part"), str(stage / "adapter")))
    synced = {event[1] for event in disk[saved:done] if event[0] == "sync"}
    assert {str(stage / "adapter.part" / path.name) for path in (stage / "adapter").iterdir()} <= synced
    moved = {event[2] for event in disk if event[0] == "move"}
    whole = {str(path) for path in run.rglob("*") if path.is_file()} - {str(run / "metrics.jsonl")}
    assert {name for name in whole if "/adapter/" not in name and "/checkpoint-1/" not in name} <= moved


def test_killed_between_its_first_two_files_a_run_begins(tiny_base, tmp_path, monkeypatch):
    run = tmp_path / "run"
    recipe = small_recipe(tiny_base, run, [rl_stage(steps=1)], data=NO_EVAL)
    with monkeypatch.context() as patch:
        patch.setattr(run_dir, "dump_recipe", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(recipe)
    assert [path.name for path in run.iterdir()] == ["versions.json"]
    make_up(monkeypatch.setattr)
    train(recipe)
    assert (run / "recipe.yaml").exists()


def test_a_recipe_is_dumped_whole(tiny_base, tmp_path, disk):
    dump_recipe(small_recipe(tiny_base, tmp_path / "run"), tmp_path / "recipe.yaml")
    assert [event[0] for event in disk] == ["sync", "move", "sync"]


# -- a full disk ---------------------------------------------------------------------------------------------------


class SmallDisk:
    """A disk of its own at `place`; where nobody may mount one, this process is forbidden to write files."""

    def __init__(self, place: Path) -> None:
        self.place, self.hard = place, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(place)]
        self.mounted = os.geteuid() == 0 and not subprocess.run(mount, capture_output=True).returncode

    def fill(self) -> None:
        if not self.mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, self.hard))
            return
        with (self.place / "ballast").open("wb", buffering=0) as file:
            block = bytes(1 << 16)
            while block:
                try:
                    file.write(block)
                except OSError:
                    block = block[: len(block) // 2]

    def free(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.hard, self.hard))
        (self.place / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        self.free()
        if self.mounted:
            subprocess.run(["umount", str(self.place)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    (tmp_path / "small").mkdir()
    disk = SmallDisk(tmp_path / "small")
    # What is printed may go to a file, which must not be the first to fail.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield disk
        disk.close()


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_write_costs_nothing_that_was_saved(tiny_base, tmp_path, small_disk, monkeypatch):
    make_up(monkeypatch.setattr)
    unbroken, run = tmp_path / "unbroken", small_disk.place / "run"
    stages = [rl_stage(steps=2, save_every=1, log_rollouts_every=1), sft_stage(steps=1)]
    train(small_recipe(tiny_base, unbroken, stages))
    recipe = small_recipe(tiny_base, run, stages)
    writes = (  # (what is about to be written, at which call, what is named)
        (run_dir, "dump_recipe", 1, str(run)),
        (evaluation, "evaluate", 1, str(run)),
        (SampleTracker, "record", 1, "tracked/0.jpg"),
        (MetricsFile, "on_log", 1, str(run)),
        (rl_trainer, "save_rollouts", 1, str(run)),
        (rl_trainer.RLTrainer, "save_model", 2, "checkpoint-2 could not be saved"),
        (checkpointing, "seal", 1, "checkpoint-2 could not be saved"),
        (run_dir, "_write_adapter", 1, "1-rl/adapter could not be saved"),
        (stage_module, "locate_once", 1, str(run)),
        (training, "summarise", 1, str(run)),
    )
    for owner, name, count, named in writes:
        with monkeypatch.context() as patch:
            full_at(patch, small_disk, owner, name, count)
            with pytest.raises(HartError) as stopped:
                train(recipe, resume=True)
        assert named in str(stopped.value), name
        assert "could not be saved" in str(stopped.value) or "written: " in str(stopped.value), name
        assert "--resume" in str(stopped.value), name
        small_disk.free()
        assert not [path for path in run.glob("stages/*/checkpoint-*") if damage(path)], name
        assert not [path for path in run.rglob("*.part") if path.is_file()], name
    train(recipe, resume=True)
    assert without_timings(metrics(run)) == without_timings(metrics(unbroken))
    for path in unbroken.rglob("*"):
        if path.is_file() and path.name not in ("recipe.yaml", "metrics.jsonl", "timing.jsonl"):  # place and times
            mine = run / path.relative_to(unbroken)
            assert mine.exists(), path.name
            saved = mine.read_bytes().replace(bytes(run), bytes(unbroken))  # some name their folder
            assert "checkpoint-" in str(mine) or saved == path.read_bytes(), path.name


def full_at(patch, disk: SmallDisk, owner: object, name: str, count: int) -> None:
    real, calls = getattr(owner, name), []

    def filled(*args, **kwargs):
        calls.append(name)
        if len(calls) == count:
            disk.fill()
        return real(*args, **kwargs)

    patch.setattr(owner, name, filled)
