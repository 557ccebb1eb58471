"""Stage 2: what a row holds, which of its tokens carry loss, and that it trains."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small_runs import boxes_from_any_text, make_up, metrics, sft_stage, small_recipe
from torch.nn.functional import cross_entropy
from trainers import runner_of, sft_trainer
from transformers import TrainingArguments

from hart_lite.config.prompts import Prompts
from hart_lite.config.sections import SFTStage
from hart_lite.errors import HartError
from hart_lite.inference.protocols import hart
from hart_lite.inference.rollout import Runner
from hart_lite.models.packing import pack
from hart_lite.runs.splits import load_splits
from hart_lite.training import sft_trainer as sft
from hart_lite.training.sft_data import SFTRows, answer_row, locate_once, locate_row
from hart_lite.training.sft_trainer import SFTStageTrainer, rows_of_step, sft_steps
from hart_lite.types import Box

END = 2  # <|im_end|> of the tiny base
SAID = '[{"bbox_2d": [14, 14, 42, 42]}]'  # the image is 168 pixels wide and shown at 56: 42 to 126


@pytest.fixture
def recipe(tiny_base, tmp_path):
    return small_recipe(tiny_base, tmp_path, [sft_stage()])


@pytest.fixture
def examples(recipe):
    return load_splits(recipe).sft


@pytest.fixture
def runner(policy, recipe):
    return runner_of(recipe, policy)


@pytest.fixture
def said(policy):
    return list(policy.family.response_ids(SAID))


def stage(**changes) -> SFTStage:
    return SFTStage.model_validate(sft_stage(**changes))


def found_for(examples, said=(5, 6, END), right=lambda n: True) -> dict[str, dict]:
    return {e.id: {"said": list(said), "right": right(n)} for n, e in enumerate(examples)}


def text(runner, ids) -> str:
    return runner.policy.family.tokenizer.decode([i for i in ids if i >= 0])


def views(tokens) -> list[tuple]:
    return [(slot.view.source, slot.view.box) for slot in tokens.slots]


# -- rows ----------------------------------------------------------------------------------------------------------


def test_an_answer_row_shows_the_image_and_its_crops_and_teaches_the_letter(runner, examples, said):
    example = examples[0]
    row = answer_row(runner, example, said, stage())
    # 84 px padded by 0.1 on each side: 33.6 .. 134.4, in whole pixels
    assert views(row) == [(example.images[0], None), (example.images[0], Box(33, 33, 135, 135))]
    [span] = row.sampled
    assert row.ids[: span.start] == runner.prompt(example, hart.full_and_crops, [SAID]).ids
    assert (span.stop, span.kind) == (len(row), "verify")
    assert text(runner, row.ids[span.start :]) == f"{example.answer}<|im_end|>"


def test_an_answer_row_without_crops_is_the_direct_question(runner, examples, said):
    example = examples[0]
    row = answer_row(runner, example, said, stage(context="full"))
    assert views(row) == [(example.images[0], None)]
    assert row.ids[: row.sampled[0].start] == runner.prompt(example, hart.full).ids


def test_the_text_of_the_right_choice_can_be_taught(runner, examples, said):
    example = replace(examples[0], choices=("lion", "tiger"), answer="B")
    row = answer_row(runner, example, said, stage(target="text"))
    assert text(runner, row.ids[row.sampled[0].start :]) == "tiger<|im_end|>"
    free = replace(examples[0], choices=(), answer="a tiger")
    row = answer_row(runner, free, said, stage(target="letter"))
    assert text(runner, row.ids[row.sampled[0].start :]) == "a tiger<|im_end|>"


def test_a_locate_row_teaches_the_turn_that_was_said(runner, examples):
    """Word for word, reasoning included. Choices stay withheld."""
    said = runner.policy.family.response_ids(f"there: {SAID}")
    row = locate_row(runner, examples[0], said)
    [span] = row.sampled
    assert (row.ids[span.start : span.stop], span.stop, span.kind) == (said, len(row), "locate")
    assert views(row) == [(examples[0].images[0], None)]
    prompt = text(runner, row.ids[: span.start])
    assert Prompts().locate.split("{")[2].split("}")[1].strip() in prompt
    assert "(A)" not in prompt


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
    few = SFTRows(runner, examples, found_for(examples, right=lambda n: n == 0), stage(keep_locate=0.5), seed=0)
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
        SFTRows(runner, examples, found_for(examples, right=lambda n: False), stage(keep_locate=1), seed=0)


def test_ground_truth_boxes_are_never_read(runner, examples, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    elsewhere = [replace(e, boxes=(Box(1, 1, 3, 3),)) for e in examples]

    def rows(questions, cache):
        found = locate_once(runner, questions, tmp_path / cache)
        made = SFTRows(runner, questions, found, stage(), seed=0)
        return [made[i] for i in range(len(made))]

    assert rows(examples, "a.json") == rows(elsewhere, "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


# -- where the policy looks, once ----------------------------------------------------------------------------------


def test_where_the_policy_looks_is_found_once(runner, examples, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    # The base writes one text for all of them, and it is one that names no box; with a letter more it does.
    box = lambda family, text, seen, original: boxes_from_any_text(family, text + "a", seen, original)  # noqa: E731
    monkeypatch.setattr(type(runner.policy.family), "boxes_from_text", box)
    cache = tmp_path / "located.json"
    monkeypatch.setattr(runner.engine, "max_batch", 3)
    found = locate_once(runner, examples, cache)
    greedy = runner.rewarded(examples, runner.run(examples, hart.crops))
    assert [found[e.id]["right"] for e in examples] == [t.reward == 1 for t in greedy]
    assert any(t.boxes for t in greedy)
    assert [found[e.id]["said"] for e in examples] == [list(t.turns[0].response) for t in greedy]
    assert json.loads(cache.read_text()) == found

    def fail(*args, **kwargs):
        raise AssertionError("asked again")

    monkeypatch.setattr(Runner, "run", fail)
    assert locate_once(runner, examples, cache) == found
    with pytest.raises(HartError, match="other questions"):
        locate_once(runner, examples[1:], cache)


# -- which rows a step reads ---------------------------------------------------------------------------------------


def test_each_pass_over_the_rows_is_a_permutation_that_the_seed_decides():
    """11 rows in batches of 4: the last batch of a pass is smaller, and none crosses into the next pass."""
    steps = [rows_of_step(11, 4, seed=3, step=step) for step in range(6)]
    assert [len(rows) for rows in steps] == [4, 4, 3] * 2
    first, second = ([row for rows in steps[n : n + 3] for row in rows] for n in (0, 3))
    assert sorted(first) == sorted(second) == list(range(11))
    assert first != second
    assert [rows_of_step(11, 4, seed=3, step=step) for step in reversed(range(6))] == steps[::-1]
    assert rows_of_step(11, 4, seed=4, step=0) != steps[0]
    assert first == torch.randperm(11, generator=torch.Generator().manual_seed(3)).tolist()


@pytest.mark.parametrize(
    ("changes", "steps"),
    [({"steps": 7}, 7), ({"steps": None}, 3), ({"steps": None, "epochs": 1.5}, 5), ({"steps": None, "epochs": 0.1}, 1)],
)
def test_a_stage_goes_by_steps_or_by_passes(changes, steps):
    assert sft_steps(11, stage(batch_size=4, micro_batch_size=1, **changes)) == steps


# -- the trainer ---------------------------------------------------------------------------------------------------


def padded_loss(policy, rows) -> tuple[torch.Tensor, float]:
    """(loss, share of tokens right) as trl.SFTTrainer has it: the model's own forward on a right-padded batch, -100
    wherever there is no answer."""
    batch = policy.family.collate(rows)
    labels = torch.full_like(batch["input_ids"], -100)
    for n, row in enumerate(rows):
        for span in row.sampled:
            labels[n, span.start : span.stop] = torch.tensor(row.ids[span.start : span.stop])
    logits = policy.model(**batch, use_cache=False).logits[:, :-1].flatten(0, 1)
    wanted = labels[:, 1:].flatten()
    hits = logits.argmax(-1)[wanted != -100] == wanted[wanted != -100]
    return cross_entropy(logits, wanted), hits.float().mean().item()


def gradients(policy) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in policy.adapter_parameters])


def test_a_step_has_the_loss_and_the_gradient_of_a_padded_batch(new_policy, tiny_base, tmp_path, monkeypatch):
    """Rows of unlike length, in micro-batches of 3 and 2."""
    make_up(monkeypatch.setattr)
    changes = {"steps": 1, "batch_size": 5, "micro_batch_size": 5, "keep_locate": 0.5, "save_every": 0}
    trainer = sft_trainer(new_policy, tiny_base, tmp_path, **changes)
    trainer.budget.value = 3
    rows = [trainer.rows[n] for n in rows_of_step(len(trainer.rows), 5, trainer.args.seed, 0)]
    assert len({len(row) for row in rows}) > 1
    trainer.training_step(trainer.model, {})
    found, metrics = gradients(trainer.policy), trainer.step_metrics
    assert metrics["packed_tokens"] < sum(map(len, rows))  # what they have in common is computed once
    trainer.model.zero_grad()
    loss, accuracy = padded_loss(trainer.policy, rows)
    loss.backward()
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert metrics["mean_token_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    expected = gradients(trainer.policy)
    assert (found - expected).norm() < 2e-6 * expected.norm()


def test_the_share_of_tokens_right_is_of_the_models_first_choices(policy, recipe, examples, said):
    """Taught what it would say itself, all are; taught something else, none."""
    runner = runner_of(recipe, policy)
    row = locate_row(runner, examples[0], said)
    start = row.sampled[0].start
    ids = list(row.ids)
    for at in range(start, len(ids)):  # greedy decoding, one token at a time
        with torch.no_grad():
            logits = policy.model(**policy.family.collate([replace(row, ids=tuple(ids))]), use_cache=False).logits
        ids[at] = int(logits[0, at - 1].argmax())
    for wanted, ending in ((1.0, ids), (0.0, [*ids[:start], *(i + 1 for i in ids[start:])])):
        [packed] = pack([replace(row, ids=tuple(ending))], policy.family.positions, 4096)
        hits = policy.logps_and_hits(packed)[1]
        assert hits[0] == wanted
        assert wanted == 0 or hits.tolist() == [1.0] * (len(ids) - start)


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


class TwoCards(TrainingArguments):
    n_gpu = property(lambda self: 2)


def test_a_step_does_not_depend_on_how_many_cards_its_process_sees(new_policy, tiny_base, tmp_path, monkeypatch):
    """The policy is on one. Seeing two, the Trainer would double its batch and hand a copy of the model to each."""
    make_up(monkeypatch.setattr)
    rows = []
    for kind in (TrainingArguments, TwoCards):
        one = sft_trainer(new_policy, tiny_base, tmp_path / kind.__name__, steps=2, save_every=1)
        args = kind(**{name: getattr(one.args, name) for name in ("output_dir", "max_steps", "seed", "learning_rate")})
        args.use_cpu, args.save_steps, args.logging_steps = True, 1, 1
        trainer = SFTStageTrainer(one.rows.runner, one.rows, one.stage, args)
        trainer.train()
        rows.append([p.detach().clone() for p in trainer.policy.adapter_parameters])
        trainer.train(resume_from_checkpoint=f"{args.output_dir}/checkpoint-1")
        rows.append([p.detach().clone() for p in trainer.policy.adapter_parameters])
    assert all(torch.equal(a, b) for other in rows[1:] for a, b in zip(rows[0], other, strict=True))


def mix(trainer) -> None:
    """Give a trainer rows of both kinds: its tiny base ends no turn of its own."""
    examples, said = [e for _, e, _ in trainer.rows.items], trainer.policy.family.response_ids(SAID)
    trainer.rows = SFTRows(trainer.rows.runner, examples, found_for(examples, said), trainer.stage, seed=0)


def test_locate_rows_weigh_as_their_share_of_the_rows(new_policy, tiny_base, tmp_path, monkeypatch):
    """Not as that of the tokens: a box has many. Within a kind each token weighs the same."""
    make_up(monkeypatch.setattr)
    changes = {"steps": 1, "batch_size": 8, "micro_batch_size": 8, "keep_locate": 0.25, "save_every": 0}
    trainer = sft_trainer(new_policy, tiny_base, tmp_path, **changes)
    mix(trainer)
    trainer.budget.value = 3
    numbers = rows_of_step(len(trainer.rows), 8, trainer.args.seed, 0)
    rows = {kind: [trainer.rows[n] for n in numbers if trainer.rows.kind(n) == kind] for kind in ("answer", "locate")}
    assert min(map(len, rows.values())) > 0
    trainer.training_step(trainer.model, {})
    found, loss = gradients(trainer.policy), trainer.step_metrics["loss"]
    trainer.model.zero_grad()
    means = {kind: padded_loss(trainer.policy, some)[0] for kind, some in rows.items()}
    expected = sum(means[kind] * len(some) / 8 for kind, some in rows.items())
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert (found - gradients(trainer.policy)).norm() < 1e-5 * found.norm()
    assert abs(means["locate"].item() - means["answer"].item()) > 1e-3  # or the weights would not matter


def test_two_processes_share_a_last_partial_batch(new_policy, tiny_base, tmp_path, monkeypatch):
    """Five rows: one process has three of them, and the gradients of both add up to those of one that has all."""
    make_up(monkeypatch.setattr)
    trainer = sft_trainer(new_policy, tiny_base, tmp_path, steps=2, batch_size=6, keep_locate=0.5, save_every=0)
    mix(trainer)
    trainer.rows.items = trainer.rows.items[:11]
    trainer.state.global_step = 1
    numbers = rows_of_step(11, 6, trainer.args.seed, 1)
    assert len(numbers) == 5
    assert {trainer.rows.kind(n) for n in numbers[::2]} & {trainer.rows.kind(n) for n in numbers[1::2]}
    assert len({trainer.rows.kind(n) for n in numbers}) == 2
    trainer.training_step(trainer.model, {})
    whole, args = gradients(trainer.policy), trainer.args
    tokens = {"answer": 0.0, "locate": 0.0}
    for n in numbers:
        tokens[trainer.rows.kind(n)] += len(trainer.rows[n].sampled[0])
    trainer.summed = lambda value: torch.tensor(list(tokens.values())) if value.shape == (2,) else value
    parts = []
    for process in (0, 1):
        trainer.model.zero_grad()
        trainer.args = SimpleNamespace(world_size=2, process_index=process, seed=args.seed, max_steps=2, device="cpu")
        trainer.training_step(trainer.model, {})
        parts.append(gradients(trainer.policy))
    assert all(part.norm() > 0 for part in parts)
    assert (parts[0] + parts[1] - whole).norm() < 1e-5 * whole.norm()


def test_a_turn_that_the_limit_cut_off_is_no_target(runner, examples):
    found = found_for(examples)
    for n, example in enumerate(examples):
        if n % 2:
            found[example.id]["said"] = [5, 6, 7]
    rows = SFTRows(runner, examples, found, stage(keep_locate=1), seed=0)
    assert {e.id for _, e, _ in rows.items} == {e.id for e in examples[::2]}
    with pytest.raises(HartError, match=r"from a turn that it ended itself.*max_tokens_locate"):
        SFTRows(runner, examples, found_for(examples, said=(5, 6)), stage(keep_locate=1), seed=0)


def test_the_loss_is_the_mean_over_answer_tokens_of_the_whole_batch(new_policy, tiny_base, tmp_path, monkeypatch):
    """However the batch is cut into micro-batches."""
    make_up(monkeypatch.setattr)
    losses = []
    for micro in (1, 8):
        folder = tmp_path / str(micro)
        trainer = sft_trainer(
            new_policy, tiny_base, folder, steps=1, batch_size=8, micro_batch_size=micro, keep_locate=0.5, save_every=0
        )
        mix(trainer)
        assert len({len(trainer.rows[n].sampled[0]) for n in range(len(trainer.rows))}) > 1
        trainer.train()
        losses.append(metrics(folder)[0])
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], rel=1e-4)
    assert losses[0]["grad_norm"] == pytest.approx(losses[1]["grad_norm"], rel=1e-3)
    assert losses[0]["mean_token_accuracy"] == pytest.approx(losses[1]["mean_token_accuracy"], abs=1e-6)


def test_adapters_stay_in_float32_on_a_4_bit_base(new_policy, tiny_base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    trainer = sft_trainer(new_policy, tiny_base, tmp_path, model={"quant": "nf4"}, steps=2, save_every=1)
    adapters = trainer.policy.adapter_parameters
    before = [p.detach().clone() for p in adapters]
    assert {p.dtype for p in adapters} == {torch.float32}
    trainer.train()
    assert {p.dtype for p in adapters} == {torch.float32}
    assert not all(torch.equal(a, b) for a, b in zip(before, adapters, strict=True))
    optimised = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in adapters} <= optimised


def test_small_gradients_survive_half_precision(new_policy, tiny_base, tmp_path, monkeypatch):
    """A loss 2^-18 times as large, which float16 would turn to nothing: the gradients are still those of float32."""
    make_up(monkeypatch.setattr)
    found, logged = {}, {}
    token_nll = sft.token_nll

    def small(**inputs):
        loss, figures = token_nll(**inputs)
        return loss * 2**-18, figures

    monkeypatch.setattr(sft, "token_nll", small)
    for dtype in ("float32", "float16"):
        trainer = sft_trainer(new_policy, tiny_base, tmp_path / dtype, model={"dtype": dtype}, steps=1, save_every=0)
        trainer.training_step(trainer.model, {})
        found[dtype], logged[dtype] = gradients(trainer.policy), trainer.step_metrics["loss"]
        assert {p.dtype for p in trainer.policy.adapter_parameters} == {torch.float32}
    assert (found["float16"] - found["float32"]).norm() < 0.05 * found["float32"].norm()
    assert logged["float16"] == pytest.approx(logged["float32"], rel=0.01)
