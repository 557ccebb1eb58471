"""A merge is whole or not there, takes little memory, and is a model that others load."""

import errno
import json
import os
import shutil
import signal
import sys

import pytest
import torch
from merging import PLAIN_PROCESSOR, contents, deltas, edit_config, make_adapter, make_base, python, weights
from small_runs import make_up, sft_stage, small_recipe

from hart_lite.errors import HartError
from hart_lite.export.merge import merge
from hart_lite.export.verify import image_and_question
from hart_lite.training.train import train

# -- the place -----------------------------------------------------------------------------------------------------


def test_equal_inputs_give_equal_bytes_and_force_replaces_only_a_merge(adapter, tmp_path):
    merge(adapter, tmp_path / "one")
    merge(adapter, tmp_path / "two")
    before = contents(tmp_path / "one")
    assert before == contents(tmp_path / "two")
    with pytest.raises(HartError, match="is there already; choose another place, or add --force"):
        merge(adapter, tmp_path / "one")
    (tmp_path / "one" / "config.json").write_text("spoilt")
    (tmp_path / "one" / "old.safetensors").write_text("of an earlier base")
    merge(adapter, tmp_path / "one", force=True)
    assert contents(tmp_path / "one") == before
    (tmp_path / "empty").mkdir()
    merge(adapter, tmp_path / "empty")
    assert contents(tmp_path / "empty") == before


