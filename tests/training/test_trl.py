"""AP-GRPO inside TRL: its trainer on a tiny Qwen2, against our own loss on the same log-probs."""

import functools
import inspect
import math
import os
import re
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl_loss import random_step

from hart_lite.errors import HartError
from hart_lite.rl.advantages import ap_weights, group_advantages
from hart_lite.rl.losses import policy_loss
from hart_lite.rl.trl_trainer import NEEDED, APGRPOTrainer
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


def our_loss(trainer, taken: list[dict], k: float, flip: tuple[int, int] = (1, 1)):
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
    return policy_loss(
        logps_T=torch.cat(logps),
        old_logps_T=torch.cat(old),
        advantages_T=torch.stack(advantages)[owner],
        mu1_T=torch.stack(mu1)[owner],
        weights_T=1 / (lengths[owner] * len(lengths)),
        clip_eps=EPSILON,
        ref_logps_T=torch.cat(ref),
        mu2_T=torch.stack(mu2)[owner],
    )


def gradients(model) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return found


def test_it_is_our_loss_on_the_same_log_probs(tokenizer, tmp_path):
    """With a policy that has left both its reference and what it sampled with (num_iterations = 2)."""
    ap = trainer(APGRPOTrainer, tokenizer, tmp_path, num_iterations=2)
    stir(ap.model, seed=1)
    taken = batches(ap)
    stir(ap.model, seed=2)
    loss = ap.compute_loss(ap.model, dict(taken[0]))
    expected, metrics = our_loss(ap, taken, 0.6)
    assert metrics["clip_share"] > 0.05
    assert metrics["kl_loss"] > 0.01
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    loss.backward()
    theirs = gradients(ap.model)
    expected.backward()
    torch.testing.assert_close(theirs, gradients(ap.model), rtol=1e-4, atol=1e-6)
    for flip in ((-1, 1), (1, -1), (-1, -1)):  # else the comparison could not tell a wrong sign
        assert abs(our_loss(ap, taken, 0.6, flip)[0].item() - expected.item()) > 1e-4, flip


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


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "cispo"])
def test_k_zero_is_grpo_exactly(tokenizer, tmp_path, loss_type):
    settings = {"batch": 8, "gradient_accumulation_steps": 2, "max_steps": 3, "loss_type": loss_type}
    kinds = [("trl", GRPOTrainer, {}), ("k = 0", APGRPOTrainer, {"k": 0})]
    if loss_type == "grpo":
        kinds.append(("k", APGRPOTrainer, {}))
    ends = {}
    for name, kind, k in kinds:
        found = trainer(kind, tokenizer, tmp_path, **settings, **k)
        found.train()
        losses = [row["loss"] for row in found.state.log_history if "loss" in row]
        ends[name] = (losses, [p.detach().clone() for p in found.model.parameters() if p.requires_grad])
    assert len(ends["trl"][0]) == 3
    assert ends["k = 0"][0] == ends["trl"][0]
    assert all(map(torch.equal, ends["k = 0"][1], ends["trl"][1]))
    assert "k" not in ends or not all(map(torch.equal, ends["k"][1], ends["trl"][1]))


def test_the_log_has_the_kl_and_the_entropy_that_trl_would_have(tokenizer, tmp_path):
    rows = []
    for kind in (GRPOTrainer, APGRPOTrainer):
        found = trainer(kind, tokenizer, tmp_path)
        stir(found.model, seed=1)
        found.train()
        rows += [row for row in found.state.log_history if "loss" in row]
    theirs, ours = rows
    assert ours["entropy"] == pytest.approx(theirs["entropy"], rel=1e-5)
    assert ours["kl"] == pytest.approx(theirs["kl"], rel=0.25) != 0  # TRL's is over tokens, ours over sequences
    assert ours["kl_loss"] + ours["policy_loss"] == pytest.approx(ours["loss"], abs=1e-5)
    assert ours["clip_share"] == 0  # the ratio is 1


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
        *(({"loss_type": name}, f"loss_type = '{name}' with k.*set GRPOConfig\\(loss_type='grpo'\\)")
          for name in ("bnpo", "dapo", "dr_grpo", "cispo", "sapo", "luspo", "vespo")),
        ({"use_bias_correction_kl": True}, r"set GRPOConfig\(use_bias_correction_kl=False\)"),
        ({"importance_sampling_level": "sequence"}, r"set GRPOConfig\(importance_sampling_level='token'\)"),
        ({"delta": 2.0}, r"set GRPOConfig\(delta=None\)"),
        ({"top_entropy_quantile": 0.2}, r"top_entropy_quantile = 0.2 with k"),
        ({"entropy_coef": 0.01}, r"set GRPOConfig\(entropy_coef=0.0\)"),
        ({"use_adaptive_entropy": True}, r"set GRPOConfig\(.*use_adaptive_entropy=False\)"),
        ({"off_policy_mask_threshold": 0.5}, r"set GRPOConfig\(off_policy_mask_threshold=None\)"),
        ({"loss_type": "dapo", "delta": 2.0}, r"'dapo', delta = 2.0 .* set GRPOConfig\(loss_type='grpo', delta=None\)"),
    ],
)  # fmt: skip
def test_what_k_cannot_weight_is_refused_before_a_model_is_loaded(tmp_path, settings, message):
    settings = {"beta": BETA, "loss_type": "grpo", "use_bias_correction_kl": False} | settings
    args = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **settings)
    with pytest.raises(HartError, match=message):
        APGRPOTrainer("no/such-model", right, args, k=0.6)


