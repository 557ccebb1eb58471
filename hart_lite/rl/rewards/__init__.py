"""The reward of a trajectory is a function: `reward(example, trajectory)` returns a number from 0 to 1.

The default is the one grader. A recipe names another as `reward: my_rewards.py:name`; Python passes it as `reward=`.
What it sees: the example with its gold answer, and the trajectory with its turns, its boxes in original pixels, its
crops (`trajectory.crops[0].load()` is a PIL image) and the text of its answer.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from types import ModuleType

from hart_lite.errors import ConfigError, RewardError
from hart_lite.grading import grade
from hart_lite.types import Example, Trajectory
from hart_lite.utils.text import shown

Reward = Callable[[Example, Trajectory], float]
TIMEOUT = 60.0


def grade_reward(example: Example, trajectory: Trajectory) -> float:
    """1 where the grader reads the right answer from the last turn, else 0; a trajectory without an answer earns 0."""
    return float(trajectory.answered and grade(trajectory.answer, example.answer, example.choices))


def load_reward(spec: str | None) -> Reward:
    """The function that a recipe names: `file.py:name` or `module:name`; None: `grade_reward`.

    Raises `ConfigError` for a file that is not there or fails, and for what is no function of two arguments.
    """
    if spec is None:
        return grade_reward
    place, _, name = spec.rpartition(":")
    module = _module(place, spec)
    function = getattr(module, name, None)
    if not callable(function):
        names = sorted(key for key, value in vars(module).items() if inspect.isfunction(value))
        raise ConfigError(f"reward = {spec!r}: {place} has no function {name!r}; it has {', '.join(names) or 'none'}")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise ConfigError(
            f"reward = {spec!r}: {name} is called with two arguments, the example and the trajectory ({error})"
        ) from None
    return function


def _module(place: str, spec: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        if not Path(place).is_file():
            raise ConfigError(f"reward = {spec!r}: there is no file {place}; the path starts at {Path.cwd()}")
        found = importlib.util.spec_from_file_location(f"{__name__}.{Path(place).stem}", place)
        module = sys.modules[found.name] = importlib.util.module_from_spec(found)  # dataclasses look it up there
        found.loader.exec_module(module)
        return module
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # the file is the user's: it may raise anything
        raise ConfigError(f"reward = {spec!r}: {place} cannot be imported: {_told(error)}") from error


def with_rewards(
    reward: Reward,
    timeout: float,
    workers: int,
    examples: Sequence[Example],
    trajectories: Sequence[Trajectory],
) -> list[Trajectory]:
    """The trajectories with what each earned; `workers` calls are under way at one time.

    Raises `RewardError`, with the question named, where a call raises, takes longer than `timeout` seconds or returns
    anything but a number from 0 to 1: training on such a reward would teach the wrong thing in silence.
    """
    values = _call_all(reward, list(zip(examples, trajectories, strict=True)), timeout, workers)
    return [
        replace(t, reward=_checked(reward, e, t, v)) for e, t, v in zip(examples, trajectories, values, strict=True)
    ]


def _call_all(
    reward: Reward, pairs: list[tuple[Example, Trajectory]], timeout: float, workers: int
) -> Iterator[object]:
    for start in range(0, len(pairs), workers):
        batch = pairs[start : start + workers]
        for pair, result in [(pair, _call(reward, pair)) for pair in batch]:
            try:
                value, error = result.get(timeout=timeout)
            except queue.Empty:
                problem = f"took longer than {timeout:g} s (reward_timeout)"
                raise RewardError(_message(reward, *pair, problem)) from None
            if error is not None:
                raise RewardError(_message(reward, *pair, f"raised {_told(error)}")) from error
            yield value


def _call(reward: Reward, pair: tuple[Example, Trajectory]) -> queue.SimpleQueue:
    """A call in a thread of its own, since nothing else can be waited for with a limit; one that never ends does not
    keep the process alive."""
    result: queue.SimpleQueue = queue.SimpleQueue()

    def work() -> None:
        try:
            result.put((reward(*pair), None))
        except BaseException as error:  # handed to the caller's thread, which raises it with the question named
            result.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    return result


def _checked(reward: Reward, example: Example, trajectory: Trajectory, value: object) -> float:
    if not isinstance(value, Real) or math.isnan(value) or not 0 <= value <= 1:
        raise RewardError(_message(reward, example, trajectory, f"returned {shown(value)}"))
    return float(value)


def _message(reward: Reward, example: Example, trajectory: Trajectory, problem: str) -> str:
    name = getattr(reward, "__name__", type(reward).__name__)
    return (
        f"the reward {name} {problem} for question {shown(example.id)}, answered {shown(trajectory.answer)}. It has to "
        "return a number from 0 to 1. What was saved is whole: mend the function and go on with --resume"
    )


def _told(error: BaseException) -> str:
    """The error, and the line of the user's code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
