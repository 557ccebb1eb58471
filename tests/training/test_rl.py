"""Stage 1 by hand: weights, the direction of a step, what it may not depend on, and what it prints."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from small_runs import group_of, make_up, metrics
from trainers import rl_trainer

from hart_lite.errors import HartError
from hart_lite.models.packing import pack
from hart_lite.models.policy import Policy
from hart_lite.rl.advantages import group_advantages
from hart_lite.training import rl_trainer as rl
from hart_lite.training.metrics import Clock, measure, over_processes
from hart_lite.training.question_order import QuestionOrder
from hart_lite.training.rl_trainer import RLTrainer, weigh
from hart_lite.training.step_trainer import Update
from hart_lite.types import Example, Group

EXAMPLE = Example("q", (), "?", "A")


@pytest.fixture
def new_trainer(new_policy, tiny_base, tmp_path, monkeypatch):
    """An `RLTrainer` as a run makes it, on made-up rewards and boxes; `adapter_std` 0 is an untouched adapter."""
    make_up(monkeypatch.setattr)

    return partial(rl_trainer, new_policy, tiny_base, tmp_path)


def gradients(trainer: RLTrainer, groups: list[Group] | None = None) -> list[torch.Tensor]:
    """Of one step, without taking it."""
    if groups is not None:
        trainer.rollout = lambda examples, step: groups
    trainer.training_step(trainer.model, {})
    return [p.grad.clone() for p in trainer.policy.adapter_parameters]


def rolled_out(trainer: RLTrainer, questions: int = 2) -> list[Group]:
    groups = trainer.runner.rollout(trainer.examples[:questions], "hart", trainer.recipe.rollout.samples, seed=0)
    return [with_rewards(group, [1.0] + [0.0] * (len(group.trajectories) - 1)) for group in groups]


def with_rewards(group: Group, rewards: list[float]) -> Group:
    pairs = zip(group.trajectories, rewards, strict=True)
    return Group(group.example, tuple(replace(t, reward=reward) for t, reward in pairs))


# -- weights -------------------------------------------------------------------------------------------------------


def test_weights_of_two_groups_by_hand():
    """Group one is flat and left out. Group two: rewards 1, 0; trajectory one sampled 2 + 3 tokens, trajectory two 4.

    mean 1/2, std sqrt(1/2): A = +-0.5 / (0.70711 + 1e-4); mu1 = 1 +- 0.3; mu2 = 0.01 (1 -+ 0.3); a token of trajectory
    one weighs 1/(5 * 2), of trajectory two 1/(4 * 2).
    """
    flat = group_of(EXAMPLE, [1.0, 1.0], [(2, 2), (2, 2)])
    live = group_of(EXAMPLE, [1.0, 0.0], [(2, 3), (4,)])
    batch = weigh([flat, live], k=0.6, beta=0.01)
    assert batch.sequences == [*live.trajectories[0].sequences, *live.trajectories[1].sequences]
    a = 0.5 / (0.5**0.5 + 1e-4)
    assert torch.allclose(batch.advantages, torch.tensor([a, a, -a]))
    assert torch.allclose(batch.mu1, torch.tensor([1.3, 1.3, 0.7]))
    assert torch.allclose(batch.mu2, torch.tensor([0.007, 0.007, 0.013]))
    assert torch.allclose(batch.weights, torch.tensor([0.1, 0.1, 0.125]))
    tokens = torch.tensor([2, 3, 4])
    assert (batch.weights * tokens).sum().item() == pytest.approx(1)


def test_a_group_without_signal_does_not_make_the_step_smaller():
    flat, live = group_of(EXAMPLE, [0.0, 0.0], [(1,), (1,)]), group_of(EXAMPLE, [0.0, 1.0], [(1, 1), (2, 2)])
    alone, beside = weigh([live], 0.6, 0.01), weigh([flat, live, flat], 0.6, 0.01)
    assert torch.equal(alone.weights, beside.weights)
    assert torch.equal(alone.advantages, beside.advantages)


def test_without_signal_there_is_nothing_to_train_on():
    batch = weigh([group_of(EXAMPLE, [1.0, 1.0], [(1,), (2,)])], 0.6, 0.01)
    assert batch.sequences == []
    assert len(batch.weights) == 0


# -- the order of questions ----------------------------------------------------------------------------------------


def test_questions_come_in_whole_permutations_that_the_seed_decides():
    order = [QuestionOrder(5, 1, seed=1)[i] for i in range(15)]
    passes = [order[:5], order[5:10], order[10:]]
    assert all(sorted(p) == list(range(5)) for p in passes)
    assert passes[0] != passes[1]
    again = QuestionOrder(5, 5, seed=1)
    assert [again[i] for i in reversed(range(15))] == order[::-1]  # item i is item i, asked in any order
    assert [QuestionOrder(5, 1, seed=2)[i] for i in range(15)] != order


@pytest.mark.parametrize(("examples", "per_step"), [(5, 2), (7, 3), (4, 4), (9, 8)])
def test_a_step_asks_no_question_twice_and_every_question_is_asked(examples, per_step):
    order = QuestionOrder(examples, per_step, seed=0)
    steps = [[order[step * per_step + n] for n in range(per_step)] for step in range(100)]
    assert all(len(set(step)) == per_step for step in steps)
    assert {n for step in steps for n in step} == set(range(examples))


def test_a_step_larger_than_the_data_is_refused(new_trainer):
    with pytest.raises(
        HartError, match=r"questions_per_step = 64, and there are \d+ questions: a step asks none twice"
    ):
        new_trainer(stage={"questions_per_step": 64})


def test_replaced_questions_are_others_in_every_process(new_trainer, monkeypatch):
    """Two processes of a step whose groups are all flat, until no question is left. Together they have the questions
    that one process has."""
    trainer = new_trainer(stage={"questions_per_step": 4}, rollout={"resample_flat_groups": 50})
    alone, first = [e.id for e in trainer.questions(1)], []
    trainer.rollout = lambda examples, step, attempt=0: [group_of(e, [0, 0], [(1,), (1,)]) for e in examples]
    asked = []
    for process in (0, 1):
        trainer.args = SimpleNamespace(world_size=2, process_index=process)
        own = trainer.questions(1)
        groups, replaced = trainer.replace_flat(trainer.rollout(own, 1), 1)
        first += [e.id for e in own]
        asked += [e.id for e in own] + [group.example.id for group in replaced]
        assert [g.example.id for g in groups] != [e.id for e in own]
    assert first == alone and len(alone) == 4
    assert sorted(asked) == sorted(e.id for e in trainer.examples)


def test_only_flat_groups_are_replaced_and_only_so_often(new_trainer):
    trainer = new_trainer(rollout={"resample_flat_groups": 2})
    asked = []

    def rollout(examples, loop, samples, seed, first=0):
        asked.append((len(examples), seed))
        call = len(asked)  # first: flat, live, flat; second: live, flat; third: flat
        rewards = {1: [(0, 0), (0, 1), (1, 1)], 2: [(1, 0), (0, 0)], 3: [(0, 0)]}[call]
        return [
            group_of(replace(EXAMPLE, id=f"{call}-{n}"), r, [(1,), (1,)])
            for n, (r, _) in enumerate(zip(rewards, examples, strict=True))
        ]

    trainer.runner = type("Fake", (), {"rollout": staticmethod(rollout)})()
    first = trainer.rollout(trainer.examples[:3], step=0)
    groups, replaced = trainer.replace_flat(first, step=0)
    assert [group.example.id for group in groups] == ["2-0", "1-1", "3-0"]
    assert [group.example.id for group in replaced] == ["2-0", "2-1", "3-0"]
    assert [group.example.id for group in first] == ["1-0", "1-1", "1-2"]  # what the figures are about
    assert [n for n, _ in asked] == [3, 2, 1]
    assert len({seed for _, seed in asked}) == 3


# -- the gradient --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rewarded", [0, 1])
def test_a_step_raises_what_was_rewarded_and_lowers_what_was_not(new_trainer, rewarded):
    trainer = new_trainer(stage={"steps": 1, "questions_per_step": 1, "lr": 1e-3}, rollout={"samples": 2})
    [group] = rolled_out(trainer, 1)
    assert len({t.turns[0].response for t in group.trajectories}) == 2
    group = with_rewards(group, [float(n == rewarded) for n in range(2)])
    trainer.rollout = lambda examples, step: [group]
    policy = trainer.policy

    def score(trajectory) -> float:
        packs = pack(trajectory.sequences, policy.family.positions, 4096)
        with torch.no_grad():
            return sum(policy.logps(p, 8.0).sum().item() for p in packs)

    before = [score(t) for t in group.trajectories]
    trainer.train()
    after = [score(t) for t in group.trajectories]
    assert after[rewarded] > before[rewarded] + 1e-4
    assert after[1 - rewarded] < before[1 - rewarded] - 1e-4


def test_the_gradient_is_that_of_the_policy_at_the_temperature_it_sampled_at(new_trainer):
    """One live group of two, no KL: -sum of A log-prob / (tokens x 2), the log-probs by the model's own forward."""
    trainer = new_trainer(stage={"questions_per_step": 1}, rollout={"samples": 2}, objective="grpo", beta=0.0)
    [group] = rolled_out(trainer, 1)
    found = torch.cat([g.flatten() for g in gradients(trainer, [group])])
    policy, expected = trainer.policy, {}
    for temperature in (trainer.recipe.rollout.temperature, 1.0):
        trainer.model.zero_grad()
        for sample, advantage in zip(group.trajectories, group_advantages([group.rewards])[0], strict=True):
            tokens = sum(len(span) for s in sample.sequences for span in s.sampled)
            for sequence in sample.sequences:
                logits = policy.model(**policy.family.collate([sequence]), use_cache=False).logits[0] / temperature
                for span in sequence.sampled:
                    taken = torch.tensor(sequence.ids[span.start : span.stop])[:, None]
                    logps = logits[span.start - 1 : span.stop - 1].log_softmax(-1).gather(-1, taken)
                    (-advantage * logps.sum() / (2 * tokens)).backward()
        expected[temperature] = torch.cat([p.grad.flatten() for p in policy.adapter_parameters])
    sampled_at, one = expected.values()
    assert (found - sampled_at).norm() < 1e-4 * sampled_at.norm()
    assert (found - one).norm() > 0.3 * one.norm()


