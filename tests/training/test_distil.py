"""Stage `distil`: its gradient by a plain forward pass, who teaches whom, which questions, exact resume."""

from functools import partial

import pytest
import torch
from small_runs import distil_stage, make_up, metrics, rl_stage, small_recipe
from trainers import adapters, distil_trainer, same

import hart_lite.rl.rewards
from hart_lite.errors import HartError
from hart_lite.inference.protocols import hart
from hart_lite.report.run_report import write_report
from hart_lite.rl.losses import token_kl
from hart_lite.runs.splits import load_splits
from hart_lite.training.distil_trainer import DistilTrainer
from hart_lite.training.train import train
from hart_lite.types import Tokens


def by_gold(text: str, answer: str, choices: tuple[str, ...] = ()) -> bool:
    """A grader: right are the questions whose answer is one of three choices."""
    return answer in "ABC"


@pytest.fixture
def new_trainer(new_policy, tiny_base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    monkeypatch.setattr(hart_lite.rl.rewards, "grade", by_gold)
    return partial(distil_trainer, new_policy, tiny_base, tmp_path)


def test_the_divergence_by_hand():
    """KL(p || q) = sum p log(p / q), which is another in the other direction. No gradient reaches the teacher."""
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    student, teacher = p.log().requires_grad_(), q.log().requires_grad_()
    found = token_kl(student, teacher + 3.0)  # logits are known but for a constant
    expected = [
        0.5 * torch.log(torch.tensor(4 / 3)),
        0.9 * torch.log(torch.tensor(1.8)) + 0.1 * torch.log(torch.tensor(0.2)),
    ]
    torch.testing.assert_close(found, torch.stack(expected))
    found.sum().backward()
    assert teacher.grad is None and student.grad.abs().max() > 0.1
    assert (found - token_kl(teacher, student)).abs().min() > 0.01


def drawn(trainer: DistilTrainer) -> list[tuple[Tokens, Tokens]]:
    """What the trainer's next step reads: each response after what the student saw and after what the teacher sees."""
    runner, family, pairs = trainer.runner, trainer.policy.family, []
    run = runner.run

    def kept(examples, protocol, decoding):
        found = run(examples, protocol, decoding)
        for example, one in zip(examples, found, strict=True):
            sight = runner.prompt(example, hart.crops, [family.text(trainer.located[example.id]["said"])])
            pairs.append((one.turns[0].tokens, sight + Tokens.response(one.turns[0].response)))
        return found

    runner.run = kept
    trainer.training_step(trainer.model, {})
    runner.run = run
    return pairs


def test_the_gradient_is_that_of_plain_forward_passes(new_trainer):
    """The mean over the tokens of an answer, over answers: the student sees the image, the teacher the crops alone."""
    trainer = new_trainer(questions_per_step=2)
    pairs = drawn(trainer)
    policy, samples = trainer.policy, trainer.recipe.rollout.samples
    found = torch.cat([p.grad.flatten() for p in policy.adapter_parameters])
    trainer.model.zero_grad()

    def logits(tokens: Tokens) -> torch.Tensor:
        [span] = tokens.sampled
        return (
            policy.model(**policy.family.collate([tokens]), use_cache=False).logits[0, span.start - 1 : span.stop - 1]
            / 8
        )

    assert len(pairs) == 2 * samples
    assert all([s.view.box for s in student.slots] == [None] for student, _ in pairs)
    assert all(None not in [s.view.box for s in teacher.slots] and teacher.slots for _, teacher in pairs)
    loss = sum(token_kl(logits(student), logits(teacher)).mean() for student, teacher in pairs) / len(pairs)
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in policy.adapter_parameters])
    assert trainer.step_metrics["loss"] == pytest.approx(loss.item(), rel=1e-4) and loss > 1e-3
    assert (found - expected).norm() < 1e-4 * expected.norm()


def test_the_student_comes_nearer_to_a_teacher_that_stays_as_it_was(new_trainer, tmp_path):
    trainer = new_trainer(steps=24, lr=5e-4, warmup_steps=0, save_every=0)
    began = adapters(trainer)
    trainer.train()
    rows = metrics(tmp_path)
    assert same(trainer.teacher, began) and not same(adapters(trainer), began)
    assert sum(row["loss"] for row in rows[-8:]) < 0.8 * sum(row["loss"] for row in rows[:8])
    wanted = {"tokens_answer", "seconds_rollout", "seconds_reference", "seconds_update", "tokens_per_second", "skipped"}
    assert wanted | {"packed_tokens", "tokens_per_pack", "peak_memory_gib", "grad_norm"} <= rows[-1].keys()


