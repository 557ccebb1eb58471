"""AP-GRPO inside TRL: its trainer on a tiny Qwen2, against our own loss on the same log-probs."""

import os
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from hart_lite.errors import HartError
from hart_lite.rl.advantages import ap_weights, group_advantages
from hart_lite.rl.losses import policy_loss
from hart_lite.rl.trl_trainer import APGRPOTrainer
from hart_lite.toy.model import toy_tokenizer
from hart_lite.toy.scenes import COLOURS, SHAPES

PROMPTS = [f"Which character is on the {colour} {shape}?" for colour in COLOURS for shape in SHAPES]
SAMPLES, BETA, EPSILON, LONGEST = 4, 0.5, 0.01, 6  # much KL and an early clip, so that both show


@pytest.fixture(scope="module")
def tokenizer():
    return toy_tokenizer()


def tiny_model(tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), initializer_range=0.3, **sizes, **heads, **ids))
    model.generation_config.eos_token_id = list(range(0, len(tokenizer), 4))  # or all would be cut at the same length
    return model


def is_right(completion_ids) -> float:
    """A coin that the first token tosses: any part of a batch can be graded again from its tokens."""
    return float(int(completion_ids[0]) % 2)


def right(completion_ids, **kwargs) -> list[float]:
    return [is_right(ids) for ids in completion_ids]


def trainer(kind, tokenizer, folder, reward=right, model=None, **settings):
    extra = {"k": settings.pop("k", 0.6)} if kind is APGRPOTrainer else {}
    settings = (
        {"beta": BETA, "epsilon": EPSILON, "loss_type": "grpo", "use_bias_correction_kl": False}
        | {"learning_rate": 0.01}
        | settings
    )
    args = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        max_steps=settings.pop("max_steps", 1),
        num_generations=SAMPLES,
        max_completion_length=LONGEST,
        per_device_train_batch_size=settings.pop("batch", 16),
        gradient_checkpointing=False,
        lr_scheduler_type="constant",
        **settings,
    )
    return kind(
        model or tiny_model(tokenizer),
        reward,
        args,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        **extra,
    )


