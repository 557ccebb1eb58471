import collections
import json
import shutil

import bitsandbytes as bnb
import pytest
import torch
from pictures import Photo, drawn, packed_logps, photo_view, stock_inputs, stock_logps
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, GPT2Config, Qwen2_5_VLForConditionalGeneration

from hart_lite.config.sections import Lora, ModelSection
from hart_lite.errors import HartError
from hart_lite.models.generation import Sampling, generate, pick
from hart_lite.models.loading import load_policy, pick_attention
from hart_lite.models.packing import pack
from hart_lite.models.policy import Policy
from hart_lite.types import Box, ImageView, Tokens

ALL_PARTS = Lora(parts=["language", "vision", "projector"])


def said(n: int, seed: int) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    return Tokens.response(tuple(torch.randint(20, 600, (n,), generator=generator).tolist()))


def first_turns(family) -> list[Tokens]:
    """Two questions with one and with two images, three responses of different lengths each."""
    one = family.chat((photo_view(112, 56, 1), "Which character is on the red square?"))
    two = family.chat((photo_view(56, 84, 2), photo_view(28, 28, 3), "Which character is on the blue circle?"))
    return [prompt + said(n, n) for prompt in (one, two) for n in (5, 1, 8)]


def second_turns(family) -> list[Tokens]:
    """The text first, then crops: two samples chose the same crop, one another, one chose two."""
    photo = Photo(400, 300, 4)
    left, right = (ImageView(photo, (56, 56), Box(x, 10, x + 100, 110)) for x in (20, 200))
    crops = ((left,), (left,), (right,), (left, right))
    return [family.chat(("Answer the question: which?\n", *c)) + said(4, 10 + n) for n, c in enumerate(crops)]


def conversations(family) -> list[Tokens]:
    """Two sampled spans in one sequence, the full image still there."""
    full, crop = photo_view(112, 56, 1), photo_view(56, 56, 5)
    prompt = family.chat((full, "Where is it?"))
    return [prompt + said(n, n) + family.reply((crop, "What is it?"), False) + said(3, 20 + n) for n in (4, 2)]


SEQUENCES = {"first turns": first_turns, "second turns": second_turns, "conversations": conversations}
EVERYTHING = [make for make in SEQUENCES.values()]


# -- log-probs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [70, 150, 4096])
@pytest.mark.parametrize("make", SEQUENCES.values(), ids=SEQUENCES.keys())
@torch.no_grad()
def test_packed_log_probs_are_the_stock_models(policy, make, budget):
    sequences = make(policy.family)
    packed = packed_logps(policy, sequences, budget)
    for ours, tokens in zip(packed, sequences, strict=True):
        torch.testing.assert_close(ours, stock_logps(policy, tokens), rtol=0, atol=1e-5)


def test_a_pack_is_shorter_than_its_sequences(policy):
    sequences = first_turns(policy.family)
    [row] = pack(sequences, policy.family.positions, 4096)
    assert len(row) < 0.5 * sum(map(len, sequences))


