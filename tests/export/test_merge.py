"""Merged is base plus adapter: in every weight, in every name, in what the model says. What is more is refused."""

import json
import shutil

import pytest
import torch
from merging import deltas, edit_config, make_adapter, make_base, peft_adapter, weights
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration

from hart_lite.errors import HartError
from hart_lite.export.lora import MergedTensor, read_lora
from hart_lite.export.merge import merge
from hart_lite.export.shards import INDEX, SINGLE, Checkpoint
from hart_lite.export.tensor_names import TensorNames
from hart_lite.export.verify import check_logits
from hart_lite.models.families.qwen2_5_vl import Qwen25VL
from hart_lite.utils.files import write_whole


def edit_tensors(folder, change):
    """`change` gets the adapter's tensors by name and may alter the dictionary."""
    path = folder / "adapter_model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


@pytest.fixture
def copied(adapter, tmp_path):
    """A copy of the adapter to spoil."""
    return shutil.copytree(adapter, tmp_path / "copied")


# -- the sum -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_weight_is_the_base_plus_the_adapter_rounded_once(tmp_path, dtype):
    base = make_base(tmp_path / "base", dtype)
    make_adapter(base, tmp_path / "adapter")
    check = merge(tmp_path / "adapter", tmp_path / "out")
    before, after, added = weights(base), weights(tmp_path / "out"), deltas(tmp_path / "adapter")
    assert before.keys() == after.keys() and added.keys() <= before.keys()
    assert len(added) == 4 * 7 + 4 * 5 + 2  # layers of both towers, the projector
    for name, tensor in before.items():
        assert after[name].dtype == dtype
        if name not in added:
            assert torch.equal(after[name], tensor), name
            continue
        exact = tensor.double() + added[name]
        assert (exact - tensor.double()).abs().max() > 0.005, name
        # float32 first, so the nearest value of the dtype or, at a tie's edge, its neighbour
        wrong = (after[name].double() - exact).abs() / (torch.finfo(dtype).eps * exact.abs() + 1e-6)
        assert wrong.max() < (4 if dtype == torch.float32 else 0.51), name
    assert check.changed == len(added) and check.tensors == len(before)
    assert check.logits.difference < check.logits.allowed / 2 < check.logits.moved / 10


