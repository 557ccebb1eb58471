import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hart_lite.config import environment, resources
from hart_lite.config.environment import check_machine
from hart_lite.config.recipe import dump_recipe, load_recipe
from hart_lite.config.reference import reference
from hart_lite.config.resources import shipped_recipes
from hart_lite.config.schema import Recipe
from hart_lite.errors import HartError


def problems(*overrides, name="tiny_cpu"):
    with pytest.raises(HartError) as caught:
        load_recipe(name, overrides)
    return str(caught.value)


def test_every_shipped_recipe_loads_by_path_and_by_name():
    paths = shipped_recipes()
    names = {"tiny_cpu", "qwen3b_lora", "qwen7b_lora", "qwen7b_16gb", "qwen7b_80gb", "qwen32b_lora", "qwen72b_lora"}
    names |= {"internvl3_8b", "internvl3_38b", "internvl35_8b", "llava_onevision_7b", "llava_onevision_72b"}
    names |= {"qwen3vl_2b", "qwen3vl_4b", "qwen3vl_8b", "qwen3vl_32b"}
    assert {p.stem for p in paths} == names
    for path in paths:
        assert load_recipe(path) == load_recipe(path.stem) == load_recipe(path.name)
        assert load_recipe(path).name == path.stem


def test_a_dumped_recipe_is_the_same_recipe(tmp_path):
    for path in shipped_recipes():
        recipe = load_recipe(path, ["data.toy.objects=[2, 4]", "seed=7"])
        dump_recipe(recipe, tmp_path / "recipe.yaml")
        assert load_recipe(tmp_path / "recipe.yaml") == recipe
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]


def test_defaults_are_those_of_the_method():
    recipe = load_recipe("tiny_cpu")
    assert (recipe.loop, recipe.objective, recipe.k, recipe.beta) == ("hart", "ap_grpo", 0.6, 0.01)
    assert (recipe.rollout.samples, recipe.data.rl_size, recipe.rollout.max_box_share) == (8, 10_000, 1.0)
    assert recipe.train_turns == ["locate", "verify"]


def test_overrides_reach_sections_and_list_items():
    recipe = load_recipe(
        "tiny_cpu",
        [
            "stages.0.steps=20",
            "stages.0.lr=1e-4",
            "model.lora.parts=[language, vision]",
            "data.sft=",
            "output=x/{name}",
        ],
    )
    assert (recipe.stages[0].steps, recipe.stages[0].lr) == (20, 1e-4)
    assert recipe.stages[1].kind == "sft"
    assert recipe.model.lora.parts == ["language", "vision"]
    assert recipe.data.sft is None
    assert recipe.run_dir.as_posix() == "x/tiny_cpu"


def test_the_world_to_evaluate_on_begins_as_the_one_to_train_on(tmp_path):
    """Also from a saved recipe, which says null; and what was saved is whole."""
    assert load_recipe("tiny_cpu").data.eval_toy is None
    dump_recipe(load_recipe("tiny_cpu"), tmp_path / "saved.yaml")
    overrides = ["data.toy.size=336", "data.eval_toy.colours=[red, blue]", "data.eval_toy.glyphs=8"]
    for name in ("tiny_cpu", tmp_path / "saved.yaml"):
        data = load_recipe(name, overrides).data
        assert (data.toy.size, data.toy.colours, data.toy.glyphs) == (336, None, None)
        assert data.eval_toy == data.toy.model_copy(update={"colours": ["red", "blue"], "glyphs": 8})
        assert data.eval_toy.eval_scenes == 300  # of tiny_cpu, not the default
    made = load_recipe("tiny_cpu", overrides)
    dump_recipe(made, tmp_path / "made.yaml")
    assert load_recipe(tmp_path / "made.yaml") == made
    assert Recipe.model_validate(made.model_dump() | {"data": {"toy": made.data.toy, "eval_toy": {}}})