def test_a_mixture_of_experts_keeps_trls_loss(tokenizer, tmp_path):
    model = tiny_model(tokenizer)
    model.config.output_router_logits, model.config.router_aux_loss_coef = False, 0.01  # what TRL knows one by
    with pytest.raises(HartError, match=r"set GRPOConfig\(router_aux_loss_coef=0.0\), or k=0"):
        trainer(APGRPOTrainer, tokenizer, tmp_path, model=model)


def test_without_arguments_beta_would_be_zero():
    with pytest.raises(HartError, match=r"TRL's default is beta = 0\.0"):
        APGRPOTrainer("no/such-model", right)


@pytest.mark.parametrize("value", [2.0, -1.0, float("inf")])
def test_rewards_outside_0_to_1_are_refused(tokenizer, tmp_path, value):
    ap = trainer(APGRPOTrainer, tokenizer, tmp_path, reward=lambda completions, **kw: [value] * len(completions))
    with pytest.raises(HartError, match=f"lie between {value:g} and {value:g}; AP-GRPO needs them from 0 to 1"):
        ap.train()


# -- the loss on given log-probs -----------------------------------------------------------------------------------


@pytest.fixture
def on_given(tokenizer, tmp_path):
    """(trainer, its loss on a batch of log-probs instead of a model's)."""
    ap = trainer(APGRPOTrainer, tokenizer, tmp_path, epsilon=0.1, epsilon_high=0.3)
    ap.current_gradient_accumulation_steps = 2

    def loss(logps: torch.Tensor, **inputs) -> torch.Tensor:
        ids = torch.zeros(logps.shape, dtype=torch.long)
        ap._get_per_token_logps_and_entropies = lambda *args, **kwargs: (logps, torch.zeros_like(logps), None)
        prompts = {name: ids for name in ("prompt_ids", "prompt_mask", "completion_ids")}
        return ap.compute_loss(ap.model, prompts | {"advantages": torch.zeros(len(ids)).double()} | inputs)

    return ap, loss


def batch_of(s) -> dict[str, torch.Tensor]:
    return {
        "completion_mask": s.mask.long(),
        "advantages": group_advantages(s.rewards).flatten(),
        "old_per_token_logps": s.old,
        "ref_per_token_logps": s.ref,
    }


def mu(s, k: float) -> dict[str, torch.Tensor]:
    return dict(zip(("mu1", "mu2"), map(torch.flatten, ap_weights(s.rewards, k=k, beta=BETA)), strict=True))


@pytest.mark.parametrize("more", [(), ("tool_mask",), ("importance_sampling_ratio",), ("no old",)])
def test_with_the_weights_of_grpo_it_is_trls_loss_and_gradient(on_given, more):
    """TRL's own `compute_loss` takes the batches without mu. Clip, accumulation, tools and vLLM's weights included."""
    ap, loss = on_given
    s = random_step()
    batch = batch_of(s)
    if "tool_mask" in more:
        batch["tool_mask"] = (torch.arange(s.mask.shape[1]) != 1).long().expand_as(s.mask)
    if "importance_sampling_ratio" in more:
        ap.use_vllm = ap.vllm_importance_sampling_correction = True
        batch["importance_sampling_ratio"] = s.ref.exp()
    if "no old" in more:
        del batch["old_per_token_logps"]
    ours, theirs = s.logps.clone().requires_grad_(), s.logps.clone().requires_grad_()
    found, expected = loss(ours, **batch, **mu(s, 0)), loss(theirs, **batch)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    found.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)
    assert abs(loss(s.logps, **batch, **mu(s, 0.6)) - expected) > 1e-3