def gradients(policy: Policy, logps: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of a sum in which every token has another weight."""
    flat = torch.cat(logps)
    policy.model.zero_grad()
    (flat * torch.linspace(-1, 1, len(flat))).sum().backward()
    return {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.requires_grad}


def assert_gradients_agree(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert expected.norm() > 0, name
        assert (ours[name] - expected).norm() <= 1e-4 * expected.norm(), name


@pytest.mark.parametrize("section", [{}, {"gradient_checkpointing": True}, {"lora": ALL_PARTS}], ids=str)
def test_gradients_packed_and_unpacked_agree(new_policy, section):
    policy = new_policy(**section)
    policy.model.train()
    sequences = [tokens for make in EVERYTHING for tokens in make(policy.family)]
    theirs = gradients(policy, [stock_logps(policy, tokens) for tokens in sequences])
    for budget in (150, 4096):
        ours = gradients(policy, packed_logps(policy, sequences, budget))
        assert_gradients_agree(ours, theirs)
    parts = {name.split(".")[1] for name in theirs}
    assert parts == ({"visual", "language_model"} if "lora" in section else {"language_model"})
    if "lora" in section:
        assert any("merger" in name for name in theirs)


def test_gradient_checkpointing_computes_each_block_again(new_policy):
    policy = new_policy(gradient_checkpointing=True)
    policy.model.train()
    calls = collections.Counter()
    for n, layer in enumerate(policy.model.model.language_model.layers):
        layer.mlp.gate_proj.register_forward_pre_hook(lambda *_, n=n: calls.update([n]))
    [row] = pack(first_turns(policy.family), policy.family.positions, 4096)
    policy.logps(row).sum().backward()
    assert calls == {n: 2 for n in range(len(policy.model.model.language_model.layers))}


@pytest.mark.parametrize("lora", [Lora(), ALL_PARTS], ids=["language", "all parts"])
@torch.no_grad()
def test_the_reference_is_the_base_and_the_adapter_is_on_again_afterwards(new_policy, tiny_base, lora):
    policy = new_policy(lora=lora)
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_base, dtype=torch.float32).eval()
    policy.model.eval()
    sequences = first_turns(policy.family)
    before = torch.cat(packed_logps(policy, sequences, 4096))
    trained = [p.requires_grad for p in policy.model.parameters()]
    with policy.reference():
        reference = torch.cat(packed_logps(policy, sequences, 4096))
    after = torch.cat(packed_logps(policy, sequences, 4096))
    plain = torch.cat([stock_logps(policy, tokens, base) for tokens in sequences])
    torch.testing.assert_close(reference, plain, rtol=1e-6, atol=1e-5)  # log-probs near -11: one unit in the last place
    assert torch.equal(before, after)
    assert (before - reference).abs().max() > 0.01
    assert [p.requires_grad for p in policy.model.parameters()] == trained


@torch.no_grad()
def test_an_error_inside_the_reference_leaves_no_trace(new_policy):
    policy = new_policy(lora=ALL_PARTS)
    [row] = pack(first_turns(policy.family), policy.family.positions, 4096)
    before = policy.logps(row)
    with pytest.raises(RuntimeError, match="out of memory"), policy.reference():
        policy.logps(row)
        raise RuntimeError("out of memory")
    assert torch.equal(policy.logps(row), before)


@torch.no_grad()
def test_nothing_sampled_scores_nothing(new_policy):
    policy = new_policy(dtype="bfloat16")
    [row] = pack([policy.family.chat(("hello",))], policy.family.positions, 4096)
    assert policy.logps(row).shape == (0,)
    assert policy.logps(row).dtype == torch.float32


# -- images --------------------------------------------------------------------------------------------------------


@pytest.fixture
def patches_seen(policy):
    """Rows of pixels that each call of the vision tower was given."""
    seen = []
    hook = policy.model.model.visual.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"]).shape[0]), with_kwargs=True
    )
    yield seen
    hook.remove()


def test_an_image_is_encoded_once_for_a_whole_step(policy, patches_seen):
    view = photo_view(112, 56, 1)  # 8 tokens of 4 patches
    prompts = [policy.family.chat((view, "Where?"))] * 4
    responses = drawn(policy, prompts, Sampling(max_tokens=3, seed=1))
    assert patches_seen == [32]
    sequences = [p + Tokens.response(r) for p, r in zip(prompts, responses, strict=True)]
    for row in pack(sequences, policy.family.positions, 60):
        with policy.reference():
            policy.logps(row)
        policy.logps(row).sum().backward()
    assert patches_seen == [32]
    policy.forget_images()
    drawn(policy, prompts, Sampling(max_tokens=1))
    assert patches_seen == [32, 32]


def test_images_are_encoded_in_batches_of_bounded_size(policy, patches_seen, monkeypatch):
    monkeypatch.setattr(policy.encoded, "value", 10)
    views = [photo_view(56, 56, n) for n in range(3)] + [photo_view(112, 112, 9)]  # 4, 4, 4 and 16 tokens
    features = policy.encode(views)
    assert patches_seen == [32, 16, 64]
    assert [len(features[view]) for view in views] == [4, 4, 4, 16]


def test_features_with_vision_adapters_carry_gradient_and_follow_the_weights(new_policy):
    policy = new_policy(lora=ALL_PARTS)
    view = photo_view()
    assert policy.encode([view])[view].requires_grad
    with torch.no_grad():
        before = policy.encode([view])[view]
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name and "visual" in name:
                parameter.mul_(2)
        policy.forget_images()
        assert not torch.allclose(policy.encode([view])[view], before)


# -- sampling ------------------------------------------------------------------------------------------------------


def prompts_of(family, make) -> list[Tokens]:
    return [Tokens(t.ids[: t.sampled[-1].start], t.slots, t.sampled[:-1]) for t in make(family)]


@torch.no_grad()
def stock_greedy(policy: Policy, prompt: Tokens, max_tokens: int) -> tuple[int, ...]:
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=list(policy.family.eos_ids),
        pad_token_id=policy.family.pad_id,
        suppress_tokens=list(policy.family.banned_ids),
    )
    out = policy.model.generate(**stock_inputs(policy, prompt), generation_config=config)
    return tuple(out[0, len(prompt) :].tolist())


@pytest.fixture(scope="module")
def talkative(new_policy):
    """Adapters so large that the greedy text varies; an untrained model repeats one token."""
    return new_policy(adapter_std=0.4)


@pytest.mark.parametrize("make", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_greedy_text_with_shared_prefixes_is_the_stock_models(talkative, make):
    policy = talkative
    prompts = prompts_of(policy.family, make)
    greedy = Sampling(max_tokens=12, temperature=0)
    together = drawn(policy, prompts, greedy)
    assert together == [drawn(policy, [prompt], greedy)[0] for prompt in prompts]
    assert together == [stock_greedy(policy, prompt, 12) for prompt in prompts]
    assert len(set(together)) > 1 and min(len(set(response)) for response in together) > 6


def test_prompts_of_any_length_in_any_order(talkative):
    policy = talkative
    family = policy.family
    view = photo_view(56, 56, 1)
    prompts = [family.chat(c) for c in (("a",), (view, "a much longer question?"), ("a b",), (view, "a"), ("a",))]
    greedy = Sampling(max_tokens=6, temperature=0)
    expected = [stock_greedy(policy, prompt, 6) for prompt in prompts]
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 4, 0, 2, 3]):
        assert drawn(policy, [prompts[i] for i in order], greedy) == [expected[i] for i in order]
    assert drawn(policy, [], greedy) == []


def test_a_row_that_ends_early_leaves_the_others_as_they_were(talkative, monkeypatch):
    """Each prompt's third greedy token is made an end token in turn."""
    policy = talkative
    prompts = prompts_of(policy.family, first_turns)[::2]
    greedy = Sampling(max_tokens=10, temperature=0)
    free = [stock_greedy(policy, prompt, 10) for prompt in prompts]
    for end in {response[2] for response in free}:
        monkeypatch.setattr(policy.family, "eos_ids", (end,))
        cut = [r[: r.index(end) + 1] if end in r else r for r in free]
        assert drawn(policy, prompts, greedy) == cut


@torch.no_grad()
def test_samples_are_drawn_from_the_distribution_that_is_scored(policy, monkeypatch):
    """Collects the logits of every step, without what is banned, and compares the drawn ids' log-probs with the packed
    ones."""
    steps = []

    def spy(logits, sampling, uniform):
        ids = pick(logits, sampling, uniform)
        steps.append((logits.clone(), ids))
        return ids

    monkeypatch.setattr("hart_lite.models.generation.pick", spy)
    monkeypatch.setattr(policy.family, "eos_ids", ())  # so that every row is in every step
    prompts = prompts_of(policy.family, first_turns)
    responses = generate(policy, prompts, Sampling(max_tokens=6, seed=3))
    assert [len(r.ids) for r in responses] == [6] * len(prompts)
    without = torch.stack([logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0] for logits, ids in steps], dim=1)
    sequences = [p + Tokens.response(r.ids) for p, r in zip(prompts, responses, strict=True)]
    among_all = torch.stack(packed_logps(policy, sequences, 4096))
    torch.testing.assert_close(torch.tensor([r.logps for r in responses]), among_all, rtol=0, atol=1e-5)
    full = torch.stack([stock_full_logits(policy, s)[list(policy.family.banned_ids)] for s in sequences])
    assert full.isfinite().all()  # the ban is in the sampling only
    banned_share = torch.stack([banned_mass(policy, s) for s in sequences])
    torch.testing.assert_close(without, among_all - torch.log1p(-banned_share), rtol=0, atol=1e-5)


