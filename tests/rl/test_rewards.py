"""The reward is a function: what it is given, where it comes from, and what happens where it fails."""

import json
import math
import sys
import threading
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from pictures import Photo
from small_runs import make_up, metrics, rl_stage, small_recipe

from hart_lite.cli import main
from hart_lite.config.recipe import dump_recipe
from hart_lite.errors import ConfigError, RewardError
from hart_lite.rl.rewards import grade_reward, load_reward, with_rewards
from hart_lite.runs.record import public_recipe
from hart_lite.training.train import train
from hart_lite.types import Example, Tokens, Trajectory, Turn

TEN_LINES = '''"""Rewards of my own."""
from dataclasses import dataclass

@dataclass
class Weights:
    right: float = 0.75

def short_and_right(example, trajectory):
    right = example.answer in trajectory.answer
    return Weights.right * right + 0.25 * (len(trajectory.answer) < 4)
'''
EXAMPLE = Example("q1", (Photo(100, 100),), "Which animal is it?", "B", ("lion", "tiger"))


def answered(text: str, kind: str = "verify") -> Trajectory:
    return Trajectory((Turn(kind, Tokens(), (), text),), answer=text)


def earned(reward, *texts: str, timeout: float = 60.0, workers: int = 1) -> list[float]:
    done = with_rewards(reward, timeout, workers, [EXAMPLE] * len(texts), [answered(text) for text in texts])
    assert [t.answer for t in done] == list(texts)
    return [t.reward for t in done]


def refusal(reward, **how) -> str:
    with pytest.raises(RewardError) as caught:
        earned(reward, "(B)", **how)
    return str(caught.value)


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """A file of ten lines in the folder one works in."""
    monkeypatch.chdir(tmp_path)
    Path("my_rewards.py").write_text(TEN_LINES)
    assert len(TEN_LINES.splitlines()) == 10
    return tmp_path / "my_rewards.py"


# -- where it comes from -------------------------------------------------------------------------------------------


def test_without_a_name_it_is_the_grader():
    assert load_reward(None) is grade_reward
    assert earned(grade_reward, "(B)", "The answer is A.", "tiger") == [1.0, 0.0, 1.0]
    assert grade_reward(EXAMPLE, answered("(B)", kind="locate")) == 0.0  # never asked for the answer


def test_a_file_of_ten_lines(mine):
    assert earned(load_reward("my_rewards.py:short_and_right"), "B", "It is B", "A", "none") == [1.0, 0.75, 0.25, 0.0]
    assert earned(load_reward(f"{mine}:short_and_right"), "B") == [1.0]


def test_a_module_that_python_finds(mine, monkeypatch):
    monkeypatch.syspath_prepend(mine.parent)
    assert earned(load_reward("my_rewards:short_and_right"), "B") == [1.0]


@pytest.mark.parametrize("postponed", ["", "from __future__ import annotations\n"])
def test_a_file_may_hold_whatever_a_module_may_and_hides_no_other(mine, postponed):
    """Also under the name of a library."""
    for name in ("json.py", "odd.py"):
        Path(name).write_text(
            f"{postponed}from dataclasses import dataclass\n@dataclass\nclass A:\n    x: float = 0.5\n"
            "def half(example, trajectory):\n    return A().x\n"
        )
        assert earned(load_reward(f"{name}:half"), "B") == [0.5]
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        ("", "nowhere.py:f", "there is no file nowhere.py; the path starts at "),
        ("", "no.such.module:f", "no.such.module cannot be imported: ModuleNotFoundError: No module named 'no'"),
        ("def a(e, t): pass\ndef b(e, t): pass\nx = 1\n", "f.py:c", "f.py has no function 'c'; it has a, b"),
        ("x = 1\n", "f.py:x", "f.py has no function 'x'; it has none"),
        (
            "def f(example): pass\n",
            "f.py:f",
            "f is called with two arguments, the example and the trajectory (too many",
        ),
        ("def f(e, t, k): pass\n", "f.py:f", "f is called with two arguments, the example and the trajectory (missing"),
        ("x = 1\nx / 0\n", "f.py:f", "f.py cannot be imported: ZeroDivisionError: division by zero (f.py, line 2)"),
        ("def f(:\n", "f.py:f", "f.py cannot be imported: SyntaxError"),
        ("import sys\nsys.exit(3)\n", "f.py:f", "f.py cannot be imported: SystemExit: 3 (f.py, line 2)"),
    ],
)
def test_what_is_no_reward_is_refused_before_anything_is_loaded(mine, monkeypatch, tiny_base, text, spec, message):
    monkeypatch.setattr("hart_lite.training.train.load_policy", lambda *args: pytest.fail("a model was loaded"))
    Path("f.py").write_text(text)
    with pytest.raises(ConfigError) as caught:
        train(small_recipe(tiny_base, Path("run"), [rl_stage()], reward=spec))
    assert f"reward = {spec!r}: " in str(caught.value) and message in str(caught.value)
    assert not Path("run").exists()


def test_its_place_on_this_machine_is_told_to_nobody(mine, tiny_base):
    recipe = small_recipe(tiny_base, Path("run"), [rl_stage()], reward=f"{mine}:short_and_right")
    assert public_recipe(recipe).reward == "my_rewards.py:short_and_right"


# -- what it may do ------------------------------------------------------------------------------------------------


def raises(example, trajectory):
    return {}["nothing"]


def leaves(example, trajectory):
    raise SystemExit(1)


def prints(example, trajectory):
    print("looking at", trajectory.answer)
    return 1


def sleeps(example, trajectory):
    threading.Event().wait(60)


