"""The benchmark at a size for tests: its rows, the equivalence, and that the systems compared do the same work."""

import math
from dataclasses import replace
from itertools import accumulate

import bitsandbytes
import pytest
import torch

from hart_lite.cli import main
from hart_lite.inference.protocols.hart import full
from hart_lite.models import packing
from hart_lite.perf.model_sizes import PUBLISHED, Dimensions
from hart_lite.perf.step_time.count import image_share, our_count, sequences_of, stock_count
from hart_lite.perf.step_time.models import random_model, workload
from hart_lite.perf.step_time.presets import PRESETS, config_of, question
from hart_lite.perf.step_time.steps import BETA, PHASES, Ours, Stock
from hart_lite.perf.step_time.update import differences, packed_pass, unpacked_pass, update_peak

SEVEN = PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"]
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TOWER = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
TINY = replace(
    PRESETS["cpu"],
    text=SIZES | {"num_key_value_heads": 2},
    vision=TOWER | {"fullatt_block_indexes": [1]},
    mrope=(2, 3, 3),
    full_tokens=16,
    crop_tokens=9,
    samples=4,
    response=4,
    grown_samples=(2, 4),
    grown_full_tokens=(9, 36),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def work(folder):
    return workload(TINY, folder)


@pytest.fixture(scope="module")
def hart(work, folder):
    """Sequences of one step: both turns of four samples."""
    ours = Ours(work, "hart", folder)
    ours.step(question(TINY, folder, 0))
    return ours


@pytest.mark.slow
def test_the_report_has_every_row(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(PRESETS, "cpu", TINY)
    assert main.main(["bench", "--steps", "1", "--out", str(tmp_path / "bench.md")]) == 0
    text = (tmp_path / "bench.md").read_text()
    assert text.strip() in capsys.readouterr().out
    for row in (
        *("| update pass, unpacked / packed |", "| step, `hart` / stock |", "| step, `direct` / stock |"),
        "| memory of an update for one more sample, in tokens |",
        *(f"| peak of the update planned / measured, `{loop}` |" for loop in ("direct", "mgpo", "hart")),
        *(f"| packed - unpacked, {loop}, one image |" for loop in ("direct", "mgpo", "hart")),
        *(f"| packed - unpacked, {loop}, two images |" for loop in ("direct", "mgpo", "hart")),
        *(f"| {name} |" for name in ("stock `trl.GRPOTrainer`", "`direct`", "`mgpo`", "`hart`")),
        *("| samples 2 -> 4 |", "| full_tokens 9 -> 36 |", "times its floor of", "matrices alone take"),
    ):
        assert row in text, row
    equivalent = [line for line in text.splitlines() if line.startswith("| packed - unpacked")]
    assert all(line.endswith("| met |") for line in equivalent)
    assert str(tmp_path) not in text


def all_before(packed: packing.Pack) -> list[list[range]]:
    starts = list(accumulate(packed.runs, initial=0))[:-1]
    return [[range(start)] if start else [] for start in starts]


@pytest.mark.parametrize("broken", ["mask", "positions", "image"])
def test_equivalence_fails_where_something_is_broken(work, hart, monkeypatch, broken):
    sequences, family = sequences_of(hart.groups), work.runner.policy.family
    right = unpacked_pass(work, sequences)
    logps, gradients = differences(packed_pass(work, sequences), right)
    assert logps <= 1e-5 and gradients <= 1e-4
    if broken == "mask":  # every token sees all before it, those of other samples too
        monkeypatch.setattr(packing.Pack, "above", property(all_before))
    elif broken == "positions":
        positions = family.positions
        monkeypatch.setattr(family, "positions", lambda tokens: positions(tokens).roll(1, dims=0))
    else:
        features = family.features
        monkeypatch.setattr(family, "features", lambda *args: [f.flip(0) for f in features(*args)])
    logps, gradients = differences(packed_pass(work, sequences), right)
    assert logps > 1e-4 and gradients > 1e-3


def test_the_stock_trainer_reads_the_prompt_that_direct_reads(work, folder):
    example = question(TINY, folder, 1)
    stock, direct = Stock(work, random_model(TINY), folder), Ours(work, "direct", folder)
    laps = stock.step(example)
    direct.step(example)
    [prompt] = {t.turns[0].prompt for t in direct.groups[0].trajectories}
    assert stock.trainer.prompt_ids.tolist() == [list(prompt.ids)] * TINY.samples
    assert stock.trainer.completion_ids.shape == (TINY.samples, TINY.response)
    assert laps["step"] == pytest.approx(sum(laps[phase] for phase in PHASES))
    assert all(seconds > 0 for seconds in laps.values())


def test_both_train_the_same_adapter_from_the_same_base(work, folder):
    stock = Stock(work, random_model(TINY), folder).trainer
    ours = work.runner.policy
    theirs = {name: p for name, p in stock.model.named_parameters() if p.requires_grad}
    assert {name: p.shape for name, p in theirs.items()} == {
        name: p.shape for name, p in ours.peft.named_parameters() if p.requires_grad
    }
    base = dict(ours.peft.named_parameters())
    assert all(torch.equal(p, base[name]) for name, p in stock.model.named_parameters() if not p.requires_grad)
    assert (stock.beta, stock.loss_type, stock.args.gradient_checkpointing) == (BETA, "grpo", False)


def test_every_turn_is_as_long_as_it_may_be_and_names_a_valid_box(work, hart):
    for trajectory in hart.groups[0].trajectories:
        assert [len(turn.response) for turn in trajectory.turns] == [TINY.response] * 2
        assert len(trajectory.boxes) == 1 and not trajectory.rejected
    assert hart.groups[0].rewards == [0, 1, 0, 1]
    assert len({t.boxes for t in hart.groups[0].trajectories}) > 1


def test_steps_take_their_turn_on_one_trainer(work, hart, folder):
    before = [p.clone() for p in work.runner.policy.adapter_parameters]
    hart.step(question(TINY, folder, 2))
    assert hart.groups[0].example.id == "2/1"
    assert any(not torch.equal(p, q) for p, q in zip(work.runner.policy.adapter_parameters, before, strict=True))


def test_tokens_are_counted_by_hand(work, hart, folder):
    example = question(TINY, folder, 0)
    prompt = work.runner.prompt(example, full)
    stock = stock_count(work, example)
    assert (stock.rollout, stock.images) == (4 * (len(prompt) + 4), 3 * 4 * 16)
    direct = our_count(work, work.runner.rollout([example], "direct", 4, seed=0))
    assert direct.rollout == len(prompt) - 1 + 4 * (1 + 4)
    assert (direct.update, direct.images) == (direct.rollout, 16)
    both = our_count(work, hart.groups)
    assert both.images == 16 + sum(t.turns[1].prompt.slots[0].length for t in hart.groups[0].trajectories)
    share = image_share(work)
    assert direct.work(work) == pytest.approx(4 * direct.update + 16 * share)


def test_planned_memory_is_what_the_allocator_sees(work, hart):
    measured, planned = update_peak(work, sequences_of(hart.groups))
    assert planned == pytest.approx(measured, rel=0.1)


def test_four_bits_are_packed_matrix_by_matrix(folder):
    preset = replace(TINY, quant="nf4", dtype="bfloat16", gradient_checkpointing=True)
    four = workload(preset, folder)
    model = four.runner.policy.model
    packed = {name for name, p in model.named_parameters() if p.dtype == torch.uint8}
    assert len(packed) == 2 * 7 and all(".language_model.layers." in name for name in packed)
    kept = [
        p for name, p in model.named_parameters() if "visual" in name or "lm_head" in name or "embed_tokens" in name
    ]
    kept.append(model.lm_head.weight)
    assert all(p.dtype == torch.bfloat16 and not p.is_meta for p in kept)
    example = question(preset, folder, 3)
    assert Ours(four, "hart", folder).step(example)["step"] > 0
    assert Stock(four, random_model(preset), folder).step(example)["step"] > 0


def test_four_bit_weights_stand_for_those_they_were_drawn_as(folder):
    """Within what nf4 loses, 9 % of a normal matrix."""
    model = random_model(replace(TINY, quant="nf4"))
    linear = model.model.language_model.layers[0].self_attn.q_proj
    weights = bitsandbytes.functional.dequantize_4bit(linear.weight.data, linear.weight.quant_state)
    assert weights.std().item() == pytest.approx(1 / math.sqrt(64), rel=0.1)


def test_bad_arguments_are_refused_in_words(tmp_path, capsys):
    assert main.main(["bench", "--steps", "0"]) == 1
    assert "--steps 0: at least 1" in capsys.readouterr().err
    assert main.main(["bench", "--out", str(tmp_path / "no/where.md")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_the_cuda_preset_says_that_it_needs_a_card(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main.main(["bench", "--preset", "cuda"]) == 1
    assert "--preset cuda needs a CUDA card" in capsys.readouterr().err


def test_the_cuda_preset_has_the_dimensions_of_the_7b(tmp_path):
    config_of(PRESETS["cuda"]).save_pretrained(tmp_path)
    assert Dimensions.of(str(tmp_path)) == SEVEN


def test_an_image_token_costs_the_small_tower_what_it_costs_that_of_the_7b(tmp_path):
    config_of(PRESETS["cpu"]).save_pretrained(tmp_path)
    shares = [d.vision.patches * d.tower / d.linears for d in (Dimensions.of(str(tmp_path)), SEVEN)]
    assert shares[0] == pytest.approx(shares[1], rel=0.02)
