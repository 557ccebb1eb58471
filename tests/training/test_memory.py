"""Out of memory: the same samples in smaller pieces, to the bit what the smaller budget gives from the start."""

import gc
import json
import logging
import weakref
from contextlib import contextmanager

import pytest
import torch
from scripted import without_logps
from small_runs import make_up, metrics, small_recipe, without_timings
from trainers import adapters, rl_trainer, runner_of, same, sft_trainer

from hart_lite.errors import HartError
from hart_lite.models.oom import Budget, Draws, ran_out, within_memory
from hart_lite.models.policy import Policy
from hart_lite.runs.splits import load_splits
from hart_lite.training.rl_trainer import RLTrainer
from hart_lite.training.sft_trainer import rows_of_step

BUDGET = 512  # tokens; a step of the small runs makes several packs of it, and half of it holds the longest sequence
DROPOUT = {"lora": {"r": 4, "dropout": 0.1}}  # draws in every pass: what is computed again has to draw the same


@pytest.fixture(autouse=True)
def _made_up(monkeypatch):
    make_up(monkeypatch.setattr)


def run_out(place: str) -> None:
    """On a card PyTorch says so; on CPU it is real, for nobody has a petabyte."""
    if place == "backward":
        torch.empty(1 << 50, dtype=torch.uint8)
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@contextmanager
def limited(trainer, place: str, most: int, passes: int):
    """Lets the decoder's passes over packs of more than `most` tokens run out of memory, in their `place`: after the
    first `passes` of them, whose gradients are there by then. Yields the sizes of those that did."""
    seen, failed = [], []
    policy = trainer.policy
    decode, logps, with_hits = policy.decoder, policy.logps, policy.logps_and_hits
    packed = []  # a rollout calls the decoder, too

    def short(embeds, *args):
        tokens = embeds.shape[1]
        if not packed or torch.is_grad_enabled() == (place == "reference") or tokens <= most:
            return decode(embeds, *args)
        seen.append(tokens)
        if len(seen) <= passes:
            return decode(embeds, *args)
        if place != "backward":
            failed.append(tokens)
            run_out(place)
        hidden = decode(embeds, *args)
        hidden.register_hook(lambda gradient: (failed.append(tokens), run_out(place)))
        return hidden

    def of_a_pack(score):
        def scored(*args):
            packed.append(True)
            try:
                return score(*args)
            finally:
                packed.pop()

        return scored

    short.scale = decode.scale
    policy.decoder, policy.logps, policy.logps_and_hits = short, of_a_pack(logps), of_a_pack(with_hits)
    try:
        yield failed
    finally:
        policy.decoder, policy.logps, policy.logps_and_hits = decode, logps, with_hits


def new_rl(new_policy, tiny_base, run, budget: int, **stage) -> RLTrainer:
    stage = {"tokens_per_pack": budget, "steps": 2, "questions_per_step": 6} | stage
    return rl_trainer(new_policy, tiny_base, run, stage=stage, model=DROPOUT)


