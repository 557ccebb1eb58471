"""Stage 2: what a row holds, which of its tokens carry loss, and that it trains."""

import json
from dataclasses import replace

import pytest
import torch
from small_runs import make_up, metrics, sft_stage, small_recipe
from trainers import sft_trainer
from trl import SFTTrainer

from hart_lite.config.sections import SFTStage
from hart_lite.errors import HartError
from hart_lite.inference import prompts
from hart_lite.inference.rollout import Runner
from hart_lite.runs.splits import load_splits
from hart_lite.training.sft_trainer import IGNORED, Collator, SFTRows, answer_row, locate_once, locate_row
from hart_lite.types import Box

BOX = Box(42, 42, 126, 126)


@pytest.fixture
def recipe(tiny_base, tmp_path):
    return small_recipe(tiny_base, tmp_path, [sft_stage()])


@pytest.fixture
def examples(recipe):
    return load_splits(recipe).sft


@pytest.fixture
def runner(policy, recipe):
    return Runner(policy, recipe.pixels, recipe.rollout)


def stage(**changes) -> SFTStage:
    return SFTStage.model_validate(sft_stage(**changes))


def found_for(examples, right=lambda n: True) -> dict[str, dict]:
    return {e.id: {"boxes": [[*BOX.xyxy, 0]], "said": [5, 6], "right": right(n)} for n, e in enumerate(examples)}


def text(runner, ids) -> str:
    return runner.policy.family.tokenizer.decode([i for i in ids if i >= 0])


def views(tokens) -> list[tuple]:
    return [(slot.view.source, slot.view.box) for slot in tokens.slots]


# -- rows ----------------------------------------------------------------------------------------------------------


def test_an_answer_row_shows_the_image_and_its_crops_and_teaches_the_letter(runner, examples):
    example = examples[0]
    row = answer_row(runner, example, [BOX], stage())
    # 84 px padded by 0.1 on each side: 33.6 .. 134.4, in whole pixels
    assert views(row) == [(example.images[0], None), (example.images[0], Box(33, 33, 135, 135))]
    assert (
        row.ids[: row.sampled[0][0]]
        == runner.policy.family.chat(
            prompts.with_crops_content(example, runner.full_views(example), [runner.crop_view(example, BOX)])
        ).ids
    )
    [(start, stop, _)] = row.sampled
    assert stop == len(row)
    assert text(runner, row.ids[start:]) == f"{example.answer}<|im_end|>"


def test_an_answer_row_without_crops_is_the_direct_question(runner, examples):
    example = examples[0]
    row = answer_row(runner, example, [BOX], stage(context="full"))
    assert views(row) == [(example.images[0], None)]
    prompt = runner.policy.family.chat(prompts.direct_content(example, runner.full_views(example)))
    assert row.ids[: row.sampled[0][0]] == prompt.ids


def test_the_text_of_the_right_choice_can_be_taught(runner, examples):
    example = replace(examples[0], choices=("lion", "tiger"), answer="B")
    row = answer_row(runner, example, [], stage(target="text"))
    assert text(runner, row.ids[row.sampled[0][0] :]) == "tiger<|im_end|>"
    free = replace(examples[0], choices=(), answer="a tiger")
    row = answer_row(runner, free, [], stage(target="letter"))
    assert text(runner, row.ids[row.sampled[0][0] :]) == "a tiger<|im_end|>"


def test_a_locate_row_teaches_the_turn_that_was_said(runner, examples):
    """Word for word, reasoning included. Choices stay withheld."""
    said = runner.policy.family.response_ids('there: [{"bbox_2d": [14,14,42,42]}]')
    row = locate_row(runner, examples[0], said)
    [(start, stop, _)] = row.sampled
    assert row.ids[start:stop] == said
    assert stop == len(row)
    assert views(row) == [(examples[0].images[0], None)]
    prompt = text(runner, row.ids[:start])
    assert prompts.LOCATE in prompt
    assert "(A)" not in prompt


