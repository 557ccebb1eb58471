"""How long a step may take: the step that was measured comes out as measured, and slower cards take longer."""

import pytest

from hart_lite.config.recipe import load_recipe
from hart_lite.perf.model_sizes import Dimensions
from hart_lite.perf.pace import SPEEDS, known, lasting, rl_seconds
from hart_lite.perf.plan_report import predicted, text

AS_MEASURED = ["rollout.max_tokens_locate=64", "rollout.max_tokens_answer=16"]


def seconds(card: str, *overrides: str) -> float:
    recipe = load_recipe("qwen7b_lora", overrides)
    [(_, found, _)] = rl_seconds(recipe, Dimensions.of(recipe.model.base), card)
    return found


def test_the_step_that_was_measured_took_what_it_took():
    assert seconds("H200", *AS_MEASURED) == pytest.approx(16.8, abs=0.2)


def test_slower_cards_and_more_work_take_longer():
    by_speed = sorted(SPEEDS, key=lambda card: SPEEDS[card][0] * SPEEDS[card][1])
    assert seconds(by_speed[0]) > seconds("A100") > seconds("H100") > seconds("H200")
    assert seconds("T4", "rollout.samples=4") < seconds("T4") < seconds("T4", "pixels.full=2007040")
    assert seconds("T4", "loop=direct", "objective=grpo") < seconds("T4")


@pytest.mark.parametrize(
    ("name", "card"),
    [("NVIDIA H100 80GB HBM3", "H100"), ("Tesla T4", "T4"), ("NVIDIA A100-SXM4-40GB", "A100"), ("NVIDIA L40S", None)],
)
def test_a_card_is_known_by_its_whole_name(name, card):
    assert known(name) == card


def test_the_plan_says_it_of_cards_and_of_this_one():
    recipe = load_recipe("qwen7b_16gb")
    dims = Dimensions.of(recipe.model.base)
    [(stage, step, steps)] = rl_seconds(recipe, dims, "T4")
    line = f"   T4: {stage}, {lasting(step)} a step, {lasting(step * steps)} for 500 steps"
    assert line in text(recipe, dims)
    said = predicted(recipe, dims, "Tesla T4")
    assert said.startswith("peak 8.5 GiB by the plan, RL about ") and lasting(step * steps) in said
    assert predicted(recipe, dims, "NVIDIA L40S") == predicted(recipe, dims) == "peak 8.5 GiB by the plan"
    toy = load_recipe("tiny_cpu")
    assert "a step, " not in text(toy, Dimensions.of("toy"))  # a laptop is none of these cards


@pytest.mark.parametrize(("value", "words"), [(4.4, "4 s"), (200, "3 min"), (9000, "2 h")])
def test_times_in_words(value, words):
    assert lasting(value) == words
