"""What is not a number changes nothing, is counted, and ends a run that makes nothing else, with its questions."""

import math
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import make_up, metrics
from trainers import ON_CPU, adapters, rl_trainer, same, sft_trainer

from hart_lite.config.sections import ModelSection
from hart_lite.errors import HartError, NotFiniteError
from hart_lite.models.finite import check_finite
from hart_lite.models.generation import Sampling, generate
from hart_lite.models.loading import load_policy
from hart_lite.runs.run_dir import save_adapter
from hart_lite.toy.model import build
from hart_lite.training import rl_trainer as rl
from hart_lite.training import sft_trainer as sft
from hart_lite.training.loss_scale import LossScale
from hart_lite.training.sft_trainer import rows_of_step
from hart_lite.training.step_guard import LIMIT, StepGuardState

BAD = {"nan": math.nan, "inf": math.inf}


@pytest.fixture(autouse=True)
def _made_up(monkeypatch):
    make_up(monkeypatch.setattr)


@pytest.fixture
def new_rl(new_policy, tiny_base, tmp_path):
    return partial(rl_trainer, new_policy, tiny_base, tmp_path)


@pytest.fixture
def new_sft(new_policy, tiny_base, tmp_path):
    return partial(sft_trainer, new_policy, tiny_base, tmp_path)


def moments(trainer) -> list[torch.Tensor]:
    states = trainer.optimizer.state.values()
    return [value.clone() for state in states for _, value in sorted(state.items())]


def poison_losses(monkeypatch, trainer, bad_steps, value=math.nan) -> None:
    """Multiplies the loss of the first pack of these steps; they count from 1."""
    policy_loss, last = rl.policy_loss, []

    def poisoned(**inputs):
        loss, figures = policy_loss(**inputs)
        step = trainer.state.global_step + 1
        first = last[-1:] != [step]
        last.append(step)
        return (loss * value if step in bad_steps and first else loss), figures

    monkeypatch.setattr(rl, "policy_loss", poisoned)


def watch(trainer) -> list[tuple]:
    """(adapters, moments, learning rate) before each optimizer step and after the last one."""
    seen = []
    step = trainer.training_step

    def look(*args, **kwargs):
        loss = step(*args, **kwargs)
        seen.append((adapters(trainer), moments(trainer), trainer.lr_scheduler.get_last_lr()[0]))
        return loss

    trainer.training_step = look
    trainer.train()
    seen.append((adapters(trainer), moments(trainer), None))
    return seen


# -- a step that is skipped ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BAD)
def test_rl_skips_a_loss_that_is_not_finite(new_rl, tmp_path, monkeypatch, kind):
    """Step 2 of 3: neither weights nor moments move, weight decay included; the learning rate goes on."""
    trainer = new_rl(stage={"steps": 3, "weight_decay": 0.1, "lr_scheduler": "linear", "save_every": 0})
    poison_losses(monkeypatch, trainer, {2}, BAD[kind])
    one, two, three, end = watch(trainer)
    assert not same(one[0], two[0])
    assert same(two[0], three[0]) and same(two[1], three[1]) and two[1]
    assert not same(three[0], end[0])
    assert all(bool(t.isfinite().all()) for t in end[0] + end[1])
    assert [lr for *_, lr in (one, two, three)] == pytest.approx([1e-2, 1e-2 * 2 / 3, 1e-2 / 3])
    rows = metrics(tmp_path)
    assert [row["skipped"] for row in rows] == [0, 1, 0]
    assert [math.isfinite(row["loss"]) for row in rows] == [True, False, True]


@pytest.mark.parametrize("gradient", [math.nan, -math.inf, 1e30], ids=["nan", "inf", "norm"])
def test_rl_skips_a_gradient_whose_norm_is_not_finite(new_rl, tmp_path, gradient):
    """1e30 is a number, but its square is none in float32: clipped by such a norm all gradients would be zero, on
    which Adam still moves."""
    trainer = new_rl(stage={"steps": 2, "save_every": 0})

    def spoil(grad: torch.Tensor) -> torch.Tensor:
        return torch.full_like(grad, gradient) if trainer.state.global_step == 1 else grad

    hook = trainer.policy.adapter_parameters[-1].register_hook(spoil)
    _, two, end = watch(trainer)
    hook.remove()
    assert same(two[0], end[0]) and same(two[1], end[1])
    rows = metrics(tmp_path)
    assert [row["skipped"] for row in rows] == [0, 1]
    assert all(math.isfinite(row["loss"]) for row in rows)  # it was


def poison_rows(monkeypatch, bad_passes, value=math.nan) -> None:
    """Multiplies the losses of these passes; they count from 1."""
    token_nll, passes = sft.token_nll, []

    def poisoned(**inputs):
        passes.append(1)
        loss, figures = token_nll(**inputs)
        return loss * (value if len(passes) in bad_passes else 1), figures

    monkeypatch.setattr(sft, "token_nll", poisoned)