def stir(model, seed: int, std: float = 0.1) -> None:
    """Other adapters: the policy is no longer its reference, nor what it was when it sampled."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * std)


def batches(trainer) -> list[dict]:
    """The micro-batches of one generation, as the trainer takes them from its loader."""
    loader = iter(trainer.get_train_dataloader())
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    taken = []
    for _ in range(trainer.args.steps_per_generation):
        taken.append(trainer._prepare_inputs(next(loader)))
        trainer._step += 1
    return taken


def our_loss(trainer, taken: list[dict], k: float, weighting: str = "grpo", flip: tuple[int, int] = (1, 1)):
    """Our loss on TRL's log-probs of whole groups, put together again by their prompts. `flip` turns mu's signs."""
    logps, old, ref, rows, lengths, advantages, mu1, mu2 = ([] for _ in range(8))
    groups: dict[tuple, list] = {}
    for inputs in taken:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        width = inputs["completion_ids"].shape[1]
        found = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width)[0]
        for n in range(len(ids)):
            kept = inputs["completion_mask"][n].bool()
            before = inputs.get("old_per_token_logps", found.detach())
            values = (found[n][kept], before[n][kept], inputs["ref_per_token_logps"][n][kept])
            prompt = tuple(inputs["prompt_ids"][n][inputs["prompt_mask"][n].bool()].tolist())
            groups.setdefault(prompt, []).append((*values, is_right(inputs["completion_ids"][n])))
    for samples in groups.values():
        assert len(samples) == SAMPLES
        rewards = [[sample[3] for sample in samples]]
        weights = ap_weights(rewards, k=k, beta=BETA)
        for n, sample in enumerate(samples):
            for into, value in zip((logps, old, ref), sample[:3], strict=True):
                into.append(value)
            rows.append(torch.full((len(sample[0]),), len(lengths)))
            lengths.append(len(sample[0]))
            advantages.append(group_advantages(rewards)[0, n])
            mu1.append(1 + flip[0] * (weights[0][0, n] - 1))
            mu2.append(BETA + flip[1] * (weights[1][0, n] - BETA))
    assert any(advantage > 0 for advantage in advantages)
    owner, lengths = torch.cat(rows), torch.tensor(lengths)
    assert len(set(lengths.tolist())) > 2  # else all averages are one
    weights = {
        "grpo": 1 / (lengths[owner] * len(lengths)),
        "bnpo": torch.full(owner.shape, 1 / lengths.sum()),
        "dapo": torch.full(owner.shape, 1 / lengths.sum()),
        "dr_grpo": torch.full(owner.shape, 1 / (len(lengths) * LONGEST)),
    }[weighting]
    return policy_loss(
        logps_T=torch.cat(logps),
        old_logps_T=torch.cat(old),
        advantages_T=torch.stack(advantages)[owner],
        mu1_T=torch.stack(mu1)[owner],
        weights_T=weights,
        clip_eps=EPSILON,
        ref_logps_T=torch.cat(ref),
        mu2_T=torch.stack(mu2)[owner],
    )


def gradients(model) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return found


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo", "dr_grpo"])
def test_it_is_our_loss_on_the_same_log_probs(tokenizer, tmp_path, loss_type):
    """With a policy that has left both its reference and what it sampled with (num_iterations = 2)."""
    ap = trainer(APGRPOTrainer, tokenizer, tmp_path, num_iterations=2, loss_type=loss_type)
    stir(ap.model, seed=1)
    taken = batches(ap)
    stir(ap.model, seed=2)
    loss = ap.compute_loss(ap.model, dict(taken[0]))
    expected, metrics = our_loss(ap, taken, 0.6, loss_type)
    assert metrics["clip_share"] > 0.05
    assert metrics["kl_loss"] > 0.01
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    loss.backward()
    theirs = gradients(ap.model)
    expected.backward()
    torch.testing.assert_close(theirs, gradients(ap.model), rtol=1e-4, atol=1e-6)
    assert ap.beta == BETA
    for flip in ((-1, 1), (1, -1), (-1, -1)):  # else the comparison could not tell a wrong sign
        assert abs(our_loss(ap, taken, 0.6, loss_type, flip)[0].item() - expected.item()) > 1e-4, flip


def test_training_takes_the_steps_of_our_loss(tokenizer, tmp_path):
    """Two optimizer steps on one generation in two micro-batches, over which its shuffled groups are spread."""
    settings = {"batch": 8, "gradient_accumulation_steps": 2, "num_iterations": 2, "max_steps": 2}
    ap = trainer(APGRPOTrainer, tokenizer, tmp_path, optim="sgd", max_grad_norm=0, **settings)
    stir(ap.model, seed=1)
    adapters = [p for p in ap.model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in adapters]
    taken, prepare = [], ap._prepare_inputs
    ap._prepare_inputs = lambda batch: taken.append(prepare(batch)) or taken[-1]
    ap.train()
    trained = [p.detach().clone() for p in adapters]
    assert [batch["completion_ids"].tolist() for batch in taken[:2]] == [
        batch["completion_ids"].tolist() for batch in taken[2:]
    ]
    with torch.no_grad():
        for parameter, value in zip(adapters, start, strict=True):
            parameter.copy_(value)
    for _ in range(2):
        ap.model.zero_grad()
        our_loss(ap, taken[:2], 0.6)[0].backward()
        with torch.no_grad():
            for parameter in adapters:
                parameter -= 0.01 * parameter.grad
    for value, parameter, before in zip(trained, adapters, start, strict=True):
        assert (value - before).norm() > 1e-5
        assert (value - parameter).norm() < 1e-3 * (value - before).norm()


@pytest.mark.parametrize("loss_type", ["dapo", "cispo"])
def test_k_zero_is_grpo_exactly(tokenizer, tmp_path, loss_type):
    settings = {"batch": 8, "gradient_accumulation_steps": 2, "max_steps": 3, "loss_type": loss_type}
    ends = {}
    for name, kind, k in (("trl", GRPOTrainer, {}), ("k = 0", APGRPOTrainer, {"k": 0}), ("k", APGRPOTrainer, {})):
        if name == "k" and loss_type == "cispo":
            continue
        found = trainer(kind, tokenizer, tmp_path, **settings, **k)
        found.train()
        losses = [row["loss"] for row in found.state.log_history if "loss" in row]
        ends[name] = (losses, [p.detach().clone() for p in found.model.parameters() if p.requires_grad])
    assert len(ends["trl"][0]) == 3
    assert ends["k = 0"][0] == ends["trl"][0]
    assert all(map(torch.equal, ends["k = 0"][1], ends["trl"][1]))
    if "k" in ends:
        assert not all(map(torch.equal, ends["k"][1], ends["trl"][1]))


def test_several_rewards_are_summed_by_their_weights_and_none_counts_nowhere(tokenizer, tmp_path):
    """Half a point each for an odd and for a high first token; what begins with a multiple of 5 no function scores."""

    def odd(completion_ids, **kwargs):
        return [None if ids[0] % 5 == 0 else float(ids[0] % 2) for ids in completion_ids]

    def high(completion_ids, **kwargs):
        return [None if ids[0] % 5 == 0 else float(ids[0] > 200) for ids in completion_ids]

    ap = trainer(APGRPOTrainer, tokenizer, tmp_path, reward=[odd, high], reward_weights=[0.5, 0.5])
    (batch,) = batches(ap)
    groups: dict[tuple, list[int]] = {}
    for n, ids in enumerate(batch["prompt_ids"].tolist()):
        groups.setdefault(tuple(ids), []).append(n)
    first = batch["completion_ids"][:, 0].tolist()
    seen, sizes = set(), set()
    for members in groups.values():
        scored = {n: (first[n] % 2 + (first[n] > 200)) / 2 for n in members if first[n] % 5}
        mean = sum(scored.values()) / max(len(scored), 1)
        seen |= set(scored.values())
        sizes.add(len(scored))
        for n in members:
            shift = 0.6 * (scored[n] - mean) if n in scored else 0.0
            assert batch["mu1"][n].item() == pytest.approx(1 + shift, abs=1e-6)
            assert batch["mu2"][n].item() == pytest.approx(BETA * (1 - shift), abs=1e-6)
    assert seen == {0.0, 0.5, 1.0}
    assert sizes & {2, 3}


@pytest.mark.parametrize("samples", [1, SAMPLES])
def test_it_evaluates(tokenizer, tmp_path, samples):
    """One sample has nothing to be compared with, so it carries GRPO's loss."""
    ap = trainer(APGRPOTrainer, tokenizer, tmp_path, num_generations_eval=samples, per_device_eval_batch_size=SAMPLES)
    stir(ap.model, seed=1)
    figures = ap.evaluate(Dataset.from_dict({"prompt": PROMPTS[:4]}))
    assert figures["eval_loss"] > 0  # the policy term of a group cancels or is 0; the KL is left