def test_the_files_keep_their_names_order_metadata_and_company(base, adapter, tmp_path):
    merge(adapter, tmp_path / "out")
    shards = sorted(path.name for path in base.glob("*.safetensors"))
    assert len(shards) >= 4
    assert shards == sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    for shard in shards:
        headers = []
        for folder in (base, tmp_path / "out"):
            data = (folder / shard).read_bytes()
            headers.append(data[: 8 + int.from_bytes(data[:8], "little")])
        assert headers[0] == headers[1]
        names = load_file(tmp_path / "out" / shard)
        assert all(name.startswith(("model.layers.", "model.embed", "model.norm", "visual.")) for name in names)
    same = [INDEX, "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    for name in (*same, "chat_template.jinja", "preprocessor_config.json"):
        assert (base / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_licence_travels_and_other_files_do_not(base, adapter, tmp_path):
    own = shutil.copytree(base, tmp_path / "base")
    for name in ("LICENSE", "LICENCE.md", "NOTICE", "merges.txt", "pytorch_model.bin", "README.md", "run.py"):
        (own / name).write_text(name)
    edit_config(shutil.copytree(adapter, tmp_path / "adapter"), base_model_name_or_path=str(own))
    merge(tmp_path / "adapter", tmp_path / "out")
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"LICENSE", "LICENCE.md", "NOTICE", "merges.txt"} <= there
    assert not there & {"pytorch_model.bin", "README.md", "run.py", "adapter_config.json"}


def test_one_file_goes_before_an_index_as_transformers_has_it(base, adapter, tmp_path):
    own = shutil.copytree(base, tmp_path / "base")
    save_file(weights(base), own / SINGLE, {"format": "pt"})
    mine = shutil.copytree(adapter, tmp_path / "adapter")
    edit_config(mine, base_model_name_or_path=str(own))
    (mine / "base.json").unlink()
    merge(mine, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("model*")] == [SINGLE]
    assert weights(tmp_path / "out").keys() == weights(base).keys()


def test_names_as_the_model_has_them_are_kept_too(base, adapter, tmp_path):
    """Checkpoints saved by other tools have the module names of transformers 5."""
    own = shutil.copytree(base, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors", INDEX))
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    save_file({k: v.clone() for k, v in model.state_dict().items() if k != "lm_head.weight"}, own / SINGLE)
    mine = shutil.copytree(adapter, tmp_path / "adapter")
    edit_config(mine, base_model_name_or_path=str(own))
    (mine / "base.json").unlink()
    merge(mine, tmp_path / "out")
    merge(adapter, tmp_path / "hub")
    modern, hub = weights(tmp_path / "out"), weights(tmp_path / "hub")
    assert all(name.startswith(("model.language_model.", "model.visual.")) for name in modern)
    renamed = {
        n.replace("model.language_model.", "model.").replace("model.visual.", "visual."): t for n, t in modern.items()
    }
    assert renamed.keys() == hub.keys() and all(torch.equal(renamed[name], hub[name]) for name in hub)


def test_a_head_of_its_own_is_merged_and_a_shared_one_refused(base, tmp_path):
    own = make_base(tmp_path / "base", tied=False)
    assert "lm_head.weight" in weights(own)
    peft_adapter(own, tmp_path / "own", r".*lm_head|.*layers\.0\.mlp\.up_proj")
    merge(tmp_path / "own", tmp_path / "out")
    before, after = weights(own), weights(tmp_path / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"lm_head.weight", "model.layers.0.mlp.up_proj.weight"}
    exact = before["lm_head.weight"].double() + deltas(tmp_path / "own")["lm_head.weight"]
    assert (after["lm_head.weight"].double() - exact).abs().max() < 1e-6
    peft_adapter(base, tmp_path / "shared", r".*lm_head")
    with pytest.raises(HartError, match=r"lm_head.weight, which is one tensor for words going in and coming out"):
        merge(tmp_path / "shared", tmp_path / "no")
    assert not (tmp_path / "no").exists()


# -- 4 bits --------------------------------------------------------------------------------------------------------


def test_dequant_is_what_training_ran_on_and_is_not_quantised_again(base, tmp_path):
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    policy = make_adapter(base, tmp_path / "adapter", quant="nf4")
    added, before = deltas(tmp_path / "adapter"), weights(base)
    trained_on = {
        name: dequantize_4bit(module.weight.data, module.weight.quant_state).double()
        for name, module in policy.model.named_modules()
        if isinstance(module, Linear4bit)
    }
    assert len(trained_on) == 28
    check = merge(tmp_path / "adapter", tmp_path / "out", "dequant")
    after = weights(tmp_path / "out")
    for module, weight in trained_on.items():
        name = module.removesuffix(".base_layer").replace("model.language_model.", "model.") + ".weight"
        exact = weight + added.pop(name)
        assert (after[name].double() - exact).abs().max() < 1e-6, name
        assert (before[name].double() - weight).norm() > 0.05 * weight.norm()  # 4 bits are not 32
    assert added and all(name.startswith("visual.") for name in added)  # seen in 32 bits, and so merged
    for name, delta in added.items():
        assert (after[name].double() - before[name].double() - delta).abs().max() < 1e-6
    untouched = {n for n in before if "norm" in n or "bias" in n or "embed" in n}
    assert all(torch.equal(before[name], after[name]) for name in untouched)
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    assert check.logits.difference < 1e-5 < 0.01 < check.logits.moved


def test_plain_differs_from_dequant_by_the_error_of_4_bits(base, tmp_path):
    make_adapter(base, tmp_path / "adapter", quant="nf4")
    merge(tmp_path / "adapter", tmp_path / "plain")
    merge(tmp_path / "adapter", tmp_path / "dequant", "dequant")
    name = "model.layers.2.mlp.down_proj.weight"
    plain, dequant = weights(tmp_path / "plain")[name], weights(tmp_path / "dequant")[name]
    exact = weights(base)[name].double() + deltas(tmp_path / "adapter")[name]
    assert (plain.double() - exact).abs().max() < 1e-6
    assert 0.03 < (dequant - plain).norm() / plain.norm() < 0.2


def test_a_run_that_did_not_quantise_has_nothing_to_dequantise(adapter, tmp_path, base):
    from small_runs import small_recipe

    from hart_lite.config.recipe import dump_recipe

    run = tmp_path / "run"
    run.mkdir()
    shutil.copytree(adapter, run / "adapter")
    for model, message in (
        ({"base": str(base)}, "trained on an unquantised base"),
        ({"base": str(base), "quant": "nf4", "backend": "unsloth", "device": "auto"}, "unsloth decides by itself"),
    ):
        dump_recipe(small_recipe(base, run, model=model), run / "recipe.yaml")
        with pytest.raises(HartError, match=message):
            merge(run, tmp_path / "out", "dequant")
    assert not (tmp_path / "out").exists()


# -- the check -----------------------------------------------------------------------------------------------------


def wrong_sign(self, weight):
    return (weight.float() - self.scale * (self.pair.B @ self.pair.A)).to(weight.dtype)


def wrong_scale(self, weight):
    return (weight.float() + 1.02 * self.scale * (self.pair.B @ self.pair.A)).to(weight.dtype)


def forgotten(self, weight):
    return weight


@pytest.mark.parametrize("wrong", [wrong_sign, wrong_scale, forgotten])
def test_a_wrong_sum_is_found_and_leaves_nothing(adapter, tmp_path, monkeypatch, wrong):
    monkeypatch.setattr(MergedTensor, "__call__", wrong)
    with pytest.raises(
        HartError, match=r"is not W \+ scale \* B @ A: the error is [\d.e+]+ times what rounding explains"
    ):
        merge(adapter, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_logits_alone_find_a_wrong_sum(base, adapter, tmp_path):
    """B negated in the merge, and its own check passes; against the true adapter it does not."""
    other = shutil.copytree(adapter, tmp_path / "other")
    edit_tensors(other, lambda tensors: [t.neg_() for name, t in tensors.items() if "lora_B" in name])
    merge(other, tmp_path / "out")
    names, merged = (TensorNames.of(Checkpoint.open(folder)) for folder in (base, tmp_path / "out"))
    sums = {name: MergedTensor(name, None, 1.0, False) for name in names.stored.values()}  # nothing is read otherwise
    with pytest.raises(HartError, match="does not say what the adapter on its base says: logits differ by 0"):
        check_logits(merged, adapter, names, sums, Qwen25VL(str(base)))
    assert check_logits(merged, other, names, sums, Qwen25VL(str(base))).difference < 1e-5


def test_a_tensor_that_should_stay_and_does_not_is_found(base, adapter, tmp_path, monkeypatch):
    def copy_and_spoil(self, shard, folder, changes):
        original(self, shard, folder, changes)
        path = folder / shard
        tensors = load_file(path)
        for name in tensors:
            if "norm" in name:
                tensors[name] += 0.001
        save_file(tensors, path, {"format": "pt"})

    original = Checkpoint.copy_shard
    monkeypatch.setattr(Checkpoint, "copy_shard", copy_and_spoil)
    with pytest.raises(HartError, match="was to stay as it is in the base"):
        merge(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_check_says_what_was_looked_at(adapter, tmp_path):
    text = merge(adapter, tmp_path / "out").text()
    assert "50 of 104 tensors changed" in text and "logits: merged against adapter on the base" in text


def test_an_adapter_before_its_first_step_is_merged_with_a_note(base, tmp_path):
    make_adapter(base, tmp_path / "adapter", std=0.0)
    check = merge(tmp_path / "adapter", tmp_path / "out")
    assert "every B is zero" in check.text() and "say little of so small an adapter" in check.text()
    before, after = weights(base), weights(tmp_path / "out")
    assert all(torch.equal(before[name], after[name]) for name in before)


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"use_rslora": True}, "use_rslora = True"),
        ({"use_dora": True}, "use_dora = True"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"something_of_next_year": 3}, "something_of_next_year = 3"),
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
    ],
)
def test_more_than_plain_lora_is_refused_by_name(copied, tmp_path, changes, named):
    edit_config(copied, **changes)
    with pytest.raises(HartError, match="more than plain LoRA") as refused:
        merge(copied, tmp_path / "out")
    assert named in str(refused.value)


