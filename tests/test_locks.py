"""One process at a time in a folder, whatever became of the one before."""

import os
import signal
import socket
import subprocess
import sys

import pytest
from small_runs import rl_stage, small_recipe

from hart_lite.errors import HartError
from hart_lite.training import train as training
from hart_lite.training.train import train
from hart_lite.utils import locks
from hart_lite.utils.locks import LOCK, FolderLock

HOLD = """
import sys, time
from pathlib import Path
from hart_lite.utils.locks import FolderLock
with FolderLock(Path(sys.argv[1]), "knitting", "come back later"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_second_is_told_who_is_first_and_a_dead_one_holds_nothing(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    said = rf"process {process.pid} on {socket.gethostname()} is knitting there; wait for it$"
    for _ in range(2):  # a refusal leaves the lock and its text as they are
        with pytest.raises(HartError, match=said):
            FolderLock(tmp_path, "knitting", "wait for it")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / LOCK).exists()
    with FolderLock(tmp_path, "knitting", "wait"):
        assert (tmp_path / LOCK).read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    assert not list(tmp_path.iterdir())


def test_a_lock_that_its_last_holder_removed_is_not_the_lock(tmp_path, monkeypatch):
    """Opened before the last holder went, locked after a third has made it anew: two would hold it."""
    real, calls = locks.fcntl.flock, []

    def late(file, how):
        calls.append(file)
        if len(calls) == 1:
            (tmp_path / LOCK).unlink()
            (tmp_path / LOCK).touch()
        return real(file, how)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    with FolderLock(tmp_path, "a", "b"), pytest.raises(HartError, match="is c there"):
        FolderLock(tmp_path, "c", "d")


def test_a_run_is_refused_where_another_trains(tiny_base, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(training, "load_policy", fail)
    run = tmp_path / "run"
    run.mkdir()
    recipe = small_recipe(tiny_base, run, [rl_stage()])
    with FolderLock(run, "training", "wait"):
        for resume in (False, True):
            with pytest.raises(HartError, match=rf"process {os.getpid()} on .* is training there; wait for it, stop"):
                train(recipe, resume)
        assert [path.name for path in run.iterdir()] == [LOCK]
    with pytest.raises(AssertionError, match="a model"):
        train(recipe)
    assert not list(run.iterdir())


def test_a_run_holds_its_folder_to_the_end(tiny_base, tmp_path, monkeypatch):
    run, seen = tmp_path / "run", []

    def look(folder):
        with pytest.raises(HartError, match="is training there"):
            FolderLock(folder, "training", "wait")
        seen.append(folder)

    monkeypatch.setattr(training, "_report", look)
    data = {"world": {"scenes": 4, "eval_scenes": 0, "size": 168}}
    train(small_recipe(tiny_base, run, [rl_stage(steps=1)], data=data))
    assert seen == [run]
    assert not (run / LOCK).exists()