@pytest.mark.parametrize("kind", BAD)
def test_sft_skips_a_loss_that_is_not_finite(new_sft, tmp_path, monkeypatch, kind):
    """Two passes a step: the third is in step 2. The losses that follow are numbers again."""
    trainer = new_sft(steps=3, save_every=0, weight_decay=0.1)
    poison_rows(monkeypatch, {3}, BAD[kind])
    one, two, three, end = watch(trainer)
    assert not same(one[0], two[0])
    assert same(two[0], three[0]) and same(two[1], three[1]) and two[1]
    assert not same(three[0], end[0])
    rows = metrics(tmp_path)
    assert [row["skipped"] for row in rows] == [0, 1, 0]
    assert [math.isfinite(row["loss"]) for row in rows] == [True, False, True]
    assert all(bool(t.isfinite().all()) for t in end[0] + end[1])


def test_sft_skips_a_gradient_whose_norm_is_not_finite(new_sft, tmp_path):
    trainer = new_sft(steps=2, save_every=0)
    first = trainer.policy.adapter_parameters[0]
    hook = first.register_hook(lambda g: g * (1e30 if trainer.state.global_step == 1 else 1))
    _, two, end = watch(trainer)
    hook.remove()
    assert same(two[0], end[0]) and same(two[1], end[1])
    assert [row["skipped"] for row in metrics(tmp_path)] == [0, 1]


# -- the limit -----------------------------------------------------------------------------------------------------


def test_rl_ends_after_some_bad_steps_in_a_row_and_names_their_questions(new_rl, tmp_path, monkeypatch):
    """Step 1 is bad as well, but step 2 is not: it starts the count anew. Only the first pack is to blame."""
    trainer = new_rl(stage={"steps": 20, "tokens_per_pack": 160, "questions_per_step": 3, "save_every": 0})
    poison_losses(monkeypatch, trainer, {1, *range(3, 20)})
    asked, rollout = {}, trainer.rollout
    trainer.rollout = lambda examples, step: asked.setdefault(step + 1, rollout(examples, step))
    with pytest.raises(HartError) as caught:
        trainer.train()
    assert LIMIT == 5
    assert "in 5 steps in a row, 3 to 7. None of them changed the weights" in str(caught.value)
    assert [row["skipped"] for row in metrics(tmp_path)] == [1, 0, 1, 1, 1, 1, 1]  # the last one is on record, too
    bad = {i for step, ids in trainer.guard.bad.items() for i in ids}
    assert bad
    assert all(repr(i) in str(caught.value) for i in bad)
    for step, ids in trainer.guard.bad.items():
        assert set(ids) < {group.example.id for group in asked[step]}  # fewer than all
    assert "lower lr" in str(caught.value)


def test_sft_ends_after_some_bad_steps_in_a_row_and_names_the_rows(new_sft, tmp_path, monkeypatch):
    trainer = new_sft(steps=8, save_every=0)
    poison_rows(monkeypatch, set(range(2, 17, 2)))  # the second of two passes in each step
    with pytest.raises(HartError, match="in 5 steps in a row, 1 to 5") as caught:
        trainer.train()
    assert [row["skipped"] for row in metrics(tmp_path)] == [1] * 5
    read = [rows_of_step(len(trainer.rows), 2, trainer.args.seed, step) for step in range(LIMIT)]
    named, spared = ({trainer.rows.example_id(pair[n]) for pair in read} for n in (1, 0))
    assert all(repr(i) in str(caught.value) for i in named)
    assert not any(repr(i) in str(caught.value) for i in spared - named)
    assert spared - named


def test_questions_that_are_in_most_bad_steps_come_first_and_not_all_are_quoted():
    guard = StepGuardState([], LossScale(torch.float32))
    for step in range(LIMIT):
        guard.count(step, [], [f"{step}-{n}" for n in range(9)] + ["culprit"])
    with pytest.raises(HartError, match=r"first: 'culprit', .* and 30 more"):
        guard.stop_at_limit()


def test_a_step_with_nothing_to_learn_from_does_not_start_the_count_anew(new_rl):
    """Its gradient is finite because there is none."""
    trainer = new_rl()
    trainer.guard.bad = {1: ["a"]}
    assert trainer.skips(0.0, [], []) is False
    assert trainer.guard.bad == {1: ["a"]}
    trainer.policy.adapter_parameters[0].grad = torch.ones_like(trainer.policy.adapter_parameters[0])
    assert trainer.skips(0.0, [], []) is False
    assert trainer.guard.bad == {}


