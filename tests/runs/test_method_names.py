"""How a run was made, in the words of the paper's tables, and what goes beyond them."""

import pytest

from hart_lite.config.recipe import load_recipe
from hart_lite.runs.methods import stage_method


@pytest.mark.parametrize(
    ("overrides", "methods"),
    [
        ([], ["AP-GRPO", "SFT", "SFT"]),
        (["loop=mgpo", "objective=grpo"], ["MGPO", "SFT", "SFT"]),
        (["rollout.verify=score"], ["AP-GRPO, scored", "SFT", "SFT"]),
        (["rollout.verify=score", "rollout.control_region=true"], ["AP-GRPO, scored, control region", "SFT", "SFT"]),
        (["stages.2={kind: distil}", "objective=grpo"], ["grpo in the loop hart", "SFT", "distillation"]),
    ],
)
def test_a_method_is_named_with_all_that_it_is(overrides, methods):
    recipe = load_recipe("tiny_cpu", overrides)
    assert [stage_method(recipe, stage) for stage in recipe.stages] == methods