@pytest.fixture(scope="module")
def half_budget(new_policy, tiny_base, tmp_path_factory) -> tuple[list[torch.Tensor], list[dict]]:
    """(adapters, metrics) of a run that begins with half the budget."""
    run = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        make_up(patch.setattr)
        small = new_rl(new_policy, tiny_base, run, BUDGET // 2)
        torch.manual_seed(5)
        small.train()
    return adapters(small), metrics(run)


@pytest.mark.parametrize("place", ["forward", "backward", "reference"])
def test_an_update_that_does_not_fit_is_that_of_half_the_budget(
    new_policy, tiny_base, tmp_path, half_budget, place, caplog
):
    """The second of its packs fails in the first step, once the first one's gradients are there."""
    large = new_rl(new_policy, tiny_base, tmp_path / "large", BUDGET)
    torch.manual_seed(5)
    with limited(large, place, BUDGET // 2, 1) as failed, caplog.at_level(logging.WARNING):
        large.train()
    assert len(failed) == 1  # later steps keep to the half
    assert BUDGET // 2 < failed[0] <= BUDGET
    assert same(adapters(large), half_budget[0])
    told = [record.message for record in caplog.records if "memory ran out" in record.message]
    assert len(told) == 1
    assert f"the update of step 1 with stages.0.tokens_per_pack={BUDGET}" in told[0]
    assert f"Set stages.0.tokens_per_pack={BUDGET // 2} in the recipe" in told[0]
    rows = metrics(tmp_path / "large")
    assert [row["tokens_per_pack"] for row in rows] == [BUDGET // 2] * 2
    assert without_timings(rows) == without_timings(half_budget[1])
    assert not large.policy.model.training


def test_without_a_shortage_the_budgets_differ_in_their_packs(new_policy, tiny_base, tmp_path):
    """Or the tests above and below would compare nothing."""
    packed = []
    for budget in (BUDGET, BUDGET // 2):
        trainer = new_rl(new_policy, tiny_base, tmp_path / str(budget), budget, steps=1)
        trainer.train()
        packed.append((metrics(tmp_path / str(budget))[0]["packed_tokens"], adapters(trainer)))
    assert packed[0][0] < packed[1][0]  # prefixes are repeated
    assert not same(packed[0][1], packed[1][1])


@pytest.mark.slow
def test_a_resumed_run_keeps_the_smaller_budget(new_policy, tiny_base, tmp_path):
    """It ends where an unbroken one does, although memory does not run out any more."""
    stage = {"steps": 4, "save_every": 2}
    whole = new_rl(new_policy, tiny_base, tmp_path / "whole", BUDGET, **stage)
    with limited(whole, "forward", BUDGET // 2, 1):
        whole.train()
    checkpoint = tmp_path / "whole" / "stages" / "1-rl" / "checkpoint-2"
    kept = json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"]["StepGuardState"]
    assert kept["attributes"]["budgets"]["stages.0.tokens_per_pack"] == BUDGET // 2
    resumed = new_rl(new_policy, tiny_base, tmp_path / "resumed", BUDGET, **stage)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert [row["tokens_per_pack"] for row in metrics(tmp_path / "resumed")] == [BUDGET // 2] * 2
    assert same(adapters(resumed), adapters(whole))


def test_a_checkpoint_that_knows_of_no_budgets_can_be_resumed_and_saved(new_policy, tiny_base, tmp_path):
    stage = {"steps": 2, "save_every": 1}
    new_rl(new_policy, tiny_base, tmp_path, BUDGET, **stage).train()
    state = tmp_path / "stages" / "1-rl" / "checkpoint-1" / "trainer_state.json"
    values = json.loads(state.read_text())
    del values["stateful_callbacks"]["StepGuardState"]
    state.write_text(json.dumps(values))
    resumed = new_rl(new_policy, tiny_base, tmp_path, BUDGET, **stage)
    resumed.train(resume_from_checkpoint=str(state.parent))
    assert resumed.budget.value == BUDGET


def test_what_does_not_fit_alone_ends_the_run_with_its_tokens(new_policy, tiny_base, tmp_path):
    trainer = new_rl(new_policy, tiny_base, tmp_path, BUDGET)
    with limited(trainer, "forward", 64, 0), pytest.raises(HartError) as caught:
        trainer.train()
    longest = int(str(caught.value).split("a sequence of ")[1].split()[0])
    assert 64 < longest < 128
    assert f"does not fit alone (stages.0.tokens_per_pack is {BUDGET}, halved to 64). Lower" in str(caught.value)


def test_a_sequence_longer_than_the_halved_budget_is_still_tried(new_policy, tiny_base, tmp_path):
    """The budget may have been halved at a step of short sequences: a longer one has a pack of its own."""
    trainer = new_rl(new_policy, tiny_base, tmp_path, BUDGET, steps=1)
    trainer.budget.value = 8
    trainer.train()
    assert metrics(tmp_path)[0]["skipped"] == 0
    assert trainer.budget.value == 8


# -- sampling ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sampling_that_does_not_fit_draws_the_same_in_smaller_batches(policy, tiny_base, caplog, monkeypatch):
    recipe = small_recipe(tiny_base, "unused")
    questions = load_splits(recipe).rl[:3]
    whole = runner_of(recipe, policy)
    expected = whole.rollout(questions, "hart", 3, seed=1)
    runner, most, sizes = runner_of(recipe, policy), 4, []
    generate = runner.engine.generate

    def short(policy, prompts, sampling, cache):
        sizes.append(len(prompts))
        if len(prompts) > most:
            run_out("forward")
        return generate(policy, prompts, sampling, cache)

    monkeypatch.setattr(runner.engine, "generate", short)
    assert without_logps(runner.rollout(questions, "hart", 3, seed=1)) == without_logps(expected)
    assert sizes[0] == 9 and max(sizes[-4:]) <= 4
    assert runner.engine.budget.value < recipe.rollout.tokens_per_batch
    assert f"Set rollout.tokens_per_batch={runner.engine.budget.value} in the recipe" in caplog.text
    most = 0
    with pytest.raises(HartError, match=r"up to 4 tokens after a prompt of \d+ do not fit, not even alone"):
        runner.rollout(questions, "hart", 3, seed=1)


# -- SFT -----------------------------------------------------------------------------------------------------------


def test_rows_that_do_not_fit_are_read_in_halves(new_policy, tiny_base, tmp_path, caplog):
    """The second micro-batch fails: the gradient of the first is there by then, and is made again, too."""
    stage = {"steps": 2, "batch_size": 8, "save_every": 0}
    small = sft_trainer(new_policy, tiny_base, tmp_path / "small", micro_batch_size=2, model=DROPOUT, **stage)
    torch.manual_seed(5)
    small.train()
    large = sft_trainer(new_policy, tiny_base, tmp_path / "large", micro_batch_size=4, model=DROPOUT, **stage)
    most = 2 * max(len(large.rows[n]) for n in range(len(large.rows)))
    torch.manual_seed(5)
    with limited(large, "forward", most, 1) as failed:
        large.train()
    assert len(failed) == 1
    assert same(adapters(large), adapters(small))
    rows, expected = (without_timings(metrics(tmp_path / size)) for size in ("large", "small"))
    assert [row["micro_batch_size"] for row in rows] == [2, 2]
    assert rows == expected
    assert "memory ran out in the update of step 1 with stages.0.micro_batch_size=4" in caplog.text
    assert caplog.text.count("memory ran out") == 1


def test_rows_of_4_and_of_2_are_not_the_same_to_the_bit(new_policy, tiny_base, tmp_path):
    """Or the test above would compare nothing."""
    found = []
    for micro in (4, 2):
        stage = {"steps": 1, "batch_size": 8, "micro_batch_size": micro, "save_every": 0}
        trainer = sft_trainer(new_policy, tiny_base, tmp_path / str(micro), model=DROPOUT, **stage)
        torch.manual_seed(5)
        trainer.train()
        found.append(adapters(trainer))
    assert not same(*found)


def test_a_row_that_does_not_fit_alone_ends_the_run(new_policy, tiny_base, tmp_path, caplog):
    trainer = sft_trainer(new_policy, tiny_base, tmp_path, batch_size=4, micro_batch_size=4, save_every=0)
    numbers = rows_of_step(len(trainer.rows), 4, trainer.args.seed, 0)
    longest = max(len(trainer.rows[n]) for n in numbers)
    message = rf"a row of {longest} tokens does not fit alone \(stages.0.micro_batch_size is 4, halved to 1\)"
    with limited(trainer, "forward", 0, 0) as failed, pytest.raises(HartError, match=message):
        trainer.train()
    assert len(failed) == 3
    assert failed[0] > failed[1] > failed[2]


# -- the pieces ----------------------------------------------------------------------------------------------------


def test_what_failed_is_let_go_before_it_is_tried_again():
    held = []

    def work():
        tensor = torch.ones(3)
        held.append(weakref.ref(tensor))
        run_out("forward")

    gc.disable()
    try:
        assert within_memory(work) is None
        assert held[0]() is None
    finally:
        gc.enable()
    assert within_memory(lambda: 7) == 7


def test_a_backward_pass_that_failed_holds_nothing():
    """Two ways lead back to `x`: when the one fails, the other waits in autograd's queue, and with it the graph."""
    held = []

    class Exp(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            kept = x.exp()
            held.append(weakref.ref(kept))
            ctx.save_for_backward(kept)
            return kept.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * ctx.saved_tensors[0]

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            run_out("backward")

    def work():
        x = torch.ones(3, requires_grad=True)
        one = Exp.apply(x)
        (one + Fails.apply(x)).sum().backward()

    for _ in range(2):
        assert within_memory(work) is None
    assert [reference() for reference in held] == [None, None]


def test_only_a_lack_of_memory_is_caught():
    def fail():
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(fail)
    assert within_memory(lambda: torch.empty(1 << 50, dtype=torch.uint8)) is None  # what the CPU says of it
    assert ran_out(MemoryError())
    assert not ran_out(RuntimeError("out of range"))


def test_what_is_drawn_again_is_the_same():
    draws = Draws(torch.device("cpu"))
    first = torch.rand(4)
    torch.rand(9)
    draws.again()
    assert torch.equal(torch.rand(4), first)


def test_a_budget_never_comes_to_nothing():
    budget = Budget("a", 3)
    for _ in range(4):
        budget.halve("test")
    assert budget.value == 1


# -- on a card -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no card")
def test_a_card_that_is_full_gets_half_the_budget(new_policy, tiny_base, tmp_path):
    """Memory is bounded between what the whole budget takes and what half of it does."""
    model = {"device": "cuda", "dtype": "float32"}
    stage = {"steps": 1, "tokens_per_pack": 4096, "questions_per_step": 4}
    peaks, found = {}, {}
    for budget in (4096, 2048):
        trainer = rl_trainer(
            new_policy, tiny_base, tmp_path / str(budget), model=model, stage=stage | {"tokens_per_pack": budget},
            rollout={"samples": 32},
        )  # fmt: skip
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        trainer.train()
        peaks[budget], found[budget] = torch.cuda.max_memory_reserved(), adapters(trainer)
        del trainer
        gc.collect()
    assert peaks[4096] > 1.1 * peaks[2048]
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((peaks[4096] + peaks[2048]) / 2 / total)
    try:
        trainer = rl_trainer(
            new_policy, tiny_base, tmp_path / "full", model=model, stage=stage, rollout={"samples": 32}
        )
        trainer.train()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert metrics(tmp_path / "full")[0]["tokens_per_pack"] == 2048
    for one, other in zip(adapters(trainer), found[2048], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert isinstance(trainer.policy, Policy)