@pytest.mark.slow
def test_a_resumed_run_goes_on_counting(new_rl, tmp_path, monkeypatch):
    """Bad from step 3 on, a checkpoint after step 4: it ends after step 7, resumed or not."""
    trainer = new_rl(stage={"steps": 12, "save_every": 4})
    poison_losses(monkeypatch, trainer, range(3, 20))
    with pytest.raises(HartError, match="3 to 7"):
        trainer.train()
    checkpoint = tmp_path / "stages" / "1-rl" / "checkpoint-4"
    resumed = new_rl(stage={"steps": 12, "save_every": 4})
    poison_losses(monkeypatch, resumed, range(3, 20))
    with pytest.raises(HartError) as caught:
        resumed.train(resume_from_checkpoint=str(checkpoint))
    assert "3 to 7" in str(caught.value)
    assert resumed.guard.bad == trainer.guard.bad


# -- sampling ------------------------------------------------------------------------------------------------------


@pytest.fixture
def spoil(new_policy):
    """A policy of which one adapter is not finite."""

    def make(value: float):
        policy = new_policy(**ON_CPU)
        with torch.no_grad():
            policy.adapter_parameters[-1][0, 0] = value
        return policy

    return make


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", BAD)
def test_nothing_is_drawn_from_scores_that_are_not_finite(spoil, kind, temperature):
    """Without the check NaN would draw token 0, and go on."""
    policy = spoil(BAD[kind])
    prompt = policy.family.chat(["Which?"])
    with pytest.raises(NotFiniteError, match=r"not finite for some of 2 prompts.*model.dtype=bfloat16"):
        generate(policy, [prompt, prompt], Sampling(4, temperature))


def test_a_step_whose_rollout_is_not_finite_is_skipped_and_named(new_rl, tmp_path, caplog):
    trainer = new_rl(stage={"steps": 8, "save_every": 0, "log_rollouts_every": 1})
    rollout, asked = trainer.runner.rollout, []

    def broken(examples, *args):
        asked.append([e.id for e in examples])
        if len(asked) != 2:
            raise NotFiniteError("scores are not finite")
        return rollout(examples, *args)

    trainer.runner.rollout = broken
    with pytest.raises(HartError, match="in 5 steps in a row, 3 to 7") as caught:
        trainer.train()
    rows = metrics(tmp_path)
    assert [row["skipped"] for row in rows] == [1, 0, 1, 1, 1, 1, 1]
    assert ["reward" in row for row in rows] == [False, True, False, False, False, False, False]
    assert all(repr(i) in str(caught.value) for ids in asked[2:] for i in ids)
    assert "step 1: scores are not finite" in caplog.text


# -- weights that are loaded ---------------------------------------------------------------------------------------


def spoil_file(path, value: float) -> str:
    """Puts a value into the last matrix of a file; returns the matrix's name."""
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[0] = value
    save_file(tensors, path, {"format": "pt"})
    return name


@pytest.mark.parametrize("kind", BAD)
def test_an_adapter_that_is_not_finite_is_refused_by_its_tensor(new_policy, tiny_base, tmp_path, kind):
    folder = tmp_path / "adapter"
    save_adapter(new_policy(**ON_CPU), folder)
    section = ModelSection(base=str(tiny_base), **ON_CPU)
    load_policy(section, folder)
    name = spoil_file(folder / "adapter_model.safetensors", BAD[kind])
    with pytest.raises(HartError) as caught:
        load_policy(section, folder)
    assert f"the adapter in {folder}: the weights {name.removeprefix('base_model.model.')} are not" in str(caught.value)


def test_a_checkpoint_that_is_not_finite_is_refused_by_its_tensor(new_rl, tmp_path):
    stage = {"steps": 2, "save_every": 1}
    new_rl(stage=stage).train()
    checkpoint = tmp_path / "stages" / "1-rl" / "checkpoint-1"
    name = spoil_file(checkpoint / "adapter_model.safetensors", math.nan)
    with pytest.raises(HartError) as caught:
        new_rl(stage=stage).train(resume_from_checkpoint=str(checkpoint))
    assert f"checkpoint {checkpoint}: the weights {name} are not finite" in str(caught.value)


def test_a_base_that_is_not_finite_is_refused_by_its_tensor(tmp_path):
    build(tmp_path / "base")
    name = spoil_file(tmp_path / "base" / "model.safetensors", math.inf)
    with pytest.raises(HartError, match=r"the weights .* are not finite") as caught:
        load_policy(ModelSection(base=str(tmp_path / "base"), **ON_CPU))
    assert name.rpartition(".")[0].split(".", 1)[1] in str(caught.value)


def test_numbers_of_any_size_are_no_reason_to_refuse():
    layer = torch.nn.Linear(4, 4)
    torch.nn.init.constant_(layer.weight, torch.finfo(torch.float32).max)  # their sum is none
    check_finite(layer, "test")