def test_a_worked_example_by_hand(on_given):
    """Two samples, rewards 1 and 0, k = 0.6, beta = 0.5: mu1 = 1.3, 0.7; mu2 = 0.35, 0.65; say A = 1, -1.

    Sample one has two tokens of ratio 1.5 and 1 and a third that is masked, sample two has one token of ratio 1.5. A
    ratio above 1.3 is clipped where A is positive only. d = ref - lp is ln 2 at the token of sample two alone, where
    k3 = 2 - ln 2 - 1. Loss: -(1.3 (1.3 + 1) / 2 - 0.7 * 1.5 - 0.65 (1 - ln 2)) / 2, and half of it for each of two
    micro-batches.
    """
    _, loss = on_given
    up, two = math.log(1.5), math.log(2)
    logps = torch.tensor([[up, 0.0, 9.0], [up, 0.0, 0.0]], dtype=torch.float64)
    mu1, mu2 = ap_weights(torch.tensor([[1.0, 0.0]], dtype=torch.float64), k=0.6, beta=0.5)
    found = loss(
        logps,
        completion_mask=torch.tensor([[1, 1, 0], [1, 0, 0]]),
        advantages=torch.tensor([1.0, -1.0], dtype=torch.float64),
        old_per_token_logps=torch.zeros_like(logps),
        ref_per_token_logps=logps + torch.tensor([[0.0, 0.0, 9.0], [two, 9.0, 9.0]], dtype=torch.float64),
        mu1=mu1[0],
        mu2=mu2[0],
    )
    by_hand = -(1.3 * (1.3 + 1) / 2 - 0.7 * 1.5 - 0.65 * (1 - two)) / 2
    assert found.item() == pytest.approx(by_hand / 2, abs=1e-12)


# -- what breaks when TRL moves ------------------------------------------------------------------------------------


def test_trls_own_loss_reads_no_setting_that_ours_does_not_know():
    """A new one belongs into `compute_loss` or into `NEEDED`: until then it would be passed over in silence."""
    read = set(re.findall(r"self\.(?:args\.)?(\w+)", inspect.getsource(GRPOTrainer._compute_loss)))
    in_ours = {"beta", "epsilon_low", "epsilon_high", "current_gradient_accumulation_steps", "model", "accelerator"}
    in_ours |= {"_get_per_token_logps_and_entropies", "_metrics", "aux_loss_enabled", "router_aux_loss_coef"}
    in_ours |= {"use_vllm", "vllm_importance_sampling_correction"}  # these weights come with the batch
    of_the_refused = {name for name in read if name.startswith(("sapo_", "vespo_", "entropy_", "_entropy_"))}
    of_the_refused |= {"_last_world_entropy", "get_high_entropy_mask", "get_off_policy_mask", "get_gamma_weights"}
    of_the_refused |= {"max_completion_length", "steps_per_generation"}  # of dr_grpo and dapo
    assert read - in_ours - of_the_refused <= NEEDED.keys()
    assert NEEDED.keys() <= read | {"entropy_coef"}


def test_a_batchs_images_reach_trls_log_probs(tokenizer, tmp_path):
    """They are found by the names of the method's parameters."""
    ap = trainer(APGRPOTrainer, tokenizer, tmp_path)
    (batch,) = batches(ap)
    score, given = ap._get_per_token_logps_and_entropies, {}
    images = {"pixel_values", "image_grid_thw", "mm_token_type_ids", "num_images"}
    assert images <= inspect.signature(score).parameters.keys()

    @functools.wraps(score)
    def noted(*args, **kwargs):
        given.update(kwargs)
        return score(*args, compute_entropy=True)

    ap._get_per_token_logps_and_entropies = noted
    ap.compute_loss(ap.model, batch | {name: name.upper() for name in images})
    assert {name: given[name] for name in images} == {name: name.upper() for name in images}
    assert not {"advantages", "mu1", "completion_ids"} & given.keys()


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