def test_force_leaves_alone_what_merge_did_not_make(base, adapter, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years")
    link = tmp_path / "link"
    link.symlink_to(home)
    for out in (home, link, home / "thesis.txt", adapter, base):
        with pytest.raises(HartError, match="was not made by hart-lite merge"):
            merge(adapter, out, force=True)
    assert (home / "thesis.txt").read_text() == "years"
    assert (adapter / "adapter_config.json").is_file() and (base / "config.json").is_file()


def test_a_merge_is_a_base_like_another_and_is_not_replaced_by_its_own(adapter, tmp_path):
    merge(adapter, tmp_path / "first")
    make_adapter(tmp_path / "first", tmp_path / "second", parts=["language"])
    with pytest.raises(HartError, match="holds what is to be merged"):
        merge(tmp_path / "second", tmp_path / "first", force=True)
    merge(tmp_path / "second", tmp_path / "both")
    name = "model.layers.1.self_attn.q_proj.weight"
    twice = weights(tmp_path / "first")[name].double() + deltas(tmp_path / "second")[name]
    assert (weights(tmp_path / "both")[name].double() - twice).abs().max() < 1e-6


def test_what_came_to_the_place_meanwhile_is_left_alone(adapter, tmp_path, monkeypatch):
    def check_slowly(*arguments):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("years")

    monkeypatch.setattr("hart_lite.export.merge.check_merge", check_slowly)
    for force in (False, True):
        with pytest.raises(HartError, match=r"is there already|was not made by hart-lite merge"):
            merge(adapter, tmp_path / "out", force=force)
        assert [path.name for path in tmp_path.rglob("*")] == ["out", "thesis.txt"]
        shutil.rmtree(tmp_path / "out")


def test_a_full_disk_is_seen_before_and_said_after(adapter, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(HartError, match=r"could not be written: .*No space left"):
            merge(adapter, tmp_path / "out")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(HartError, match=r"needs 0\.1 GiB and .* has 0\.0 GiB left"):
        merge(adapter, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


KILLED = """
    import os, shutil, signal, sys
    from hart_lite.export import merge
    from hart_lite.export.shards import Checkpoint
    def die(*arguments, **more):
        os.kill(os.getpid(), signal.SIGKILL)
    def die_at_the_third(self, shard, *more, done=[]):
        done.append(shard)
        die() if len(done) == 3 else copy(self, shard, *more)
    copy = Checkpoint.copy_shard
    match sys.argv[3]:
        case "shard":
            Checkpoint.copy_shard = die_at_the_third
        case "files":
            shutil.copyfile = die
        case "check":
            merge.check_merge = die
    merge.merge(sys.argv[1], sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["shard", "files", "check"])
def test_a_kill_leaves_nothing_that_looks_finished_and_the_next_merge_cleans_up(adapter, tmp_path, moment):
    out = tmp_path / "out"
    assert python(KILLED, adapter, out, moment).returncode == -signal.SIGKILL
    assert not out.exists()
    left = list(tmp_path.iterdir())
    assert [path.name for path in left] == [".out.merging"]
    if moment != "check":  # by then only the check is missing
        assert not (left[0] / "config.json").exists()
    merge(adapter, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    merge(adapter, tmp_path / "straight")
    assert contents(out) == contents(tmp_path / "straight")


# -- memory --------------------------------------------------------------------------------------------------------

UNDER_A_LIMIT = """
    import resource, sys
    from pathlib import Path
    import safetensors.torch
    from hart_lite.export.merge import merge
    adapter, out, kind, room, small = sys.argv[1:]
    def kib(name):
        return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])
    if kind != "whole":  # libraries load what they need at their first use
        merge(small, out + "-small", kind)
    limit = kib("VmSize") * 1024 + int(room)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
    before = kib("VmRSS")
    if kind == "whole":
        kept = [safetensors.torch.load(path.read_bytes()) for path in sorted(Path(adapter).glob("*.safetensors"))]
    else:
        print(merge(adapter, out, kind).text())
    print("peak", (kib("VmHWM") - before) * 1024)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """(base of 30 shards, adapter): 346 MB in all, 12 MB a shard."""
    folder = tmp_path_factory.mktemp("large")
    sizes = {"num_hidden_layers": 22, "hidden_size": 512, "intermediate_size": 2048}
    base = make_base(folder / "base", shards=30, **sizes, num_attention_heads=16, num_key_value_heads=8)
    make_adapter(base, folder / "adapter", parts=["language"], quant="nf4")
    yield base, folder / "adapter"
    shutil.rmtree(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["plain", pytest.param("dequant", marks=pytest.mark.slow)])
def test_thirty_shards_merge_in_the_memory_of_a_few(large, adapter, tmp_path, kind):
    base, trained = large
    shards = [path.stat().st_size for path in base.glob("*.safetensors")]
    assert len(shards) >= 30 and sum(shards) > 300e6
    room = 8 * max(shards)
    done = python(UNDER_A_LIMIT, trained, tmp_path / "out", kind, room, adapter)
    assert done.returncode == 0, done.stderr[-2000:]
    # Of the largest tensor (4 MB, with what quantising it takes) there are a few; the allocator keeps some.
    assert int(done.stdout.split()[-1]) < 6 * max(shards) < sum(shards) / 5
    assert weights(tmp_path / "out").keys() == weights(base).keys()
    assert f"{22 * 7} of" in done.stdout and "logits: merged against adapter on the base" in done.stdout
    if kind == "plain":  # the limit bites: what reads the whole checkpoint does not fit under it
        whole = python(UNDER_A_LIMIT, base, "", "whole", room, "")
        assert whole.returncode != 0 and "emory" in whole.stderr


# -- others load it ------------------------------------------------------------------------------------------------

ELSEWHERE = """
import json, sys
sys.modules["hart_lite"] = sys.modules["peft"] = None  # importing either fails
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, pipeline
from transformers.models.auto.image_processing_auto import AutoImageProcessor
folder, inputs, said = sys.argv[1:]
model, report = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
assert not any(report.values()), report
batch = torch.load(inputs)
with torch.no_grad():
    torch.save(model(**batch).logits, said)
parts = {"tokenizer": AutoTokenizer.from_pretrained(folder), "processor": AutoProcessor.from_pretrained(folder)}
images = AutoImageProcessor.from_pretrained(folder)
ask = pipeline("image-text-to-text", model=folder, dtype=torch.float32, image_processor=images, **parts)
image = Image.linear_gradient("L").convert("RGB").resize((112, 112))
content = [{"type": "image", "image": image}, {"type": "text", "text": "Which character is on the red square?"}]
out = ask([{"role": "user", "content": content}], max_new_tokens=4, return_full_text=False)
print(json.dumps(out[0]["generated_text"]))
"""


@pytest.mark.slow
def test_plain_transformers_loads_it_and_says_what_the_adapter_says(base, tmp_path):
    policy = make_adapter(base, tmp_path / "adapter", std=0.05)
    merge(tmp_path / "adapter", tmp_path / "out")
    policy.model.eval()
    batch = image_and_question(policy.family)
    torch.save(batch, tmp_path / "inputs.pt")
    done = python(PLAIN_PROCESSOR + ELSEWHERE, tmp_path / "out", tmp_path / "inputs.pt", tmp_path / "said.pt")
    assert done.returncode == 0, done.stderr[-3000:]
    said = torch.load(tmp_path / "said.pt")
    with torch.no_grad():
        expected = policy.model(**batch).logits
        with policy.peft.disable_adapter():
            alone = policy.model(**batch).logits
    assert (said - expected).abs().max() < 1e-3 < 0.1 < (alone - expected).abs().max()
    assert isinstance(json.loads(done.stdout.splitlines()[-1]), str)


# -- runs and the Hub ----------------------------------------------------------------------------------------------


def test_the_run_directory_of_the_toy_base_is_merged(tmp_path, monkeypatch):
    """With float16 weights, which is how the toy base is stored."""
    make_up(monkeypatch.setattr)
    run = tmp_path / "run"
    recipe = small_recipe(
        "toy", run, [sft_stage(steps=1, lr=0.05)], data={"toy": {"scenes": 4, "eval_scenes": 0, "size": 168}}
    )
    train(recipe)
    check = merge(run, tmp_path / "out")
    assert check.logits.difference < check.logits.allowed == 0.005 < check.logits.moved
    assert json.loads((tmp_path / "out/training.json").read_text())["merged"] == "plain"
    stage = merge(run / "stages/1-sft/adapter", tmp_path / "stage")
    assert stage.changed == check.changed
    assert weights(tmp_path / "out").keys() == weights(tmp_path / "stage").keys()


FROM_THE_HUB = """
    import sys
    from hart_lite.export.merge import merge
    print(merge(sys.argv[1], sys.argv[2]).text())
"""


@pytest.mark.slow
def test_a_base_from_the_hub_is_taken_from_its_cache(base, adapter, tmp_path):
    """The cache as the real client lays it out, without a network."""
    commit = "a" * 40
    repo = tmp_path / "home/hub/models--me--qwen"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text(commit)
    (repo / "blobs").mkdir()
    (repo / "snapshots" / commit).mkdir(parents=True)
    for path in base.iterdir():
        shutil.copyfile(path, repo / "blobs" / path.name)
        (repo / "snapshots" / commit / path.name).symlink_to(f"../../blobs/{path.name}")
    copied = shutil.copytree(adapter, tmp_path / "adapter")
    edit_config(copied, base_model_name_or_path="me/qwen")
    done = python(FROM_THE_HUB, copied, tmp_path / "out", HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "logits: merged against adapter on the base" in done.stdout
    added, before, after = deltas(copied), weights(base), weights(tmp_path / "out")
    for name, delta in added.items():
        assert (after[name].double() - before[name].double() - delta).abs().max() < 1e-6
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    done = python(FROM_THE_HUB, copied, tmp_path / "no", HF_HOME=str(tmp_path / "empty"), HF_HUB_OFFLINE="1")
    assert "ModelError: base 'me/qwen' is no folder here and cannot be had from the Hub" in done.stderr