@pytest.mark.parametrize("loop", ["mgpo", "direct"])
def test_the_baselines_are_overrides(loop):
    recipe = load_recipe("tiny_cpu", [f"loop={loop}", "objective=grpo"])
    assert (recipe.loop, recipe.objective) == (loop, "grpo")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.sampels=4", "unknown key rollout.sampels; did you mean rollout.samples?"),
        ("sampels=4", "unknown key sampels; did you mean rollout.samples?"),
        ("stages.0.lrr=1", "unknown key stages.0.lrr; did you mean stages.0.lr?"),
        ("model.lora.rank=4", "unknown key model.lora.rank (known here: r, alpha, dropout, parts)"),
        ("data.eval_toy.colurs=[red]", "unknown key data.eval_toy.colurs; did you mean data.eval_toy.colours?"),
        ("gradient_checkpointing=true", "gradient_checkpointing lives at model.gradient_checkpointing"),
        ("stages.0.context=full", "context lives at stages.N(sft).context"),
        ("loop=hrt", "loop = 'hrt': should be 'hart', 'mgpo' or 'direct'"),
        ("k=1", "k = 1: should be less than 1"),
        ("k=-0.1", "k = -0.1: should be greater than or equal to 0"),
        ("k=.nan", "k = nan: should be a finite number"),
        ("pixels.crop=783", "pixels.crop = 783: should be greater than or equal to 784"),
        ("pixels.full=100", "pixels.full = 100: should be greater than or equal to 784"),
        ("stages.1.keep_locate=1.5", "stages.1.keep_locate = 1.5: should be less than or equal to 1"),
        ("stages.0.kind=rll", "stages.0.kind = 'rll': should be 'rl', 'sft' or 'distil'"),
        ("stages.3.steps=4", "'3' should be the index of an item, 0 to 2"),
        ("name=a/b", "name = 'a/b': String should match pattern"),
        ("seed.x=1", "seed = {'x': 1}: should be a valid integer"),
        ("seed", "override 'seed' should look like section.key=value"),
        ("seed=[", "'[' is not a YAML value"),
        ("seed=" + "9" * 5000, " .. 9999"),
        ("loop=" + "x" * 5000, "xxx .. xxx"),
        ("loop.x.y=1", "loop = {'x': {'y': 1}}: should be 'hart', 'mgpo' or 'direct'"),
        ("model.dtype.x=1", "model.dtype is 'float32', not a section"),
        ("rollout.servers=[localhost:8000]", "rollout.servers.0"),
        ("rollout.servers=['http://me:secret@host']", "rollout.servers.0"),
    ],
)
def test_a_mistake_is_named_with_the_way_out(override, message):
    text = problems(override)
    assert message in text
    assert len(text) < 700


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["rollout.verify=score", "loop=mgpo"],
            "stages.0: rollout.verify = 'score' pays crops by what can be answered from them, and loop = 'mgpo' "
            "answers with the image in sight",
        ),
        (["rollout.verify=score", "stages.0.loop=direct"], "and loop = 'direct' has no boxes; use loop = 'hart'"),
        (["rollout.control_region=true", "loop=mgpo"], "rollout.control_region = true pays crops by what"),
        (["rollout.verify=score", "reward=a.py:b"], "no text to give to reward = 'a.py:b'; leave one of them out"),
        (["rollout.verify=score", "train_turns=[verify]"], "only 'locate' can be in train_turns; add it"),
        (
            ["rollout.max_overlap=0.5", "loop=direct"],
            "rollout.max_overlap is about boxes, and loop = 'direct' has no boxes",
        ),
        (["rollout.box_budget=4"], "rollout.box_budget = 4 is never passed, since rollout.max_boxes = 4"),
        (
            ["rollout.top_p=0.7"],
            "stages.0: rollout.top_p = 0.7 draws from a part of the words",
        ),
        (["beta=0"], "stages.0: objective = 'ap_grpo' with beta = 0 has no KL to weigh"),
        (["stages.0.objective=ap_grpo", "objective=grpo", "beta=0"], "stages.0: objective = 'ap_grpo' with beta = 0"),
        (["rollout.samples=1"], "rollout.samples = 1 gives nothing to compare; use 2 or more"),
        (["data.sft=toy"], "RL and SFT would share questions; leave data.sft out"),
        (["pixels.min=5000"], "pixels.min = 5000 is over pixels.crop = 4704"),
        (["loop=direct", "train_turns=[locate]"], "loop = 'direct' has no locate turn"),
        (["stages.1.micro_batch_size=3"], "stages.1: batch_size = 16 is no multiple of micro_batch_size = 3"),
        (["stages.0.lr_scheduler=constant", "stages.0.warmup_steps=5"], "use 'constant_with_warmup'"),
        (["data.format=mme_realworld"], "data.lite (the JSON of Lite) belong together"),
        (["train_turns=[locate, locate]"], "train_turns = ['locate', 'locate'] names one twice; name each once"),
        (["rollout.servers=['http://a:1', 'http://a:1']"], "rollout.servers = ['http://a:1', 'http://a:1'] names one"),
        (["rollout.engine=vllm", "model.lora.r=600"], "model.lora.r = 600 is over the 512 that vLLM serves"),
        (["rollout.engine=vllm", "loop=mgpo"], "stages.0: loop = 'mgpo' goes on in one conversation"),
        (["evaluate.modes=[full, full]"], "evaluate.modes = ['full', 'full'] names one twice"),
        (["data.eval_toy.objects=[5, 2]"], "data.eval_toy.objects = [5, 2] should be [fewest, most]"),
        (["data.eval=a.jsonl", "data.eval_toy.seed=1"], "data.eval = 'a.jsonl' and data.eval_toy both say"),
        (["data.toy.objects=[5, 2]"], "data.toy.objects = [5, 2] should be [fewest, most]"),
    ],
)
def test_contradictions_are_refused(overrides, message):
    assert message in problems(*overrides)