def stock_full_logits(policy, tokens):
    return policy.model(**stock_inputs(policy, tokens)).logits[0, -1]


def banned_mass(policy, tokens) -> torch.Tensor:
    """Probability that the model gives to banned ids at each sampled token."""
    probs = policy.model(**stock_inputs(policy, tokens)).logits[0].softmax(-1)
    [span] = tokens.sampled
    return probs[span.start - 1 : span.stop - 1, list(policy.family.banned_ids)].sum(-1)


def test_the_same_seed_draws_the_same_and_another_does_not(policy):
    prompts = prompts_of(policy.family, first_turns)
    draw = [drawn(policy, prompts, Sampling(max_tokens=5, seed=seed)) for seed in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]
    torch.manual_seed(99)  # nor does the global state matter
    assert drawn(policy, prompts, Sampling(max_tokens=5, seed=1)) == draw[0]


def test_identical_prompts_draw_different_samples(policy):
    prompts = [policy.family.chat(("Which?",))] * 8
    assert len(set(drawn(policy, prompts, Sampling(max_tokens=4)))) > 4


def test_a_response_of_no_tokens_is_empty(policy):
    prompts = prompts_of(policy.family, first_turns)
    assert drawn(policy, prompts, Sampling(max_tokens=0)) == [()] * len(prompts)