def test_what_the_rows_of_an_image_share_is_packed_once(new_trainer):
    trainer = new_trainer()
    pairs = drawn(trainer)
    longest = {}
    for student, _ in pairs:
        key = student.slots[0].view
        longest[key] = max(longest.get(key, 0), len(student))
    own = sum(len(span) + 1 for student, _ in pairs for span in student.sampled)
    assert trainer.step_metrics["packed_tokens"] <= sum(longest.values()) + own
    assert trainer.step_metrics["packed_tokens"] < 0.6 * sum(len(student) for student, _ in pairs)


def test_only_questions_whose_boxes_earned_the_reward_are_asked(new_trainer):
    trainer = new_trainer(questions_per_step=3)
    right = {id for id, entry in trainer.located.items() if entry["right"]}
    assert 3 <= len(right) < len(trainer.located)
    assert {example.id for step in range(20) for example in trainer.questions(step)} == right


def test_too_few_of_them_end_the_run_in_words(new_trainer):
    with pytest.raises(
        HartError, match=r"distil: the policy is right from its own crops for \d+ of 16 questions, and a step"
    ):
        new_trainer(questions_per_step=16)


def test_a_resumed_stage_keeps_its_teacher_and_ends_like_an_unbroken_one(new_policy, tiny_base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    monkeypatch.setattr(hart_lite.rl.rewards, "grade", by_gold)
    whole = distil_trainer(new_policy, tiny_base, tmp_path / "whole", steps=3)
    whole.train()
    resumed = distil_trainer(new_policy, tiny_base, tmp_path / "resumed", steps=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/stages/1-distil/checkpoint-2"))
    assert same(resumed.teacher, whole.teacher) and same(adapters(resumed), adapters(whole))


def test_an_update_that_does_not_fit_is_that_of_half_the_budget(new_trainer, tmp_path, caplog):
    half = max(len(tokens) for pair in drawn(new_trainer()) for tokens in pair) + 2
    small, large = (new_trainer(steps=1, save_every=0, tokens_per_pack=n * half) for n in (1, 2))
    kl, sizes = large.policy.kl, []

    def short(packed, *args):
        sizes.append(len(packed))
        if len(packed) > half:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return kl(packed, *args)

    large.policy.kl = short
    for trainer in (small, large):
        trainer.train()
    assert sizes[0] > half >= max(sizes[1:])
    assert same(adapters(small), adapters(large))
    assert metrics(tmp_path)[-1]["tokens_per_pack"] == half
    assert f"memory ran out in the update of step 1 with stages.0.tokens_per_pack={2 * half}" in caplog.text


def test_the_adapters_are_the_policys_own_again_whatever_happens(new_trainer):
    trainer = new_trainer()
    policy, before = trainer.policy, adapters(trainer)
    with pytest.raises(ValueError, match="stop"), policy.adapters([torch.zeros_like(p) for p in before]):
        assert not torch.is_grad_enabled() and all(not p.any() for p in policy.adapter_parameters)
        raise ValueError("stop")
    assert same(adapters(trainer), before)


def test_a_run_with_the_stage_and_its_report(tiny_base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    recipe = small_recipe(tiny_base, tmp_path / "run", [rl_stage(steps=1), distil_stage(steps=1, teacher="full+crops")])
    summary = train(recipe)
    assert list(summary) == ["before", "after-1-rl", "after-2-distil"]
    assert [row["stage"] for row in metrics(tmp_path / "run")] == ["1-rl", "2-distil"]
    assert "1 steps of distillation (teacher: full+crops)" in write_report(tmp_path / "run").read_text()
    splits = load_splits(recipe)
    assert splits.rl and splits.sft  # RL and distillation share no image


def test_without_rl_the_stage_takes_all_questions(tiny_base, tmp_path):
    splits = load_splits(small_recipe(tiny_base, tmp_path, [distil_stage()]))
    assert not splits.rl and len(splits.sft) == 16