def test_grpo_is_k_of_zero_bit_for_bit(new_trainer):
    groups = rolled_out(new_trainer())
    grpo = gradients(new_trainer(objective="grpo", k=0.6), groups)
    zero = gradients(new_trainer(objective="ap_grpo", k=0.0), groups)
    paper = gradients(new_trainer(objective="ap_grpo", k=0.6), groups)
    assert all(torch.equal(a, b) for a, b in zip(grpo, zero, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(grpo, paper, strict=True))


def test_a_stage_may_have_its_own_objective(new_trainer):
    assert new_trainer(stage={"objective": "grpo"}).k == 0.0
    assert new_trainer(stage={"objective": "ap_grpo"}, objective="grpo", k=0.3).k == 0.3
    assert new_trainer(stage={"loop": "mgpo"}).loop == "mgpo"


def test_gradients_do_not_depend_on_the_token_budget(new_trainer):
    groups = rolled_out(new_trainer())
    longest = max(len(s) for g in groups for t in g.trajectories for s in t.sequences)
    whole, cut = new_trainer(), new_trainer(stage={"tokens_per_pack": max(longest, 64)})
    one, many = gradients(whole, groups), gradients(cut, groups)
    assert cut.step_metrics["packed_tokens"] > whole.step_metrics["packed_tokens"]  # prefixes were repeated
    for a, b in zip(one, many, strict=True):
        assert (a - b).norm() <= 1e-4 * a.norm()
    assert cut.step_metrics["loss"] == pytest.approx(whole.step_metrics["loss"], abs=1e-5)
    assert cut.step_metrics["kl"] == pytest.approx(whole.step_metrics["kl"], rel=1e-3)


def test_only_the_turns_asked_for_are_trained(new_trainer):
    trainer = new_trainer(train_turns=["locate"])
    groups = trainer.runner.rollout(trainer.examples[:2], "hart", 3, seed=0)
    assert any(len(t.turns) == 2 for g in groups for t in g.trajectories)
    assert all(t.sequences == (t.turns[0].tokens,) for g in groups for t in g.trajectories)


def test_without_beta_no_reference_is_asked(new_trainer, monkeypatch):
    def fail(self):
        raise AssertionError("reference pass")

    groups = rolled_out(new_trainer())
    monkeypatch.setattr(Policy, "reference", fail)
    trainer = new_trainer(objective="grpo", beta=0.0)
    assert any(g.any() for g in gradients(trainer, groups))
    assert "kl" not in trainer.step_metrics  # it was not measured, which is not 0
    with pytest.raises(AssertionError, match="reference pass"):
        gradients(new_trainer(objective="grpo"), groups)


def test_the_policy_leaves_its_reference_with_the_first_step(new_trainer, tmp_path):
    trainer = new_trainer(adapter_std=0.0)
    groups = rolled_out(trainer)
    trainer.rollout = lambda examples, step: groups
    trainer.train()
    kl = [row["kl"] for row in metrics(tmp_path)]
    assert kl[0] == pytest.approx(0, abs=1e-7)
    assert min(kl[1:]) > 1e-5


@pytest.mark.parametrize("scale", [1.0, 1024.0])  # of gradients, in float16
def test_a_step_without_signal_changes_nothing(new_trainer, scale):
    trainer = new_trainer(stage={"steps": 2, "weight_decay": 0.1})
    trainer.guard.scale.value = scale
    flat = [with_rewards(group, [1.0, 1.0, 1.0]) for group in rolled_out(trainer)]
    trainer.rollout = lambda examples, step: flat
    before = [p.detach().clone() for p in trainer.policy.adapter_parameters]
    trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.policy.adapter_parameters, strict=True))