@pytest.mark.parametrize("k", [1, 1.5, -0.1, float("nan"), True, "0.6", None])
def test_other_k_are_refused(tokenizer, tmp_path, k):
    with pytest.raises(HartError, match="0 up to, not including, 1 is allowed"):
        trainer(APGRPOTrainer, tokenizer, tmp_path, k=k)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "k = 0.6 needs a KL term to weight"),
        *(({"loss_type": name}, f"loss_type = '{name}'.*grpo, bnpo, dapo, dr_grpo are allowed")
          for name in ("cispo", "sapo", "luspo", "vespo")),
    ],
)  # fmt: skip
def test_what_k_cannot_weight_is_refused_before_a_model_is_loaded(tmp_path, settings, message):
    args = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **({"beta": BETA} | settings))
    with pytest.raises(HartError, match=message):
        APGRPOTrainer("no/such-model", right, args, k=0.6)


def test_without_arguments_beta_would_be_zero():
    with pytest.raises(HartError, match=r"TRL's default is beta = 0\.0"):
        APGRPOTrainer("no/such-model", right)


@pytest.mark.parametrize("value", [2.0, -1.0, float("inf")])
def test_rewards_outside_0_to_1_are_refused(tokenizer, tmp_path, value):
    ap = trainer(APGRPOTrainer, tokenizer, tmp_path, reward=lambda completions, **kw: [value] * len(completions))
    with pytest.raises(HartError, match=f"lie between {value:g} and {value:g}; AP-GRPO needs them from 0 to 1"):
        ap.train()


def test_a_trl_that_weights_its_kl_otherwise_is_no_silent_grpo(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", lambda self, model, inputs: inputs["advantages"].sum())
    ap = trainer(APGRPOTrainer, tokenizer, tmp_path)
    with pytest.raises(HartError, match="weights its KL in a new way"):
        ap.train()
    assert ap.beta == BETA


@pytest.mark.slow
def test_a_group_that_two_processes_share_has_one_mean(tmp_path):
    # Not `accelerate launch --cpu --num_processes=2`: without MPI that starts one.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("as expected") == 2


def one_of_two(folder: str) -> None:
    ap = trainer(APGRPOTrainer, toy_tokenizer(), folder, batch=SAMPLES // 2)
    (batch,) = batches(ap)
    own = batch["completion_ids"][:, 0].contiguous()
    rewards = (ap.accelerator.gather(own) % 2).float()
    assert len(rewards) == SAMPLES
    assert len(set(rewards.tolist())) == 2
    torch.testing.assert_close(batch["mu1"], 1 + 0.6 * (own % 2 - rewards.mean()))
    print("as expected")


if __name__ == "__main__":
    one_of_two(sys.argv[1])
