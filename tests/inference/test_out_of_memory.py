"""Where memory runs out in an evaluation, its batches are halved: the answers are the same, and none is lost."""

import logging
import math
from dataclasses import replace

import pytest
import torch

from hart_lite.errors import ModelError
from hart_lite.eval.evaluator import evaluate_benchmarks
from hart_lite.eval.results import read_evaluation
from hart_lite.eval.settings import EvalSettings
from hart_lite.inference.load import OpenModel, open_model
from hart_lite.inference.local_engine import LocalEngine
from hart_lite.models.generation import generate

SETTINGS = EvalSettings(benchmarks={"toy": "scenes=4"}, modes=("full", "crops", "full+crops"), max_tokens=16)


class Card:
    """Stands in for `generate`: memory runs out in calls for more than `most` prompts, and in every one after so many
    `calls`."""

    def __init__(self, most: int, calls: float = math.inf) -> None:
        self.most, self.calls, self.sizes = most, calls, []

    def __call__(self, policy, prompts, sampling, cache):
        self.sizes.append(len(prompts))
        if len(prompts) > self.most or len(self.sizes) > self.calls:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return generate(policy, prompts, sampling, cache)


@pytest.fixture(scope="module")
def model():
    return open_model("toy", device="cpu")


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "eval"
    evaluate_benchmarks(model, SETTINGS, out)
    return read_evaluation(out)


def on(model: OpenModel, card: Card) -> OpenModel:
    engine = LocalEngine(model.engine.policy, model.engine.budget.value, model.engine.max_batch, generate=card)
    return replace(model, engine=engine)


@pytest.mark.slow
def test_half_the_batch_gives_the_same_rows(model, whole, tmp_path, caplog):
    card = Card(most=3)
    small = on(model, card)
    with caplog.at_level(logging.WARNING):
        evaluate_benchmarks(small, SETTINGS, tmp_path / "eval")
    assert card.sizes[0] > 3  # it does run out
    tried = max(n for n, size in enumerate(card.sizes) if size > 3)
    assert max(card.sizes[tried + 1 :]) <= 3 and small.engine.budget.value < model.engine.budget.value
    assert read_evaluation(tmp_path / "eval").rows == whole.rows
    warning = f"Set rollout.tokens_per_batch={small.engine.budget.value} in the recipe to begin with what fits"
    assert "memory ran out in sampling with rollout.tokens_per_batch=" in caplog.text and warning in caplog.text


@pytest.mark.slow
def test_a_prompt_that_does_not_fit_alone_ends_it_and_it_goes_on_elsewhere(model, whole, tmp_path):
    """What was answered by then is kept; on a card with more memory the same command asks for the rest."""
    card, out = Card(most=1000), tmp_path / "eval"
    evaluate_benchmarks(on(model, card), SETTINGS, tmp_path / "counted")
    full = Card(most=1000, calls=len(card.sizes) - 1)
    with pytest.raises(ModelError, match=r"up to 16 tokens after a prompt of \d+ do not fit, not even alone\. Lower"):
        evaluate_benchmarks(on(model, full), SETTINGS, out)
    assert 0 < (out / "predictions.jsonl").read_bytes().count(b"\n") < len(whole.rows)
    assert not (out / "summary.json").exists()
    evaluate_benchmarks(model, SETTINGS, out)
    assert read_evaluation(out).rows == whole.rows
