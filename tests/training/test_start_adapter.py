"""Training that starts from an adapter: its weights, its base, its rank and its modules, or a clear refusal."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from small_runs import make_up, metrics, rl_stage, small_recipe, without_timings

from hart_lite.config.sections import ModelSection
from hart_lite.errors import HartError
from hart_lite.export.merge import merge
from hart_lite.models.loading import load_policy
from hart_lite.runs.run_dir import save_adapter
from hart_lite.training.train import train

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def _made_up(monkeypatch):
    make_up(monkeypatch.setattr)


def section(base: Path, **changes) -> dict:
    return {"base": str(base), "dtype": "float32", "device": "cpu", "lora": {"r": 4}} | changes


@pytest.fixture
def adapter(tiny_base, tmp_path) -> Path:
    """One that changes what the base says."""
    policy = load_policy(ModelSection.model_validate(section(tiny_base)), seed=5)
    with torch.no_grad():
        for parameter in policy.adapter_parameters:
            parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    save_adapter(policy, tmp_path / "adapter")
    return tmp_path / "adapter"


def recipe_from(base: Path, adapter: Path, run: Path, lora: dict | None = None, **changes):
    model = section(base, adapter=str(adapter), lora={"r": 4} | (lora or {}))
    stages = [rl_stage(steps=2, log_rollouts_every=0)]
    return small_recipe(base, run, stages, model=model, evaluate={"modes": ["full"], "watch": 0}, **changes)


def test_it_starts_where_the_adapter_ended(tiny_base, adapter, tmp_path):
    recipe = recipe_from(tiny_base, adapter, tmp_path / "run", beta=0.5)
    train(recipe)
    fresh = small_recipe(tiny_base, tmp_path / "fresh", [rl_stage(steps=2, log_rollouts_every=0)], beta=0.5)
    train(fresh)
    begun = [metrics(one.run_dir)[0].get("kl", 0) for one in (recipe, fresh)]
    assert begun[0] > 1e-3 > abs(begun[1])  # measured from the base, not from the adapter
    before = json.loads((recipe.run_dir / "evaluation/before/eval.json").read_text())
    assert before["model"] == str(adapter)
    start, end = load_file(adapter / WEIGHTS), load_file(recipe.run_dir / "adapter" / WEIGHTS)
    moved = max((end[name] - start[name]).abs().max() for name in start)
    assert 0 < moved < 0.1 and start.keys() == end.keys()  # two steps of Adam with lr 0.01


def test_a_resumed_run_does_not_start_anew(tiny_base, adapter, tmp_path):
    recipe = recipe_from(tiny_base, adapter, tmp_path / "run")
    train(recipe)
    again = recipe.model_copy(update={"output": str(tmp_path / "again")})
    train(again)
    assert without_timings(metrics(recipe.run_dir)) == without_timings(metrics(again.run_dir))
    saved = (again.run_dir / "adapter" / WEIGHTS).read_bytes()
    shutil.rmtree(again.run_dir / "adapter")
    train(again, resume=True)
    assert (again.run_dir / "adapter" / WEIGHTS).read_bytes() == saved
    weights = load_file(adapter / WEIGHTS)
    save_file({name: 2 * tensor for name, tensor in weights.items()}, adapter / WEIGHTS)
    with pytest.raises(HartError, match=r"was begun from another adapter: .* has been replaced"):
        train(again, resume=True)
    (adapter / WEIGHTS).unlink()  # its stage is done
    train(again, resume=True)


def test_it_may_be_one_that_peft_saved(tiny_base, adapter, tmp_path):
    """Without a fingerprint, with a list of modules in the place of our pattern."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["target_modules"] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    (adapter / "base.json").unlink()
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    weights = {name: w for name, w in load_file(adapter / WEIGHTS).items() if "self_attn" in name}
    save_file(weights, adapter / WEIGHTS)
    with pytest.raises(HartError, match=r"other modules than model.lora.parts = \['language'\] names, .*mlp"):
        train(recipe_from(tiny_base, adapter, tmp_path / "run"))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"r": 8}, "its r is 4, and model.lora.r = 8: set model.lora.r=4"),
        ({"alpha": 8}, "its alpha is 32.*model.lora.alpha = 8"),
        ({"parts": ["language", "vision"]}, "it is on other modules than model.lora.parts"),
    ],
)
def test_another_rank_or_other_modules_are_refused(tiny_base, adapter, tmp_path, lora, message):
    recipe = recipe_from(tiny_base, adapter, tmp_path / "run", lora)
    with pytest.raises(HartError, match=message):
        train(recipe)
    assert not (tmp_path / "run").exists()


def test_another_base_is_refused(tiny_base, adapter, tmp_path):
    with pytest.raises(HartError, match="holds no adapter"):
        train(recipe_from(tiny_base, tmp_path / "nowhere", tmp_path / "run"))
    made_for = json.loads((adapter / "base.json").read_text())
    (adapter / "base.json").write_text(json.dumps(made_for | {"base": "sha256:0"}))
    with pytest.raises(HartError, match="was trained on another base"):
        train(recipe_from(tiny_base, adapter, tmp_path / "run"))
    other = shutil.copytree(tiny_base, tmp_path / "other")
    with pytest.raises(HartError, match="was trained on base"):
        train(recipe_from(other, adapter, tmp_path / "run"))


def test_what_came_of_it_is_whole(tiny_base, adapter, tmp_path):
    """The run's adapter holds what it started from: merged, it is the base with both."""
    recipe = recipe_from(tiny_base, adapter, tmp_path / "run")
    train(recipe)
    merge(recipe.run_dir, tmp_path / "merged")
    policy = load_policy(recipe.model.model_copy(update={"adapter": None}), recipe.run_dir / "adapter")
    merged = policy.peft.merge_and_unload()
    assert isinstance(policy.peft, PeftModel)
    name = next(name for name, _ in merged.named_parameters() if name.endswith("layers.0.self_attn.q_proj.weight"))
    stored = load_file(tmp_path / "merged/model.safetensors")
    [key] = [key for key in stored if key.endswith("layers.0.self_attn.q_proj.weight")]
    assert torch.allclose(stored[key], dict(merged.named_parameters())[name], atol=1e-5)
