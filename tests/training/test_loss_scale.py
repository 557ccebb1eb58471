"""The factor of a float16 loss follows what overflows, and a resumed run goes on with it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers.trainer_callback import TrainerState

from hart_lite.training.loss_scale import GOOD_STEPS, LARGEST, SMALLEST, START, LossScale
from hart_lite.training.step_guard import NonFiniteGuard, StepGuardState


class Trainer(NonFiniteGuard):
    """One parameter, with the gradient that a test gives it."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.guard = StepGuardState([], LossScale(dtype))
        self.model = nn.Linear(1, 1, bias=False)
        self.args = SimpleNamespace(world_size=1, device="cpu")
        self.state = TrainerState()

    def step(self, loss: float, gradient: float) -> bool:
        self.model.weight.grad = torch.full((1, 1), gradient)
        return self.skips(loss, [], ["a question"])


def test_it_is_halved_where_a_gradient_overflows_but_not_where_the_loss_itself_does():
    trainer = Trainer(torch.float16)
    assert trainer.step(1.0, float("inf")) is True
    assert trainer.guard.scale.value == START / 2
    assert trainer.step(float("nan"), float("nan")) is True
    assert trainer.guard.scale.value == START / 2
    assert list(trainer.guard.bad) == [1]
    for _ in range(40):
        trainer.step(1.0, float("inf"))
    assert trainer.guard.scale.value == SMALLEST


def test_it_is_doubled_after_enough_good_steps_in_a_row():
    trainer = Trainer(torch.float16)
    for _ in range(GOOD_STEPS - 1):
        assert trainer.step(1.0, 0.5) is False
    assert trainer.guard.scale.value == START
    trainer.step(1.0, float("inf"))
    for _ in range(GOOD_STEPS - 1):
        trainer.step(1.0, 0.5)
    assert trainer.guard.scale.value == START / 2
    trainer.step(1.0, 0.5)
    assert trainer.guard.scale.value == START
    for _ in range(GOOD_STEPS * 20):
        trainer.guard.scale.worked()
    assert trainer.guard.scale.value == LARGEST


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_precisions_have_none(dtype):
    trainer = Trainer(dtype)
    trainer.step(1.0, float("inf"))
    for _ in range(GOOD_STEPS + 1):
        trainer.step(1.0, 0.5)
    assert trainer.guard.scale.value == 1


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float16, (256.0, 7)), (torch.float32, (1.0, 0))])
def test_a_resumed_run_goes_on_with_it(dtype, expected):
    before = StepGuardState([], LossScale(torch.float16))
    before.scale.value, before.scale.good = 256.0, 7
    state = TrainerState(stateful_callbacks={"StepGuardState": before.state()})
    resumed = StepGuardState([], LossScale(dtype))
    resumed.on_train_begin(SimpleNamespace(output_dir="unused"), state, None)
    assert (resumed.scale.value, resumed.scale.good) == expected