@pytest.mark.parametrize("most", [1, 2, 7])
def test_no_response_is_longer_than_asked_and_each_says_something(policy, most):
    responses = drawn(policy, prompts_of(policy.family, first_turns), Sampling(max_tokens=most))
    assert all(1 <= len(r) <= most for r in responses)


def test_banned_ids_are_never_sampled(policy, monkeypatch):
    """Every logit of a banned id is raised far above all others."""
    banned = torch.tensor(policy.family.banned_ids)
    hook = policy.model.lm_head.register_forward_hook(lambda _m, _i, out: out.index_fill(-1, banned, 1e4))
    try:
        for temperature in (0, 1.0):
            responses = drawn(policy, [policy.family.chat(("x",))] * 8, Sampling(20, temperature))
            assert not set(banned.tolist()) & {i for r in responses for i in r}
    finally:
        hook.remove()


def test_sampled_ids_beyond_the_tokenizer_read_as_text(policy):
    vocabulary = policy.model.config.get_text_config().vocab_size
    assert isinstance(policy.family.text(range(vocabulary)), str)


LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def shares(sampling: Sampling, n: int = 20_000) -> list[float]:
    ids = pick(LOGITS.expand(n, -1), sampling, torch.rand(n, generator=torch.Generator().manual_seed(0)))
    return (torch.bincount(ids, minlength=4) / n).tolist()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(1, temperature=0), [1, 0, 0, 0]),
        (Sampling(1, temperature=0.5), [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365]),
        (Sampling(1, top_p=0.79), [0.5 / 0.8, 0.3 / 0.8, 0, 0]),
        (Sampling(1, top_p=0.81), [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
        (Sampling(1, top_p=0.01), [1, 0, 0, 0]),
    ],
    ids=str,
)
def test_temperature_and_top_p_shape_the_draw(sampling, expected):
    assert shares(sampling) == pytest.approx(expected, abs=0.012)
    assert [s == 0 for s in shares(sampling)] == [e == 0 for e in expected]


