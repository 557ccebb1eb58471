"""What `hart-lite eval` takes for a model, on real folders of each kind, and what it says of the rest."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hub_stand_in import TOKEN, Hub, Repo
from merging import python
from pictures import Photo
from small_runs import small_recipe

from hart_lite.config.recipe import dump_recipe, load_recipe
from hart_lite.config.sections import Rollout
from hart_lite.errors import HartError
from hart_lite.export.merge import merge
from hart_lite.inference import load
from hart_lite.inference.load import open_model
from hart_lite.inference.local_engine import LocalEngine
from hart_lite.inference.openai_engine import ApiEngine
from hart_lite.models.generation import Sampling, generate
from hart_lite.runs.run_dir import save_adapter
from hart_lite.types import ImageView


@pytest.fixture(scope="module")
def run(new_policy, tiny_base, tmp_path_factory) -> Path:
    """A run directory whose adapter changes what the base says, on a base that is a folder."""
    folder = tmp_path_factory.mktemp("run")
    policy = new_policy()
    policy.peft.peft_config["default"].base_model_name_or_path = str(tiny_base)
    changes = {"rollout": {"max_boxes": 3, "tokens_per_batch": 999}}
    dump_recipe(small_recipe(tiny_base, folder, model={"lora": {"r": 16}}, **changes), folder / "recipe.yaml")
    save_adapter(policy, folder / "adapter")
    return folder


def said(model: load.OpenModel) -> list[int]:
    family = model.engine.policy.family
    prompt = family.chat([ImageView(Photo(56, 56), (56, 56)), "What?"])
    return list(generate(model.engine.policy, [prompt], Sampling(8, temperature=0))[0])


def test_a_run_comes_with_its_budgets(run, policy):
    model = open_model(str(run))
    assert isinstance(model.engine, LocalEngine)
    assert (model.family, model.engine.interface.name) == ("qwen2_5_vl", "qwen2_5_vl")
    recipe = load_recipe(run / "recipe.yaml")
    assert (model.pixels, model.rollout) == (recipe.pixels, recipe.rollout)
    assert model.rollout.max_boxes == 3
    image, longest = recipe.pixels.full // 784, max(recipe.rollout.max_tokens_locate, recipe.rollout.max_tokens_answer)
    assert (model.engine.budget.value, model.engine.max_batch) == (999, 999 // (image + longest))
    adapted = {name: p for name, p in model.engine.policy.model.named_parameters() if "lora_B" in name}
    assert adapted and all(torch.equal(p, dict(policy.model.named_parameters())[name]) for name, p in adapted.items())


def test_a_pushed_adapter_is_opened_by_its_id(run, tmp_path):
    """In a process of its own, whose client and cache know the stand-in alone. A whole model stays one."""
    with Hub() as hub:
        files = {path.name: path.read_bytes() for path in (run / "adapter").iterdir()}
        hub.repos["me/looks"] = Repo(files=files, commits=["one"])
        hub.repos["me/whole"] = Repo(files={"config.json": b'{"model_type": "bert"}'}, commits=["one"])
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN, "NO_PROXY": "*"}
        done = python(OPENS, str(run), HF_HUB_OFFLINE="0", **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == ["True", "base 'me/whole' is of type 'bert'"]


OPENS = """
    import sys
    from hart_lite.errors import HartError
    from hart_lite.inference.load import open_model
    print(open_model("me/looks").weights == open_model(sys.argv[1]).weights)
    try:
        open_model("me/whole")
    except HartError as error:
        print(str(error).partition(";")[0])