def test_only_answer_tokens_carry_loss(runner, examples):
    """Two rows of unlike length, padded on the right: labels are the answer and its end, and -100 everywhere else."""
    family = runner.policy.family
    rows = [
        answer_row(runner, examples[0], [BOX], stage()),
        answer_row(runner, examples[1], [], stage(context="full")),
    ]
    batch = Collator(family, rows)([{"row": 0}, {"row": 1}])
    assert batch["labels"].shape == batch["input_ids"].shape == (2, len(rows[0]))
    for n, example in enumerate(examples[:2]):
        letter = family.tokenizer(example.answer, add_special_tokens=False)["input_ids"]
        expected = [*letter, family.eos_ids[0]]
        labels = batch["labels"][n].tolist()
        end = len(rows[n])
        assert labels[end - len(expected) : end] == expected
        assert set(labels[: end - len(expected)] + labels[end:]) == {IGNORED}
        assert batch["attention_mask"][n].sum() == end


def test_the_share_of_locate_rows_is_kept_and_only_verified_ones_count(runner, recipe):
    examples = load_splits(recipe).sft * 3
    examples = [replace(e, id=str(n)) for n, e in enumerate(examples)]
    found = found_for(examples, right=lambda n: n % 2 == 0)
    rows = SFTRows(runner, examples, found, stage(keep_locate=0.2), seed=0)
    located = [e.id for kind, e, _ in rows.items if kind == "locate"]
    assert len(located) == round(0.2 * len(rows)) > 0
    assert len(set(located)) == len(located)
    assert all(found[i]["right"] for i in located)
    assert sorted(e.id for kind, e, _ in rows.items if kind == "answer") == sorted(e.id for e in examples)
    every = SFTRows(runner, examples, found, stage(keep_locate=1), seed=0)
    assert {kind for kind, _, _ in every.items} == {"locate"}
    assert len(every) == len(examples) / 2
    none = SFTRows(runner, examples, found, stage(keep_locate=0), seed=0)
    assert {kind for kind, _, _ in none.items} == {"answer"}
    few = SFTRows(runner, examples, found_for(examples, lambda n: n == 0), stage(keep_locate=0.5), seed=0)
    assert [e.id for kind, e, _ in few.items if kind == "locate"] == ["0"]


