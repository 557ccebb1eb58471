"""The best weights of a stage are kept, patience ends it, and a run that was killed or stopped does both alike."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_runs import make_up, metrics, rl_stage, sft_stage, small_recipe, without_timings

from hart_lite.errors import HartError
from hart_lite.training import best_weights, checkpointing, evaluation
from hart_lite.training.callbacks import MetricsFile
from hart_lite.training.signals import Stopped
from hart_lite.training.train import train

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def _made_up(monkeypatch):
    make_up(monkeypatch.setattr)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def recipe_in(base: Path, run: Path, stages=None, **evaluate):
    model = {"base": str(base), "dtype": "float32", "device": "cpu", "lora": {"r": 4, "dropout": 0.1}}
    spec = {"every": 1, "modes": ["crops"], "keep_best": "crops", "watch": 0} | evaluate
    return small_recipe(base, run, stages or [rl_stage(steps=4, log_rollouts_every=0)], model=model, evaluate=spec)


def valued(monkeypatch, values: dict[str, float]) -> None:
    """Evaluations along the way come to these values; the others to what they are."""
    real = best_weights.run_metrics

    def figures(found):
        name = found.folder.name
        return {"accuracy": {"crops": values[name]}} if name in values else real(found)

    monkeypatch.setattr(best_weights, "run_metrics", figures)


def during(stage: str, *values: float) -> dict[str, float]:
    return {f"during-{stage}-{n:05d}": value for n, value in enumerate(values, 1)}


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS)


def recorded(recipe) -> dict[int, dict[str, torch.Tensor]]:
    """Trains; {step: adapter} of its first stage, from checkpoints of each step."""
    found: dict[int, dict[str, torch.Tensor]] = {}
    drop = checkpointing.drop_old_checkpoints

    def keep(folder):
        for path in folder.glob("checkpoint-*") if folder.name == "1-rl" else ():
            found.setdefault(int(path.name.split("-")[1]), adapter(path))
        drop(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpointing, "drop_old_checkpoints", keep)
        train(recipe)
    return found


@pytest.fixture
def weights_at(tiny_base, tmp_path):
    """Of a run that keeps its last weights."""
    stages = [rl_stage(steps=4, log_rollouts_every=0, save_every=1)]
    return recorded(recipe_in(tiny_base, tmp_path / "plain", stages, keep_best=None))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_weights_of_the_best_step_are_the_stages(tiny_base, tmp_path, monkeypatch, weights_at):
    assert not same(weights_at[2], weights_at[4])
    valued(monkeypatch, during("1-rl", 0.1, 0.9, 0.3, 0.9))  # of two alike the first
    recipe = recipe_in(tiny_base, tmp_path / "run")
    train(recipe)
    assert same(adapter(recipe.run_dir / "adapter"), weights_at[2])
    assert not list((recipe.run_dir / "stages" / "1-rl").glob("best-*"))
    kept = recipe.run_dir / "evaluation"
    rows = [(kept / name / "predictions.jsonl").read_bytes() for name in ("after-1-rl", "during-1-rl-00002")]
    assert rows[0] == rows[1]


def test_wrong_grounding_is_better_when_it_is_lower(tiny_base, tmp_path, monkeypatch, weights_at):
    shares = dict(zip(during("1-rl", 1, 2, 3, 4), (0.5, 0.4, 0.2, 0.3), strict=True))
    monkeypatch.setattr(
        best_weights, "run_metrics", lambda found: {"grounding": {"wrong_grounding": shares[found.folder.name]}}
    )
    recipe = recipe_in(tiny_base, tmp_path / "run", keep_best="wrong_grounding")
    train(recipe)
    assert same(adapter(recipe.run_dir / "adapter"), weights_at[3])


def test_patience_ends_a_stage_and_the_next_begins_with_its_best(tiny_base, tmp_path, monkeypatch):
    valued(monkeypatch, during("1-rl", 0.9, 0.2, 0.3, 0.95) | during("2-sft", 0.1, 0.2, 0.3))
    stages = [rl_stage(steps=4, log_rollouts_every=0, save_every=1), sft_stage(steps=2)]
    recipe = recipe_in(tiny_base, tmp_path / "run", stages, patience=2)
    found = recorded(recipe)
    assert [(row["stage"], row["step"]) for row in metrics(recipe.run_dir)] == [
        *(("1-rl", 1), ("1-rl", 2), ("1-rl", 3)),
        *(("2-sft", 1), ("2-sft", 2)),
    ]
    assert same(adapter(recipe.run_dir / "stages" / "1-rl" / "adapter"), found[1]) and not same(found[1], found[3])


@pytest.mark.slow
def test_stopped_at_any_moment_it_keeps_and_ends_alike(tiny_base, tmp_path, monkeypatch):
    values = during("1-rl", 0.4, 0.9, 0.3, 0.2, 0.95, 0.99) | during("2-sft", 0.1, 0.6, 0.6)
    valued(monkeypatch, values)
    stages = [rl_stage(steps=6, log_rollouts_every=0, save_every=2), sft_stage(steps=3, save_every=0)]
    unbroken = recipe_in(tiny_base, tmp_path / "unbroken", stages, patience=2)
    train(unbroken)
    recipe = recipe_in(tiny_base, tmp_path / "run", stages, patience=2)
    stops = 0
    for owner, name, count in (
        (evaluation, "evaluate", 3),  # of step 2
        (best_weights, "save_adapter", 1),  # of step 2, whose evaluation is there
        (evaluation, "evaluate", 2),  # of step 4, after which there is enough
        (best_weights, "set_peft_model_state_dict", 1),
        (evaluation, "evaluate", 2),
        (best_weights, "save_adapter", 2),
    ):
        with monkeypatch.context() as patch:
            signal_at(patch, owner, name, count)
            try:
                train(recipe, resume=True)
            except Stopped:
                stops += 1
    assert stops >= 5
    train(recipe, resume=True)
    assert without_timings(metrics(recipe.run_dir)) == without_timings(metrics(unbroken.run_dir))
    for place in ("stages/1-rl/adapter", "stages/2-sft/adapter", "adapter"):
        assert (recipe.run_dir / place / WEIGHTS).read_bytes() == (unbroken.run_dir / place / WEIGHTS).read_bytes()
    names = [sorted(p.name for p in (r.run_dir / "evaluation").iterdir()) for r in (recipe, unbroken)]
    assert names[0] == names[1] and "during-1-rl-00005" not in names[0]
    assert not list(recipe.run_dir.rglob("*.part")) and not list(recipe.run_dir.rglob("best-*"))


def signal_at(patch, owner: object, name: str, count: int) -> None:
    real, calls = getattr(owner, name), []

    def signalled(*args, **kwargs):
        calls.append(name)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    patch.setattr(owner, name, signalled)


def test_steps_that_are_taken_again_keep_what_they_kept(tiny_base, tmp_path, monkeypatch):
    """Killed after step 4 with a checkpoint of step 2 alone: step 4 was best, and its evaluation is there."""
    valued(monkeypatch, during("1-rl", 0.4, 0.5, 0.3, 0.9, 0.1))
    stages = [rl_stage(steps=5, log_rollouts_every=0, save_every=2)]
    unbroken = recipe_in(tiny_base, tmp_path / "unbroken", stages)
    train(unbroken)
    recipe = recipe_in(tiny_base, tmp_path / "run", stages)

    class Killed(BaseException):
        pass

    def die(file, args, state, control, **kwargs):
        if state.global_step == 4:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "on_step_begin", die)
        with pytest.raises(Killed):
            train(recipe)
    shutil.rmtree(recipe.run_dir / "stages/1-rl/checkpoint-4")
    assert (recipe.run_dir / "stages/1-rl/best-00004").is_dir()
    train(recipe, resume=True)
    assert (recipe.run_dir / "adapter" / WEIGHTS).read_bytes() == (unbroken.run_dir / "adapter" / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"keep_best": None, "patience": 2}, "say what by evaluate.keep_best"),
        ({"every": 0}, "needs evaluations along the way; set evaluate.every"),
        ({"keep_best": "full"}, "is not measured: add 'full' to evaluate.modes"),
        ({"modes": ["full"], "keep_best": "mean_iou"}, "is not measured: add 'crops' to evaluate.modes"),
    ],
)
def test_what_cannot_be_kept_by_is_refused(tiny_base, tmp_path, evaluate, message):
    with pytest.raises(ValueError, match=message):
        recipe_in(tiny_base, tmp_path, **evaluate)


def test_boxes_are_needed_to_keep_by_boxes(tiny_base, tmp_path):
    rows = tmp_path / "rows.jsonl"
    for n in range(4):
        Image.new("RGB", (60 + n, 40), (n * 40, 9, 9)).save(tmp_path / f"{n}.png")
    lines = [{"image": f"{n}.png", "question": "What?", "answer": "x"} for n in range(4)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = recipe_in(tiny_base, tmp_path / "run", keep_best="mean_iou").model_copy(
        update={"data": small_recipe(tiny_base, tmp_path, data={"train": str(rows), "eval": str(rows)}).data}
    )
    with pytest.raises(HartError, match="none of the 4 held-out questions has boxes"):
        train(recipe)