"""


def test_an_adapter_a_merged_checkpoint_and_the_run_say_the_same(run, tiny_base, new_policy, tmp_path):
    as_run, as_adapter = open_model(str(run)), open_model(str(run / "adapter"))
    assert as_adapter.weights == as_run.weights
    assert (as_adapter.pixels, as_adapter.rollout) == (as_run.pixels, as_run.rollout)
    shutil.copytree(run / "adapter", tmp_path / "elsewhere")
    alone = open_model(str(tmp_path / "elsewhere"))
    assert (alone.pixels, alone.rollout) == (None, Rollout())
    whole = new_policy()
    whole.family.save_processor(tmp_path / "merged")
    whole.peft.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged, base = open_model(str(tmp_path / "merged")), open_model(str(tiny_base))
    assert said(as_run) == said(as_adapter) == said(alone) == said(merged) != said(base)
    merge(run, tmp_path / "recorded")
    recorded = open_model(str(tmp_path / "recorded"))
    assert (recorded.pixels, recorded.rollout) == (as_run.pixels, as_run.rollout)
    assert said(recorded) == said(as_run)
    assert set(merged.weights) == {"base"}
    assert len({model.weights["base"] for model in (as_run, merged, base)}) == 2
    assert as_run.weights["base"] == base.weights["base"]


def test_the_toy_base_has_the_budgets_of_its_recipe(tmp_path):
    tiny = load_recipe("tiny_cpu")
    model = open_model("toy", device="cpu")
    assert (model.pixels, model.rollout) == (tiny.pixels, tiny.rollout)
    save_adapter(model.engine.policy, tmp_path / "adapter")
    adapter = open_model(str(tmp_path / "adapter"))
    assert adapter.pixels == tiny.pixels
    assert set(adapter.weights) == {"base", "adapter"}


def test_quant_and_device_replace_what_the_recipe_says(run, monkeypatch):
    sections = []
    monkeypatch.setattr(load, "load_policy", lambda section, adapter, **rest: sections.append(section) or 1 / 0)
    for asked in ({}, {"quant": "nf4", "device": "auto"}):
        with pytest.raises(ZeroDivisionError):
            open_model(str(run), **asked)
    assert [(s.quant, s.device, s.backend, s.gradient_checkpointing) for s in sections] == [
        ("none", "cpu", "transformers", False), ("nf4", "auto", "transformers", False)]  # fmt: skip


def test_a_model_behind_an_api(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8000/v1")
    model = open_model("api:some/model", box_format="relative")
    assert isinstance(model.engine, ApiEngine)
    assert (model.family, model.engine.model, model.engine.interface.name) == ("api", "some/model", "relative")
    assert (model.pixels, model.weights) == (None, {"server": "http://localhost:8000/v1"})
    with pytest.raises(HartError, match="api: names no model"):
        open_model("api:")
    with pytest.raises(HartError, match="unknown box format 'padded'; allowed: absolute, relative"):
        open_model("api:x", box_format="padded")


def test_what_is_no_model(run, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    cases = {
        "": "there is no model ''; give a run directory",
        "no such thing": "there is no model 'no such thing'",
        str(tmp_path / "file"): "there is no model",
        str(tmp_path / "missing"): "there is no model",
        "x" * 10_000: "there is no model",
        "a\0b": "there is no model",
        str(tmp_path / "empty"): "holds no model: neither recipe.yaml",
        "nobody/nothing": "base 'nobody/nothing' cannot be read",
        str(run / "recipe.yaml"): "there is no model",
    }
    for spec, message in cases.items():
        with pytest.raises(HartError) as caught:
            open_model(spec)
        assert message in str(caught.value), spec
        assert len(str(caught.value)) < 1500


def test_a_run_that_is_not_finished(run, tmp_path):
    shutil.copy(run / "recipe.yaml", tmp_path)
    with pytest.raises(HartError, match=r"has no adapter yet; finish it: hart-lite train .*recipe.yaml --resume"):
        open_model(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "adapter_config.json is damaged"),
        ("[" * 100_000, "adapter_config.json is damaged"),
        ("[]", "does not name the base of the adapter"),
        ("{}", "does not name the base of the adapter"),
        ('{"base_model_name_or_path": 7}', "does not name the base of the adapter"),
        ('{"base_model_name_or_path": "no/such"}', "base 'no/such' cannot be read"),
    ],
)
def test_an_adapter_that_cannot_be_used(run, tmp_path, monkeypatch, config, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shutil.copytree(run / "adapter", tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text(config)
    with pytest.raises(HartError, match=message):
        open_model(str(tmp_path / "adapter"))


def test_an_adapter_without_weights_or_on_a_replaced_base(run, tiny_base, tmp_path):
    shutil.copytree(run / "adapter", tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(HartError, match=r"holds no adapter: adapter_model.safetensors is missing"):
        open_model(str(tmp_path / "adapter"))
    shutil.copytree(run / "adapter", tmp_path / "other")
    shutil.copytree(tiny_base, tmp_path / "base")
    written = tmp_path / "other" / "adapter_config.json"
    written.write_text(
        json.dumps(json.loads(written.read_text()) | {"base_model_name_or_path": str(tmp_path / "base")})
    )
    open_model(str(tmp_path / "other"))  # the same base in another place
    weights = bytearray((tmp_path / "base" / "model.safetensors").read_bytes())
    weights[len(weights) // 2 : len(weights) // 2 + 1000] = bytes(1000)
    (tmp_path / "base" / "model.safetensors").write_bytes(weights)
    with pytest.raises(HartError, match="have been replaced since"):
        open_model(str(tmp_path / "other"))