@pytest.mark.parametrize("other", [0.0, 1.0])  # live groups of the other process
def test_with_several_processes_only_a_step_without_any_signal_changes_nothing(new_trainer, other):
    """Adam moves on a gradient of zero by its momentum: there must be none."""
    trainer = new_trainer(stage={"steps": 3, "weight_decay": 0.1})
    live = rolled_out(trainer)
    flat = [with_rewards(group, [1.0, 1.0, 1.0]) for group in live]
    trainer.rollout = lambda examples, step: flat if step == 2 else live
    trainer.create_optimizer()
    for trainer.state.global_step in (0, 1):
        trainer.training_step(trainer.model, {})
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
    before = [p.detach().clone() for p in trainer.policy.adapter_parameters]
    own, trainer.args = trainer.args, SimpleNamespace(world_size=2, process_index=0, device=trainer.args.device)
    trainer.stage = trainer.stage.model_copy(update={"questions_per_step": 4})
    trainer.summed = lambda value: value + other if value.dim() == 0 else value
    trainer.state.global_step = 2
    trainer.training_step(trainer.model, {})
    trainer.args = own
    trainer.optimizer.step()
    changed = not all(torch.equal(a, b) for a, b in zip(before, trainer.policy.adapter_parameters, strict=True))
    assert changed == bool(other)


