"""A polite stop: saved, said how to go on, and nothing lost by it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from accelerate import PartialState
from own_process import own_process
from small_runs import make_up, metrics, rl_stage, sft_stage, small_recipe, without_timings

from hart_lite.cli import main
from hart_lite.config.recipe import load_recipe
from hart_lite.errors import HartError
from hart_lite.runs.checkpoints import damage
from hart_lite.runs.run_dir import held_run
from hart_lite.runs.splits import Splits
from hart_lite.training import evaluation, rl_trainer, sft_trainer
from hart_lite.training import stage as stage_module
from hart_lite.training import train as training
from hart_lite.training.callbacks import highest_of_all
from hart_lite.training.failures import translate_errors
from hart_lite.training.signals import TIME_UP, Stop, Stopped
from hart_lite.training.train import train
from hart_lite.utils.jsonl import append_jsonl, read_jsonl

INT, TERM = signal.SIGINT, signal.SIGTERM


@pytest.fixture(autouse=True)
def _signals_as_in_a_terminal():
    """Whoever runs the tests in the background may have SIGINT ignored."""
    before = signal.signal(INT, signal.default_int_handler)
    yield
    signal.signal(INT, before)


def recipe_in(base: Path, run: Path):
    stages = [rl_stage(steps=4, save_every=0), sft_stage(steps=3, save_every=0)]
    model = {"base": str(base), "dtype": "float32", "device": "cpu", "lora": {"r": 4, "dropout": 0.1}}
    return small_recipe(base, run, stages, model=model, evaluate={"every": 2})


def files_of(run: Path) -> dict[str, bytes]:
    """All but the checkpoints, as if the run were in a folder called RUN."""
    kept = [path for path in run.rglob("*") if path.is_file() and "checkpoint-" not in str(path)]
    return {str(path.relative_to(run)): path.read_bytes().replace(bytes(run), b"RUN") for path in kept}


@pytest.mark.slow
def test_stopped_at_any_moment_a_run_ends_like_an_unbroken_one(tiny_base, tmp_path, monkeypatch):
    """Without any checkpoint but those of the stops."""
    make_up(monkeypatch.setattr)
    unbroken, run = tmp_path / "unbroken", tmp_path / "run"
    train(recipe_in(tiny_base, unbroken))
    recipe = recipe_in(tiny_base, run)
    moments = (  # (the signal, at which call of what, the steps that are done by then)
        (TERM, evaluation, "evaluate", 1, 0),  # before training
        (INT, rl_trainer.RLTrainer, "rollout", 2, 2),  # an evaluation is due after this step
        (TERM, evaluation, "evaluate", 1, 2),  # the one that was due
        (TERM, rl_trainer.RLTrainer, "accumulate", 1, 3),
        (INT, rl_trainer.RLTrainer, "rollout", 1, 4),  # the stage's last step: its adapter is saved
        (TERM, stage_module, "locate_once", 1, 4),
        (TERM, sft_trainer, "token_nll", 3, 6),  # the first half of the second step
        (INT, evaluation, "evaluate", 1, 6),  # the one that was due after it
    )
    for number, owner, name, count, steps in moments:
        with monkeypatch.context() as patch:
            signal_at(patch, number, owner, name, count)
            with pytest.raises(Stopped) as stopped:
                train(recipe, resume=True)
        where = f"{number!r} at {name} {count}"
        assert stopped.value.code == 128 + number, where
        assert f"to go on: hart-lite train {run / 'recipe.yaml'} --resume" in str(stopped.value), where
        rows = metrics(run) if steps else []
        assert len(rows) == steps, where
        if steps not in (0, 4):
            last = run / "stages" / rows[-1]["stage"] / f"checkpoint-{rows[-1]['step']}"
            assert damage(last) is None, where
        assert not (run / ".lock").exists()
        assert not list(run.rglob("*.part"))
    train(recipe, resume=True)
    assert without_timings(metrics(run)) == without_timings(metrics(unbroken))
    mine, theirs = files_of(run), files_of(unbroken)
    assert mine.keys() == theirs.keys()
    assert {name for name in mine if mine[name] != theirs[name]} <= {"metrics.jsonl", "timing.jsonl"}  # with times
    assert evaluations(run) == evaluations(unbroken)
    assert signal.getsignal(TERM) == signal.SIG_DFL


def evaluations(run: Path) -> list[str]:
    """Those that were timed: each is finished once."""
    return [json.loads(line)["evaluation"] for line in (run / "timing.jsonl").read_text().splitlines()]


def signal_at(patch, number: int, owner: object, name: str, count: int) -> None:
    real, calls = getattr(owner, name), []

    def signalled(*args, **kwargs):
        calls.append(name)
        if len(calls) == count:
            os.kill(os.getpid(), number)
        return real(*args, **kwargs)

    patch.setattr(owner, name, signalled)


def test_a_stop_in_an_evaluation_along_the_way_saves_the_step_it_is_after(tiny_base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    run = tmp_path / "run"
    recipe = recipe_in(tiny_base, run)
    with monkeypatch.context() as patch:
        signal_at(patch, TERM, evaluation, "evaluate", 2)
        with pytest.raises(Stopped):
            train(recipe)
    assert [row["step"] for row in metrics(run)] == [1, 2]
    assert damage(run / "stages" / "1-rl" / "checkpoint-2") is None
    assert not (run / "evaluation" / "during-1-rl-00002" / "summary.json").exists()
    signal_at(monkeypatch, TERM, rl_trainer.RLTrainer, "rollout", 1)
    with pytest.raises(Stopped):
        train(recipe, resume=True)
    assert (run / "evaluation" / "during-1-rl-00002" / "summary.json").exists()  # before the next step
    assert [row["step"] for row in metrics(run)] == [1, 2, 3]


# -- the limit on time ---------------------------------------------------------------------------------------------


def test_time_is_up_after_so_many_minutes(tmp_path):
    with Stop(tmp_path, max_minutes=2):
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 120
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    with pytest.raises(Stopped) as stopped, Stop(tmp_path, max_minutes=0.2 / 60) as stop, stop.noting():
        while not stop.asked():
            time.sleep(0.001)
    assert stopped.value.code == 124
    assert "its time is up" in str(stopped.value)
    with pytest.raises(Stopped), Stop(tmp_path, max_minutes=1e-9):
        time.sleep(30)  # outside of a step: at once


def test_a_finished_run_is_not_stopped_afterwards(tmp_path):
    with Stop(tmp_path, max_minutes=0.2 / 60):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(TIME_UP) == signal.SIG_DFL


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "1e9"])
def test_impossible_minutes_are_refused(minutes, capsys):
    assert main.main(["train", "tiny_cpu", "--max-minutes", minutes]) == 1
    assert "should be more than 0" in capsys.readouterr().err


def test_a_thread_can_train_but_has_no_alarm(tmp_path):
    said = []

    def work():
        with Stop(tmp_path) as stop:
            said.append(stop.asked())
        try:
            with Stop(tmp_path, 1):
                said.append("entered")
        except HartError as error:
            said.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert said[0] is False
    assert "a limit on minutes needs alarms" in said[1]


# -- signals -------------------------------------------------------------------------------------------------------

NOTING = """
import sys, time
from pathlib import Path
from hart_lite.training.signals import Stop
with Stop(Path("run")) as stop, stop.noting():
    print("in a step", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("second", [INT, TERM])
def test_a_second_signal_kills(second):
    process = subprocess.Popen(
        [sys.executable, "-c", NOTING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "in a step\n"
    process.send_signal(TERM)
    process.stderr.readline()
    assert process.stderr.readline() == "asked to end (SIGTERM): finishing the step and saving; a second signal kills\n"
    assert process.poll() is None
    process.send_signal(second)
    assert process.wait(timeout=5) == -second
    process.communicate()


def test_what_a_launcher_repeats_is_no_second_signal(tmp_path):
    with pytest.raises(Stopped), Stop(tmp_path, highest=lambda number: number) as stop, stop.noting():
        for _ in range(3):
            os.kill(os.getpid(), TERM)  # would be the end of this test
        assert stop.asked()


def test_one_of_several_processes_that_is_asked_stops_all(tmp_path):
    with Stop(tmp_path, highest=lambda number: max(number, TERM)) as stop, pytest.raises(Stopped) as stopped:
        stop.check()
    assert stopped.value.code == 143


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    signal.signal(INT, signal.SIG_IGN)  # as in the background of a script
    with Stop(tmp_path) as stop:
        os.kill(os.getpid(), INT)
        assert not stop.asked()


def test_the_exit_code_says_that_it_can_go_on(monkeypatch, capsys):
    def stop(recipe, resume, minutes, predicted):
        raise Stopped(TERM, f"stopped; {minutes:g}")

    monkeypatch.setattr(training, "train", stop)
    assert main.main(["train", "tiny_cpu", "--max-minutes", "90"]) == 143
    assert capsys.readouterr().err == "hart-lite: stopped; 90\n"


# -- several processes ---------------------------------------------------------------------------------------------


def one_of_two(place: Path, rank: int, port: int) -> None:
    """What each of two processes does; it writes what it found to PLACE-rank.jsonl."""
    names = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in names.items()})
    processes, said = PartialState(cpu=True), {}
    with pytest.raises(HartError) as refused, held_run(place, load_recipe("tiny_cpu"), False):
        pass
    said["refused"] = str(refused.value)
    stop, step = Stop(place, highest=highest_of_all), 0
    with pytest.raises(Stopped) as stopped, stop, stop.noting():
        for step in range(100):
            if step == 7 and rank == 1:
                os.kill(os.getpid(), TERM)
            if stop.asked():
                break
    append_jsonl(place.with_name(f"place-{rank}.jsonl"), said | {"step": step, "code": stopped.value.code})
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(HartError) as alone, translate_errors(place, Splits([], [], [])):
        processes.wait_for_everyone()
    append_jsonl(place.with_name("place-0.jsonl"), {"alone": str(alone.value)})


@pytest.mark.slow
def test_processes_are_refused_together_stop_together_and_notice_when_one_is_gone(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    (place / "thesis.tex").touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    first, second = (own_process(one_of_two, place, rank, port) for rank in (0, 1))
    second.join()
    assert second.exitcode == -signal.SIGKILL
    first.join()
    assert first.exitcode == 0
    (kept, last), (gone,) = ([row for _, row in read_jsonl(tmp_path / f"place-{rank}.jsonl")] for rank in (0, 1))
    for said in (kept, gone):
        assert "is not empty and holds no run" in said["refused"]
        assert (said["step"], said["code"]) == (7, 143)
    assert last["alone"].startswith("another process of this run has ended, and its own messages may say why: ")
    assert last["alone"].endswith("--resume")