def test_one_that_raises_is_named_with_its_line():
    line = raises.__code__.co_firstlineno + 1
    message = refusal(raises)
    assert message.startswith(
        f"the reward raises raised KeyError: 'nothing' (test_rewards.py, line {line}) for question 'q1', answered '(B)'"
    )
    assert message.endswith("What was saved is whole: mend the function and go on with --resume")


def test_one_that_leaves_the_program_has_raised():
    assert "leaves raised SystemExit: 1" in refusal(leaves, timeout=5)


@pytest.mark.parametrize("value", [2, -0.1, math.nan, math.inf, "1", None, [1.0], 1j])
def test_what_is_no_number_from_0_to_1_is_refused(value):
    message = refusal(lambda example, trajectory: value)
    assert f"returned {value!r} for question 'q1'. " not in message
    assert f"returned {value!r} for question 'q1', answered '(B)'. It has to return a number from 0 to 1" in message


@pytest.mark.parametrize("value", [0, 1, True, 0.25])
def test_numbers_from_0_to_1_are_taken(value):
    assert earned(lambda example, trajectory: value, "(B)") == [float(value)]


def test_one_that_prints_is_let():
    assert earned(prints, "(B)") == [1.0]


def test_one_that_takes_too_long_is_not_waited_for():
    assert "sleeps took longer than 0.05 s (reward_timeout) for question 'q1'" in refusal(sleeps, timeout=0.05)


@pytest.mark.parametrize("workers", [1, 3])
def test_so_many_calls_are_under_way_at_one_time(workers):
    """Each waits until the others of its batch have come."""
    barrier, lock, now, most = threading.Barrier(workers), threading.Lock(), [0], [0]

    def together(example, trajectory):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        barrier.wait(30)
        with lock:
            now[0] -= 1
        return len(trajectory.answer) / 10

    assert earned(together, "a", "ab", "abc", "abcd", "abcde", "abcdef", workers=workers) == [
        0.1, 0.2, 0.3, 0.4, 0.5, 0.6]  # fmt: skip
    assert most == [workers]


# -- in training ---------------------------------------------------------------------------------------------------


@dataclass
class Recorder:
    """Keeps what it is given; raises where `fails` says so. Half right."""

    fails: int = -1
    seen: list[tuple[Example, Trajectory]] = field(default_factory=list)

    def __call__(self, example: Example, trajectory: Trajectory) -> float:
        if len(self.seen) == self.fails:
            raise ValueError("no more")
        self.seen.append((example, trajectory))
        return (len(self.seen) % 3) / 4


def test_what_it_returns_is_what_trajectories_earn(tiny_base, tmp_path, monkeypatch):
    """It sees question, answer, boxes and crops; the rewards stand in the metrics and in what is kept of rollouts."""
    make_up(monkeypatch.setattr)
    reward = Recorder()
    stages = [rl_stage(steps=2, log_rollouts_every=1)]
    train(small_recipe(tiny_base, tmp_path / "run", stages), reward=reward)
    assert len(reward.seen) == 2 * 2 * 3
    values = [(n % 3) / 4 for n in range(1, 13)]
    assert [row["reward"] for row in metrics(tmp_path / "run")] == pytest.approx([sum(values[:6]) / 6] * 2)
    kept = [
        json.loads(line)["reward"]
        for step in (0, 1)
        for line in (tmp_path / f"run/stages/1-rl/rollouts/step-{step:05d}.jsonl").read_text().splitlines()
    ]
    assert kept == values
    example, trajectory = next(pair for pair in reward.seen if pair[1].boxes)
    assert example.answer and trajectory.turns[0].kind == "locate"
    assert trajectory.crops[0].load().size == trajectory.crops[0].size
    assert trajectory.reward == 0.0  # not yet


@pytest.mark.slow
def test_where_it_fails_nothing_saved_is_lost_and_resume_goes_on(tiny_base, tmp_path, monkeypatch, capsys):
    """As the command does it: a checkpoint after each step, a failure in the second, and the mended file."""
    make_up(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    whole = "def mine(example, trajectory):\n    return len(trajectory.answer) % 2\n"
    Path("mine.py").write_text(whole)
    stages = [rl_stage(steps=3, save_every=1)]
    for name in ("unbroken", "run"):
        recipe = small_recipe(tiny_base, tmp_path / name, stages, reward="mine.py:mine")
        dump_recipe(recipe, tmp_path / f"{name}.yaml")
    assert main.main(["train", "unbroken.yaml"]) == 0

    broken = "calls = []\n" + whole.replace("    return", "    calls.append(1)\n    assert len(calls) < 8\n    return")
    Path("mine.py").write_text(broken)
    assert main.main(["train", "run.yaml"]) == 1
    error = capsys.readouterr().err
    assert "the reward mine raised AssertionError" in error and "(mine.py, line 4)" in error
    assert "Traceback" not in error and "go on with --resume" in error
    run = tmp_path / "run"
    assert [row["step"] for row in metrics(run)] == [1]
    assert (run / "stages/1-rl/checkpoint-1").is_dir() and not (run / "adapter").exists()
    assert (run / "evaluation/before/summary.json").is_file()

    Path("mine.py").write_text(whole)
    assert main.main(["train", "run.yaml", "--resume"]) == 0
    assert [row["step"] for row in metrics(run)] == [1, 2, 3]
    weights = "adapter/adapter_model.safetensors"
    assert (run / weights).read_bytes() == (tmp_path / "unbroken" / weights).read_bytes()


def test_a_partial_and_an_object_are_called_by_a_name_one_knows():
    assert "the reward Recorder raised ValueError: no more" in refusal(Recorder(fails=0))
    assert "the reward partial raised TypeError" in refusal(partial(raises, 1, 2))