def test_rows_are_mixed_by_the_seed(runner, examples):
    def order(seed):
        rows = SFTRows(runner, examples, found_for(examples), stage(), seed)
        return [(kind, example.id) for kind, example, _ in rows.items]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert sorted({kind for kind, _ in order(0)[: len(examples) // 2]}) == ["answer", "locate"]


def test_no_row_at_all_is_refused(runner, examples):
    with pytest.raises(HartError, match="lower keep_locate"):
        SFTRows(runner, examples, found_for(examples, lambda n: False), stage(keep_locate=1), seed=0)


def test_ground_truth_boxes_are_never_read(runner, examples, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    elsewhere = [replace(e, boxes=(Box(1, 1, 3, 3),)) for e in examples]

    def rows(questions, cache):
        found = locate_once(runner, questions, tmp_path / cache, 4)
        made = SFTRows(runner, questions, found, stage(), seed=0)
        return [made[i] for i in range(len(made))]

    assert rows(examples, "a.json") == rows(elsewhere, "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


# -- where the policy looks, once ----------------------------------------------------------------------------------


def test_where_the_policy_looks_is_found_once(runner, examples, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    cache = tmp_path / "located.json"
    found = locate_once(runner, examples, cache, 3)
    greedy = runner.run(examples, "hart", temperature=0, seed=5)
    assert [found[e.id]["right"] for e in examples] == [t.reward == 1 for t in greedy]
    assert [found[e.id]["boxes"] for e in examples] == [[[*b.xyxy, b.image] for b in t.boxes] for t in greedy]
    assert any(entry["boxes"] for entry in found.values())
    assert json.loads(cache.read_text()) == found

    def fail(*args, **kwargs):
        raise AssertionError("asked again")

    monkeypatch.setattr(Runner, "run", fail)
    assert locate_once(runner, examples, cache, 3) == found
    with pytest.raises(HartError, match="other questions"):
        locate_once(runner, examples[1:], cache, 3)


# -- the trainer ---------------------------------------------------------------------------------------------------


def test_a_few_steps_lower_the_loss(new_policy, tiny_base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    changes = {"steps": 10, "batch_size": 4, "micro_batch_size": 2, "lr": 5e-3, "save_every": 0}
    trainer = sft_trainer(new_policy, tiny_base, tmp_path, **changes)
    frozen = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if not p.requires_grad}
    trainer.train()
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert sum(row["loss"] for row in rows[-3:]) < 0.6 * sum(row["loss"] for row in rows[:3])
    assert all(torch.equal(frozen[n], p) for n, p in trainer.model.named_parameters() if n in frozen)


def test_the_loss_is_the_mean_over_answer_tokens_of_the_whole_batch(new_policy, tiny_base, tmp_path, monkeypatch):
    """However the batch is cut into micro-batches: rows of 2 and of 8 tokens weigh 2 : 8, not 1 : 1."""
    make_up(monkeypatch.setattr)
    losses = []
    for micro in (1, 8):
        folder = tmp_path / str(micro)
        trainer = sft_trainer(
            new_policy, tiny_base, folder, steps=1, batch_size=8, micro_batch_size=micro, keep_locate=0.5, save_every=0
        )
        rows = trainer.data_collator.rows
        assert len({len(rows[n].ids) - rows[n].sampled[0][0] for n in range(len(rows))}) > 1
        trainer.train()
        losses.append(metrics(folder)[0])
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], rel=1e-4)
    assert losses[0]["grad_norm"] == pytest.approx(losses[1]["grad_norm"], rel=1e-3)


def test_adapters_stay_in_float32_on_a_4_bit_base(new_policy, tiny_base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    trainer = sft_trainer(new_policy, tiny_base, tmp_path, model={"quant": "nf4"}, steps=2, save_every=1)
    adapters = trainer.data_collator.rows.runner.policy.adapter_parameters
    before = [p.detach().clone() for p in adapters]
    assert {p.dtype for p in adapters} == {torch.float32}
    trainer.train()
    assert {p.dtype for p in adapters} == {torch.float32}
    assert not all(torch.equal(a, b) for a, b in zip(before, adapters, strict=True))
    optimised = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in adapters} <= optimised


def test_a_gradient_that_is_not_finite_skips_its_step(new_policy, tiny_base, tmp_path, monkeypatch, caplog):
    make_up(monkeypatch.setattr)
    trainer = sft_trainer(new_policy, tiny_base, tmp_path, steps=2, save_every=0)
    compute, seen = trainer.compute_loss, []
    adapters = trainer.data_collator.rows.runner.policy.adapter_parameters

    def poisoned(*args, **kwargs):
        seen.append([p.detach().clone() for p in adapters])
        return compute(*args, **kwargs) * (float("nan") if len(seen) == 1 else 1)

    trainer.compute_loss = poisoned
    trainer.train()
    first, *_, last = seen  # two micro-batches a step: the last one is of the second step
    assert all(torch.equal(a, b) for a, b in zip(first, last, strict=True))
    assert all(bool(torch.isfinite(p).all()) for p in adapters)
    assert not all(torch.equal(a, b) for a, b in zip(first, adapters, strict=True))
    assert "step 1 is skipped" in caplog.text


def gradients(trainer) -> list[torch.Tensor]:
    """Of one step, without taking it."""
    taken = []
    trainer.create_optimizer()
    trainer.optimizer.step = lambda *args, **kwargs: taken.extend(p.grad.clone() for p in trainer.adapters)
    trainer.train()
    return taken


def test_small_gradients_survive_half_precision(new_policy, tiny_base, tmp_path, monkeypatch):
    """A loss 2^-18 times as large, which float16 would turn to nothing: the gradients are still those of float32."""
    make_up(monkeypatch.setattr)
    found = {}
    compute = SFTTrainer.compute_loss
    monkeypatch.setattr(SFTTrainer, "compute_loss", lambda *args, **kwargs: compute(*args, **kwargs) * 2**-18)
    for dtype in ("float32", "float16"):
        changes = {"steps": 1, "save_every": 0, "max_grad_norm": 1e9}
        trainer = sft_trainer(new_policy, tiny_base, tmp_path / dtype, model={"dtype": dtype}, **changes)
        found[dtype] = torch.cat([g.flatten() for g in gradients(trainer)])
        assert {p.dtype for p in trainer.adapters} == {torch.float32}
    [full], [half] = metrics(tmp_path / "float32"), metrics(tmp_path / "float16")
    assert (found["float16"] - found["float32"]).norm() < 0.05 * found["float32"].norm()
    assert half["loss"] == pytest.approx(full["loss"], rel=0.01)
    assert half["grad_norm"] == pytest.approx(full["grad_norm"], rel=0.05)
