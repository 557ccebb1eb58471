"""One process at a time in a folder, whatever became of the one before."""

import errno
import fcntl
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
from hart_lite.utils.files import LOCK, FolderLock

HOLD = """
import sys, time
from pathlib import Path
from hart_lite.utils.files import FolderLock
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
    real, calls = fcntl.flock, []

    def late(file, how):
        calls.append(file)
        if len(calls) == 1:
            (tmp_path / LOCK).unlink()
            (tmp_path / LOCK).touch()
        return real(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with FolderLock(tmp_path, "a", "b"), pytest.raises(HartError, match="is c there"):
        FolderLock(tmp_path, "c", "d")


def test_a_process_that_outlives_its_parent_does_not_hold_the_parents_lock(tmp_path):
    """A worker that loads data may live on for a while when training was killed."""
    forked = HOLD.replace('print("held"', "import os; child = os.fork(); child or time.sleep(600); print(child")
    process = subprocess.Popen([sys.executable, "-c", forked, tmp_path], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    try:
        FolderLock(tmp_path, "knitting", "wait").close()
    finally:
        os.kill(child, signal.SIGKILL)


def test_closing_twice_leaves_the_lock_of_the_next_holder_alone(tmp_path):
    first = FolderLock(tmp_path, "a", "b")
    first.close()
    with FolderLock(tmp_path, "c", "d"):
        first.close()
        with pytest.raises(HartError, match="is e there"):
            FolderLock(tmp_path, "e", "f")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of_and_used(tmp_path, monkeypatch, caplog, code):
    """No file takes the place of the lock: it would be there for good after a kill."""

    def no_locks(file, how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with FolderLock(tmp_path, "a", "b"):
        assert not list(tmp_path.iterdir())
    assert f"cannot be locked ({os.strerror(code)}): see that only one process writes there" in caplog.text


def test_where_nothing_can_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(HartError, match=r"file cannot be written \(.+\); choose another place"):
        FolderLock(tmp_path / "file", "a", "b")

    def read_only(path, *how, **more):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(HartError, match=r"cannot be written \(Read-only file system\)"):
        FolderLock(tmp_path, "a", "b")


def test_a_full_disk_is_said_with_the_file(tiny_base, tmp_path, monkeypatch):
    """As by every other write; a run that cannot begin is refused."""

    def full(path, *how, **more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    recipe = small_recipe(tiny_base, tmp_path / "run", [rl_stage()])
    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        FolderLock(tmp_path, "a", "b")
    assert caught.value.filename == str(tmp_path / LOCK)
    with pytest.raises(HartError, match=r"\.lock could not be written: No space .*\. Free some space"):
        train(recipe)


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

    def look(folder, evaluations):
        with pytest.raises(HartError, match="is training there"):
            FolderLock(folder, "training", "wait")
        seen.append(folder)

    monkeypatch.setattr(training, "summarise", look)
    data = {"toy": {"scenes": 4, "eval_scenes": 0, "size": 168}}
    train(small_recipe(tiny_base, run, [rl_stage(steps=1)], data=data))
    assert seen == [run]
    assert not (run / LOCK).exists()