def test_what_only_rl_needs_is_not_asked_of_sft_alone():
    sft = ["stages=[{kind: sft}]", "beta=0", "rollout.samples=1"]
    assert load_recipe("tiny_cpu", sft).stages[0].kind == "sft"
    assert load_recipe("tiny_cpu", ["objective=grpo", "beta=0"]).beta == 0


def test_the_same_file_for_rl_and_sft_is_refused_under_another_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").touch()
    assert "RL and SFT would share" in problems("data.train=rows.jsonl", f"data.sft={tmp_path}/rows.jsonl")


def test_all_problems_come_at_once():
    text = problems("foo", "stages.9.x=1", "sampels=3", "loop=hrt", "stages.0.steps=0", "beta=0", "rollout.samples=1")
    assert text.count("\n  - ") == 7
    assert "with beta = 0" in text


def test_files_that_are_no_recipes(tmp_path):
    path = tmp_path / "mine.yaml"
    for content, message in [
        ("- 1", "should hold `key: value` lines"),
        ("", "holds None"),
        ("a: [", "cannot be read as YAML"),
        ("seed: 1\nseed: 2\n", "key 'seed' is given twice"),
        ("seed: 1\n", "stages is missing"),
        ("stages: [3]\n", "stages.0 = 3: should be a valid dictionary"),
        ("stages: [{steps: 3}]\n", "stages.0.kind = None: should be 'rl', 'sft' or 'distil'"),
        ("stages: []\n", "stages = []: List should have at least 1 item"),
    ]:
        path.write_text(content)
        assert message in problems(name=path)
    path.write_bytes(b"\xff\xfe\x00")
    assert str(path) in problems(name=path)
    with pytest.raises(HartError, match="did you mean 'tiny_cpu'"):
        load_recipe("tiny_cp")


def test_an_installed_package_finds_its_own_recipes(tmp_path, monkeypatch):
    (tmp_path / "_recipes").mkdir()
    (tmp_path / "_recipes" / "own.yaml").write_text("stages: [{kind: rl}]")
    monkeypatch.setattr(resources, "PACKAGE", tmp_path)
    assert load_recipe("own").name == "own"


def test_loading_needs_no_torch():
    code = "import sys, hart_lite.config.recipe as r; r.load_recipe('tiny_cpu'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def machine(monkeypatch, capability, missing=()):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(
        environment, "find_spec", lambda name: None if name in missing else importlib.util.find_spec("json")
    )


def test_a_card_of_compute_capability_7_5_refuses_bfloat16_and_flash_attention(monkeypatch):
    machine(monkeypatch, (7, 5))
    check_machine(load_recipe("qwen7b_16gb"))
    with pytest.raises(HartError) as caught:
        check_machine(load_recipe("qwen7b_lora", ["model.attention=flash_attention_2"]))
    assert "Tesla T4 cannot compute in it; use model.dtype=float16" in str(caught.value)
    assert "this run has Tesla T4; use model.attention=sdpa" in str(caught.value)


def test_missing_packages_are_named_with_their_install_command(monkeypatch):
    machine(monkeypatch, (9, 0), missing=("flash_attn", "bitsandbytes", "wandb"))
    overrides = ["model.attention=flash_attention_2", "model.quant=nf4", "report_to=[wandb]"]
    with pytest.raises(HartError) as caught:
        check_machine(load_recipe("qwen7b_lora", overrides))
    for package in ("flash-attn --no-build-isolation", "bitsandbytes", "wandb"):
        assert f"`pip install {package}`" in str(caught.value)


def test_without_a_card(monkeypatch):
    machine(monkeypatch, None)
    check_machine(load_recipe("tiny_cpu", ["model.dtype=bfloat16"]))
    with pytest.raises(HartError, match="torch sees no CUDA card"):
        check_machine(load_recipe("tiny_cpu", ["model.device=cuda"]))
    with pytest.raises(HartError, match="this run has no CUDA card"):
        check_machine(load_recipe("tiny_cpu", ["model.attention=flash_attention_2"]))


def test_the_reference_page_is_that_of_the_typed_recipe():
    page = Path(__file__).parents[2] / "recipes/README.md"
    assert page.read_text(encoding="utf-8") == reference(), "hart-lite recipes --reference > recipes/README.md"


def test_the_reference_says_of_every_key_what_it_takes_and_means():
    rows = [line.strip("| ").split(" | ") for line in reference().splitlines() if line.startswith("| `")]
    assert all(len(row) == 4 and all(row) for row in rows)
    assert all(line.endswith(" |") for line in reference().splitlines() if line.startswith("|"))
    assert ["`k`", "number, at least 0, below 1", "`0.6`", "Strength of the asymmetric weights of ap_grpo."] in rows

    def leaves(section):
        for key, value in section.items():
            stages = [s for s in value if isinstance(s, dict)] if isinstance(value, list) else []
            nested = [value] if isinstance(value, dict) and value else stages
            yield from [key] if not nested else [leaf for part in nested for leaf in leaves(part)]

    known = {row[0].strip("`") for row in rows}
    assert set(leaves(load_recipe("tiny_cpu").model_dump())) <= known | {"eval_toy"}