def test_rows_are_drawn_independently():
    """Each row keeps to its own nucleus, wherever its likely ids stand."""
    logits = torch.stack([LOGITS, LOGITS.flip(0)]).repeat(500, 1)
    ids = pick(logits, Sampling(1, top_p=0.6), torch.rand(1000, generator=torch.Generator().manual_seed(0))).view(-1, 2)
    assert set(ids[:, 0].tolist()) == {0, 1}
    assert set(ids[:, 1].tolist()) == {2, 3}


def test_an_id_without_probability_is_never_drawn():
    """Not at the very ends of the uniform numbers either: ids 0 and 3 are banned."""
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(4, -1)
    uniform = torch.tensor([0.0, 0.4999, 0.5001, 1 - 2**-24])
    assert pick(logits, Sampling(1), uniform).tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize("vocabulary", [511, 512, 513, 5000])
def test_a_large_vocabulary_is_drawn_from_as_a_small_one(vocabulary):
    """Summed in blocks, and yet the id at which the cumulative probability of all passes the uniform number."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 8 * torch.randn(64, vocabulary, generator=generator)
    logits[:, ::3] = -torch.inf
    uniform = torch.rand(64, generator=generator, dtype=torch.float64)
    uniform[0], uniform[1] = 0.0, 1 - 2**-53
    mass = logits.softmax(-1).double().cumsum(-1)
    expected = torch.searchsorted(mass, uniform[:, None] * mass[:, -1:], right=True)[:, 0]
    assert torch.equal(pick(logits, Sampling(1), uniform), expected)


def test_a_draw_does_not_depend_on_the_batch(policy):
    """The responses of all rows, and of two of them drawn alone under their own numbers."""
    prompts = prompts_of(policy.family, first_turns)
    together = drawn(policy, prompts, Sampling(max_tokens=6, seed=5))
    some = (len(prompts) - 1, 1)
    alone = drawn(policy, [prompts[n] for n in some], Sampling(max_tokens=6, seed=5, rows=some))
    assert alone == [together[n] for n in some]


# -- loading -------------------------------------------------------------------------------------------------------


def test_nf4_quantises_the_language_blocks_and_nothing_else(new_policy):
    policy = new_policy(quant="nf4")
    kinds = {name: type(module) for name, module in policy.model.named_modules()}
    quantised = {name.removesuffix(".base_layer") for name, kind in kinds.items() if kind is bnb.nn.Linear4bit}
    blocks = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    blocks += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    depth = len(policy.model.model.language_model.layers)
    assert quantised == {f"model.language_model.layers.{n}.{b}" for n in range(depth) for b in blocks}
    weight = policy.model.model.language_model.layers[0].mlp.up_proj.base_layer.weight
    assert weight.dtype == torch.uint8
    assert weight.quant_state.nested  # double quantisation
    assert policy.model.lm_head.weight.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in policy.model.model.visual.parameters())


def test_nf4_trains(new_policy):
    policy = new_policy(quant="nf4", gradient_checkpointing=True)
    policy.model.train()
    sequences = first_turns(policy.family)
    [row] = pack(sequences, policy.family.positions, 4096)
    with policy.reference():
        reference = policy.logps(row)
    optimizer = torch.optim.AdamW(policy.adapter_parameters, lr=1e-3)
    likelihoods = []
    for _ in range(3):
        logps = policy.logps(row)
        assert logps.isfinite().all()
        likelihoods.append(logps.mean().item())
        optimizer.zero_grad()
        (-logps.mean()).backward()
        optimizer.step()
    assert likelihoods == sorted(likelihoods)
    assert likelihoods[-1] > likelihoods[0] + 0.01
    with policy.reference():
        assert torch.equal(policy.logps(row), reference)
    policy.model.eval()
    with torch.no_grad():
        for ours, tokens in zip(packed_logps(policy, sequences, 4096), sequences, strict=True):
            torch.testing.assert_close(ours, stock_logps(policy, tokens), rtol=0, atol=1e-4)


def test_nf4_gradients_are_the_same_after_sampling(new_policy):
    """bitsandbytes has a CPU kernel without gradient, which it turns to in eval mode."""
    policy = new_policy(quant="nf4")
    sequences = first_turns(policy.family)
    found = []
    for _ in range(2):
        policy.model.train()
        logps = packed_logps(policy, sequences, 4096)
        found.append((torch.cat(logps), gradients(policy, logps)))
        drawn(policy, [policy.family.chat((photo_view(), "Where?"))], Sampling(4))
    assert torch.equal(found[0][0], found[1][0])
    assert_gradients_agree(found[1][1], found[0][1])


def test_bfloat16_loads_with_adapters_in_float32(new_policy, policy):
    half = new_policy(dtype="bfloat16")
    assert half.model.lm_head.weight.dtype == half.model.model.visual.dtype == torch.bfloat16
    assert {p.dtype for p in half.adapter_parameters} == {torch.float32}
    sequences = first_turns(half.family)
    ours, full = (torch.cat(packed_logps(p, sequences, 4096)) for p in (half, policy))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, full, rtol=0, atol=0.5)
    ours.sum().backward()
    assert all(p.grad.isfinite().all() for p in half.adapter_parameters)
    assert drawn(half, [half.family.chat((photo_view(), "Where?"))] * 2, Sampling(4))


@pytest.mark.parametrize("asked", ["auto", "sdpa", "eager"])
@torch.no_grad()
def test_every_kind_of_attention_gives_the_same_log_probs(new_policy, policy, asked):
    sequences = [tokens for make in EVERYTHING for tokens in make(policy.family)]
    other = new_policy(attention=asked)
    ours, expected = (torch.cat(packed_logps(p, sequences, 4096)) for p in (other, policy))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    prompts = prompts_of(policy.family, second_turns)
    assert drawn(other, prompts, Sampling(6, 0)) == drawn(policy, prompts, Sampling(6, 0))


@pytest.mark.parametrize("asked", ["auto", "sdpa", "eager", "flash_attention_2"])
def test_what_is_chosen_is_the_attention_of_the_vision_tower(asked):
    vision = "sdpa" if asked == "auto" else asked
    assert pick_attention(asked, torch.device("cpu")) == {"text_config": "sdpa", "vision_config": vision}


def test_only_adapters_train_and_the_seed_draws_them(tiny_base):
    one, same, other = (load_policy(ModelSection(base=str(tiny_base)), seed=seed) for seed in (0, 0, 1))
    names = {name for name, p in one.model.named_parameters() if p.requires_grad}
    depth = len(one.model.model.language_model.layers)
    assert len(names) == depth * 7 * 2
    assert all("lora_" in name and "language_model" in name for name in names)
    weights = [torch.cat([p.detach().flatten() for p in policy.adapter_parameters]) for policy in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_saved_adapter_comes_back_as_it_was(new_policy, tiny_base, tmp_path):
    policy = new_policy(lora=ALL_PARTS)
    policy.peft.save_pretrained(tmp_path)
    back = load_policy(ModelSection(base=str(tiny_base), lora=ALL_PARTS), adapter=tmp_path)
    sequences = second_turns(policy.family)
    with torch.no_grad():
        ours, theirs = (torch.cat(packed_logps(p, sequences, 4096)) for p in (policy, back))
    assert torch.equal(ours, theirs)
    assert len(back.adapter_parameters) == len(policy.adapter_parameters)


@torch.no_grad()
def test_what_trains_follows_the_loaded_adapter_not_the_recipe(new_policy, tiny_base, tmp_path):
    """An adapter with vision parts under a recipe that names none: the reference still must not see them."""
    policy = new_policy(lora=ALL_PARTS)
    policy.peft.save_pretrained(tmp_path)
    back = load_policy(ModelSection(base=str(tiny_base)), adapter=tmp_path)
    view = photo_view()
    adapted = back.encode([view])[view]
    with back.reference():
        assert not torch.allclose(back.encode([view])[view], adapted)


def test_an_adapter_of_another_base_is_refused(new_policy, tiny_base, tmp_path):
    new_policy().peft.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_base)
    config["base_model_name_or_path"] = "Qwen/Qwen2.5-VL-7B-Instruct"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(HartError, match=r"was trained on base 'Qwen/Qwen2.5-VL-7B-Instruct', not .*tiny_base"):
        load_policy(ModelSection(base=str(tiny_base)), adapter=tmp_path)


@pytest.mark.parametrize("broken", ["no folder", "no weights", "no json", "cut weights"])
def test_a_damaged_adapter_is_refused_by_name(new_policy, tiny_base, tmp_path, broken):
    folder = tmp_path / "adapter"
    if broken != "no folder":
        new_policy().peft.save_pretrained(folder)
    if broken == "no weights":
        (folder / "adapter_model.safetensors").unlink()
    if broken == "no json":
        (folder / "adapter_config.json").write_text("{")
    if broken == "cut weights":
        data = (folder / "adapter_model.safetensors").read_bytes()
        (folder / "adapter_model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(HartError, match=str(folder)):
        load_policy(ModelSection(base=str(tiny_base)), adapter=folder)


def test_an_adapter_whose_tensors_have_no_place_is_refused(new_policy, tiny_base, tmp_path):
    """Key names of older libraries; PEFT alone would warn and train on without them."""
    new_policy().peft.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({n.replace("language_model.", ""): t for n, t in load_file(file).items()}, file)
    with pytest.raises(HartError, match=r"does not fit base .*: 56 of its 56 tensors have no place there, 56 of 56"):
        load_policy(ModelSection(base=str(tiny_base)), adapter=tmp_path)


def test_a_base_of_another_type_is_refused(tmp_path):
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(HartError, match=r"is of type 'gpt2'; supported: qwen2_5_vl"):
        load_policy(ModelSection(base=str(tmp_path)))


@pytest.mark.parametrize("broken", ["empty", "no weights", "cut weights", "no tokenizer", "unknown type"])
def test_a_damaged_base_is_refused_by_name(tiny_base, tmp_path, broken):
    if broken != "empty":
        for file in tiny_base.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    if broken == "no weights":
        (tmp_path / "model.safetensors").unlink()
    if broken == "cut weights":
        data = (tmp_path / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(data[: len(data) // 2])
    if broken == "no tokenizer":
        for file in tmp_path.glob("tokenizer*"):
            file.unlink()
    if broken == "unknown type":
        (tmp_path / "config.json").write_text('{"model_type": "qwen9"}')
    with pytest.raises(HartError, match=str(tmp_path)):
        load_policy(ModelSection(base=str(tmp_path)))


def test_pixels_are_cut_before_they_are_scaled():
    """A view of a crop is made of the crop alone."""
    photos = [Photo(100, 80, seed, kept=(20, 10, 60, 50)) for seed in (1, 2)]
    one, two = (ImageView(photo, (56, 56), Box(20, 10, 60, 50)).load() for photo in photos)
    assert one.tobytes() == two.tobytes()


def test_a_base_whose_weights_do_not_fit_is_refused(tiny_base, tmp_path):
    """Another width, and a tensor that is not there: either would go on with random weights."""
    for name, change, message in (
        ("narrow", {"model.norm.weight": torch.ones(64)}, "cannot be read"),
        ("torn", {"model.norm.weight": None}, "lacks 1 of the model's tensors"),
    ):
        folder = tmp_path / name
        shutil.copytree(tiny_base, folder)
        weights = load_file(folder / "model.safetensors")
        for key, value in change.items():
            del weights[key]
            if value is not None:
                weights[key] = value
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(HartError, match=message):
            load_policy(ModelSection(base=str(folder)))