def test_a_gradient_that_is_not_finite_skips_its_step_and_is_counted(new_trainer, tmp_path, monkeypatch):
    trainer = new_trainer(stage={"steps": 2})
    groups, calls = rolled_out(trainer), []
    before = [p.detach().clone() for p in trainer.policy.adapter_parameters]
    seen = []

    def poisoned(**inputs):
        calls.append(1)
        seen.append([p.detach().clone() for p in trainer.policy.adapter_parameters])
        loss, figures = policy_loss(**inputs)
        return (loss * float("nan") if len(calls) == 1 else loss), figures

    policy_loss = rl.policy_loss
    monkeypatch.setattr(rl, "policy_loss", poisoned)
    trainer.rollout = lambda examples, step: groups
    trainer.train()
    assert [row["skipped"] for row in metrics(tmp_path)] == [1, 0]
    assert all(torch.equal(a, b) for a, b in zip(before, seen[1], strict=True))
    after = trainer.policy.adapter_parameters
    assert all(bool(torch.isfinite(p).all()) for p in after)
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_half_precision_gradients_are_scaled_back(new_trainer):
    trainer = new_trainer()
    for parameter in trainer.policy.adapter_parameters:
        parameter.grad = torch.full_like(parameter, 1024.0)
    trainer.guard.scale.value = 1024.0
    assert not trainer.finish(Update([], {"loss": 0.0}, []), [])
    assert all(bool((p.grad == 1).all()) for p in trainer.policy.adapter_parameters)