def test_dora_as_peft_saves_it_is_refused(base, tmp_path):
    peft_adapter(base, tmp_path / "dora", r".*layers\.0\.mlp\.up_proj", use_dora=True)
    with pytest.raises(HartError, match="use_dora = True"):
        merge(tmp_path / "dora", tmp_path / "out")


def first(tensors, side="lora_B"):
    return next(name for name in tensors if side in name)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t[first(t)].fill_(float("nan")), "holds infinite or NaN values"),
        (lambda t: t.pop(first(t)), "only one of A and B"),
        (lambda t: t.update({"base_model.model.x.lora_magnitude_vector": torch.ones(3)}), "not a LoRA matrix"),
        (lambda t: t.update({first(t): torch.zeros(128, 5)}), "not a LoRA matrix of a linear layer of rank 4"),
        (lambda t: t.update({first(t): torch.zeros(77, 4)}), r"is \(77, .*belongs to another base"),
        (lambda t: t.clear(), "is empty"),
        (
            lambda t: t.update({n.replace("model.language_model.", "model."): t.pop(n) for n in list(t)}),
            "which the base in .* does not have",
        ),
        (lambda t: [tensor.fill_(3e38) for tensor in t.values()], "the sum does not fit torch.float32"),
    ],
)
def test_an_adapter_that_cannot_be_right_is_refused(copied, tmp_path, spoil, message):
    edit_tensors(copied, spoil)
    with pytest.raises(HartError, match=message):
        merge(copied, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_a_folder_that_is_no_adapter_or_a_damaged_one(copied, tmp_path):
    with pytest.raises(HartError, match="neither a run directory nor the folder of an adapter"):
        merge(tmp_path, tmp_path / "out")
    (copied / "adapter_config.json").write_text("{")
    with pytest.raises(HartError, match=r"adapter_config.json is damaged"):
        merge(copied, tmp_path / "out")
    edit_config_text = json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": None})
    (copied / "adapter_config.json").write_text(edit_config_text)
    with pytest.raises(HartError, match="does not name a base"):
        merge(copied, tmp_path / "out")


def test_a_run_that_has_not_ended_says_so_and_names_what_there_is(adapter, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(adapter, run / "stages/1-rl/adapter")
    (run / "recipe.yaml").write_text("")
    with pytest.raises(HartError, match="has not ended") as refused:
        merge(run, tmp_path / "out")
    assert str(run / "stages/1-rl/adapter") in str(refused.value)


def test_another_base_under_the_same_name_is_refused(tmp_path):
    base = make_base(tmp_path / "base")
    make_adapter(base, tmp_path / "adapter")
    tensors = load_file(base / SINGLE)
    tensors["model.norm.weight"] += 0.5
    tensors["model.embed_tokens.weight"] += 0.5
    save_file(tensors, base / SINGLE, {"format": "pt"})
    with pytest.raises(HartError, match=r"was trained on another base: the files of .* have been replaced since"):
        merge(tmp_path / "adapter", tmp_path / "out")


def test_a_quantised_base_is_refused(base, copied, tmp_path):
    own = shutil.copytree(base, tmp_path / "base")
    config = json.loads((own / "config.json").read_text())
    write_whole(own / "config.json", json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    edit_config(copied, base_model_name_or_path=str(own))
    with pytest.raises(HartError, match="is stored quantised"):
        merge(copied, tmp_path / "out")


def test_a_base_that_is_gone_or_of_another_kind(base, copied, tmp_path, monkeypatch):
    edit_config(copied, base_model_name_or_path="/nowhere/base")
    with pytest.raises(HartError, match="'/nowhere/base' is no folder here and cannot be had from the Hub"):
        merge(copied, tmp_path / "out")
    other = tmp_path / "other"
    other.mkdir()
    edit_config(copied, base_model_name_or_path=str(other))
    with pytest.raises(HartError, match="cannot be read"):
        merge(copied, tmp_path / "out")
    (other / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(HartError, match="is of type 'llama'; supported: qwen2_5_vl"):
        merge(copied, tmp_path / "out")


def remove_shard(base):
    sorted(base.glob("*.safetensors"))[1].unlink()


def cut_shard(base):
    path = sorted(base.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-10])


def no_header(base):
    sorted(base.glob("*.safetensors"))[1].write_bytes(b"\xff" * 64)


def edit_index(change):
    def edit(base):
        index = json.loads((base / INDEX).read_text())
        change(index)
        (base / INDEX).write_text(json.dumps(index))

    return edit


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (remove_shard, "is missing: the checkpoint is not whole"),
        (cut_shard, "is damaged"),
        (no_header, "is damaged"),
        (lambda base: (base / INDEX).write_text("[]"), "is damaged"),
        (lambda base: (base / INDEX).unlink(), "holds no safetensors checkpoint"),
        (edit_index(lambda index: index["weight_map"].update(x="../x.safetensors")), "no file name in its folder"),
        (edit_index(lambda index: index["weight_map"].update(x=3)), "is damaged"),
        (
            edit_index(lambda i: i["weight_map"].update(new=sorted(i["weight_map"].values())[0])),
            "lacks 'new', which model.safetensors.index.json says it holds",
        ),
    ],
)
def test_a_base_that_is_not_whole_is_refused(base, copied, tmp_path, harm, message):
    own = shutil.copytree(base, tmp_path / "base")
    edit_config(copied, base_model_name_or_path=str(own))
    (copied / "base.json").unlink()
    harm(own)
    with pytest.raises(HartError, match=message):
        merge(copied, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_name_in_two_shards_is_refused(base, tmp_path):
    own = shutil.copytree(base, tmp_path / "base")
    shards = sorted(own.glob("*.safetensors"))
    one, two = load_file(shards[0]), load_file(shards[1])
    save_file(two | {next(iter(one)): next(iter(one.values()))}, shards[1])
    with pytest.raises(HartError, match=f"is in {shards[0].name} and in {shards[1].name}"):
        Checkpoint.open(own)


def test_scale_and_pairs_are_read_as_peft_wrote_them(adapter):
    lora = read_lora(adapter)
    assert lora.scale == 3.0 and len(lora.pairs) == 50
    pair = lora.pairs["model.visual.merger.mlp.0"]
    assert pair.A.shape == (4, 512) and pair.B.shape == (512, 4)