# -- what a step prints --------------------------------------------------------------------------------------------


def test_a_step_prints_what_the_method_asks_for_and_forgets_its_images(new_trainer, tmp_path, monkeypatch):
    trainer = new_trainer(stage={"steps": 2, "lr": 1e-4})
    seen, encode = [], trainer.policy.encode
    monkeypatch.setattr(trainer.policy, "encode", lambda views: seen.extend(views) or encode(views))
    trainer.train()
    rows = metrics(tmp_path)
    assert [(row["stage"], row["step"]) for row in rows] == [("1-rl", 1), ("1-rl", 2)]
    wanted = {"reward", "flat_groups", "valid_box", "coverage", "tokens_locate", "tokens_verify", "kl", "policy_loss"}
    wanted |= {"seconds_rollout", "seconds_reference", "seconds_update", "tokens_per_second", "peak_memory_gib"}
    wanted |= {"loss", "grad_norm", "learning_rate", "skipped", "rejected_boxes", "packed_tokens"}
    for row in rows:
        assert wanted <= row.keys()
        assert 0 < row["valid_box"] <= 1
        assert row["coverage"] == pytest.approx(0.09 * row["valid_box"], abs=0.02)  # boxes are 0.3 x 0.3 of the image
        assert min(row["seconds_rollout"], row["tokens_per_second"], row["peak_memory_gib"]) > 0
    family, made = trainer.policy.family, []
    features = family.features
    monkeypatch.setattr(family, "features", lambda model, images: made.extend(images) or features(model, images))
    encode(seen[-1:])
    assert len(made) == 1


def test_figures_of_a_step_by_hand(new_trainer):
    trainer = new_trainer()
    [one, two] = trainer.examples[:2]
    groups = [group_of(one, [1.0, 0.0], [(2, 3), (4,)]), group_of(two, [0.0, 0.0], [(6,), (8, 1)])]
    clock = Clock(torch.device("cpu"))
    for name in ("rollout", "reference", "update"):
        clock.lap(name)
    figures = measure(groups, [], [], {"skipped": 0.0}, clock)
    assert (figures["reward"], figures["flat_groups"]) == (0.25, 0.5)
    assert (figures["tokens_locate"], figures["tokens_verify"]) == (5.0, 2.0)
    assert (figures["valid_box"], figures["coverage"]) == (0.0, 0.0)
    assert figures["tokens_per_second"] == pytest.approx(24 / clock.laps["rollout"])


def test_figures_of_processes_are_means_over_all_that_was_measured(monkeypatch):
    """Of two: one answered twice, the other four times and not at all by `verify`; its groups were all flat."""
    parts = [
        {"reward": (1.0, 4), "tokens_verify": (10, 2), "loss": (0.5, 0), "kl": (0.25, 0)},
        {"reward": (3.0, 4), "loss": (0.0, 0)},
    ]
    monkeypatch.setattr("hart_lite.training.metrics.gather_object", lambda mine: parts)
    assert over_processes(parts[0]) == {"reward": 0.5, "tokens_verify": 5.0, "loss": 0.5, "kl": 0.25}
