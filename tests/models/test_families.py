"""What every family has to hold, checked against the library's own forward on the stock processor's pixels."""

import json
import re
import shutil
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from family_kits import ALL_PARTS, KINDS, KITS, Kit, check_log_probs, everything, loaded, said, view
from peft import PeftModel
from pictures import drawn, packed_logps
from safetensors.torch import load_file, save_file
from small_runs import boxes_from_any_text, distil_stage, make_up, metrics, rl_stage, sft_stage, small_recipe
from transformers import GenerationConfig

from hart_lite.config.sections import ModelSection, PixelBudgets, Rollout
from hart_lite.errors import HartError
from hart_lite.eval.benchmarks.toy import BENCHMARK
from hart_lite.eval.questions import Question
from hart_lite.eval.settings import EvalSettings, setting_of
from hart_lite.inference.load import OpenModel
from hart_lite.inference.local_engine import LocalEngine
from hart_lite.inference.protocols.registry import PROTOCOLS
from hart_lite.models.generation import Sampling
from hart_lite.models.loading import load_policy
from hart_lite.models.packing import pack
from hart_lite.models.policy import Policy
from hart_lite.training.sft_data import locate_once
from hart_lite.training.train import train
from hart_lite.types import Tokens

MAKE = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())


@pytest.fixture(scope="module", params=KITS)
def kit(request) -> Kit:
    return KITS[request.param]


@pytest.fixture(scope="module")
def base(kit, tmp_path_factory) -> Path:
    return kit.build(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def policy(base) -> Policy:
    return loaded(base)


@pytest.fixture(scope="module")
def talkative(kit, base) -> Policy:
    return loaded(base, adapter_std=kit.talkative)


# -- log-probs and gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [200, 4096])
@MAKE
@torch.no_grad()
def test_packed_log_probs_are_the_stock_models(kit, policy, monkeypatch, make, budget):
    found = check_log_probs(policy, kit, make, budget)
    features = policy.family.features
    monkeypatch.setattr(policy.family, "features", lambda *asked: [tokens.flip(0) for tokens in features(*asked)])
    policy.forget_images()  # the order of an image's tokens is seen, or the above would say little
    turned = torch.cat(packed_logps(policy, make(policy.family), budget))
    policy.forget_images()
    assert (turned - found).abs().max() > 1e-3


def gradients(policy: Policy, logps: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of a sum in which every token has another weight."""
    flat = torch.cat(logps)
    policy.model.zero_grad()
    (flat * torch.linspace(-1, 1, len(flat))).sum().backward()
    return {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("section", [{}, {"gradient_checkpointing": True}, {"lora": ALL_PARTS}], ids=str)
def test_gradients_packed_and_unpacked_agree(kit, base, section):
    policy = loaded(base, **section)
    policy.model.train()
    sequences = everything(policy.family)
    theirs = gradients(policy, [kit.stock_logps(policy, tokens) for tokens in sequences])
    for budget in (250, 4096):
        ours = gradients(policy, packed_logps(policy, sequences, budget))
        assert ours.keys() == theirs.keys()
        for name, expected in theirs.items():
            assert expected.norm() > 0, name
            assert (ours[name] - expected).norm() <= 1e-4 * expected.norm(), name
    seeing = kit.seeing if "lora" in section else ()
    assert {name.split(".")[1] for name in theirs} == {"language_model", *seeing}
    rows = pack(sequences, policy.family.positions, 4096)
    assert sum(map(len, rows)) < 0.7 * sum(map(len, sequences))  # what is shared is paid for once


@torch.no_grad()
def test_a_collated_batch_is_what_the_packs_are(policy):
    """The model's own forward on rows of several lengths: the check of a merged model and of a card feeds it so."""
    policy.model.eval()
    sequences = everything(policy.family)
    for some in (sequences[:6], sequences[6:], [policy.family.chat(("Which?",)) + said(3, 1)]):
        logits = policy.model(**policy.family.collate(some), use_cache=False).logits.log_softmax(-1)
        for row, tokens, ours in zip(logits, some, packed_logps(policy, some, 4096), strict=True):
            at = torch.tensor([i for span in tokens.sampled for i in range(span.start, span.stop)])
            torch.testing.assert_close(ours, row[at - 1, torch.tensor(tokens.ids)[at]], rtol=0, atol=1e-5)


@torch.no_grad()
def test_bfloat16_is_near_float32(base):
    """With adapters in float32: near what float32 says, images and all."""
    half, full = loaded(base, dtype="bfloat16", lora=ALL_PARTS), loaded(base, lora=ALL_PARTS)
    frozen = (p for p in half.family.vision(half.model).parameters() if not p.requires_grad)
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    for policy in (half, full):
        policy.model.eval()
    sequences = everything(full.family)
    ours, theirs = (torch.cat(packed_logps(policy, sequences, 4096)) for policy in (half, full))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.5)
    assert (ours - theirs).abs().mean() < 0.1
    assert half.model(**half.family.collate(sequences[:2]), use_cache=False).logits.isfinite().all()


# -- text ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def stock_greedy(policy: Policy, kit: Kit, prompt: Tokens, max_tokens: int) -> tuple[int, ...]:
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=list(policy.family.eos_ids),
        pad_token_id=policy.family.pad_id,
        suppress_tokens=list(policy.family.banned_ids),
    )
    out = policy.model.generate(**kit.stock_inputs(policy, prompt), generation_config=config)
    return tuple(out[0, len(prompt) :].tolist())


@MAKE
def test_greedy_text_is_the_stock_models(kit, talkative, make):
    talkative.forget_images()
    prompts = [Tokens(t.ids[: t.sampled[-1].start], t.slots, t.sampled[:-1]) for t in make(talkative.family)]
    prompts = list(dict.fromkeys(prompts))
    greedy = Sampling(max_tokens=12, temperature=0)
    together = drawn(talkative, prompts, greedy)
    assert together == [drawn(talkative, [prompt], greedy)[0] for prompt in prompts]
    assert together == [stock_greedy(talkative, kit, prompt, 12) for prompt in prompts]
    assert len(set(together)) > 1 and min(len(set(response)) for response in together) > 2


def test_every_protocol_answers_with_it_at_once_as_one_at_a_time(kit, talkative):
    """The peers' protocols too, which have limits and tools of their own."""
    pixels = PixelBudgets(full=4 * kit.tile**2, crop=2 * kit.tile**2, min=784)
    engine = LocalEngine(talkative, 65_536, 8)
    model = OpenModel("tiny", engine, talkative.family.name, {}, pixels, Rollout())
    asked = EvalSettings(max_tokens=8, full_pixels=pixels.full, crop_pixels=pixels.crop)
    asked_in = [(Question(BENCHMARK, e), mode) for e in BENCHMARK.read("scenes=1") for mode in PROTOCOLS]

    def runs() -> list:
        return [PROTOCOLS[mode](q.example, setting_of(q, mode, asked, model)) for q, mode in asked_in]

    together = dict(engine.answer(runs()))
    assert len(together) == len(asked_in) and all(talk.turns for talk in together.values())
    for n, run in enumerate(runs()):
        assert dict(engine.answer([run]))[0] == together[n]


# -- images --------------------------------------------------------------------------------------------------------


def test_features_are_one_tensor_for_each_image(kit, policy):
    """Of as many tokens as announced, the same alone and in a batch."""
    family = policy.family
    views = [view(family, w, h, w + h, most) for w, h in ((300, 100), (40, 90), (1000, 10)) for most in (4000, 30_000)]
    with torch.no_grad():
        together = family.features(policy.model, [v.load() for v in views])
        for shown, ours in zip(views, together, strict=True):
            [alone] = family.features(policy.model, [shown.load()])
            assert tuple(ours.shape) == (family.image_tokens(shown.size), kit.levels * 64)
            torch.testing.assert_close(ours, alone, rtol=0, atol=1e-5)
    assert len({len(tokens) for tokens in together}) > 2


def test_image_processors_are_read_as_repositories_have_them(kit, base, tmp_path):
    """Under each name, in a file of their own or inside the processor's: the same pixels."""

    def pixels(folder: Path) -> torch.Tensor:
        family = kit.family(str(folder))
        return family.collate([family.chat((view(family, 300, 100), "Which?"))])["pixel_values"]

    for name in (*kit.image_processors, "nested"):
        copy = shutil.copytree(base, tmp_path / name)
        file = copy / "preprocessor_config.json"
        if name == "nested":
            family = kit.family(str(base))
            file.unlink()
            kit.stock(family.processor, family.tokenizer).save_pretrained(copy)
            assert not file.exists() and "image_processor" in json.loads((copy / "processor_config.json").read_text())
        else:
            file.write_text(json.dumps(json.loads(file.read_text()) | {"image_processor_type": name}))
        assert torch.equal(pixels(copy), pixels(base))


# -- weights -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_an_adapter_comes_back_as_it_was_and_merges(kit, base, tmp_path):
    """Saved and loaded it is the same; merged by PEFT into the plain model, it is the same to rounding."""
    policy = loaded(base, lora=ALL_PARTS)
    policy.model.eval()
    sequences = everything(policy.family)
    ours = torch.cat(packed_logps(policy, sequences, 4096))
    with policy.reference():
        assert (torch.cat(packed_logps(policy, sequences, 4096)) - ours).abs().max() > 0.01
    policy.peft.save_pretrained(tmp_path)
    policy.family.save_processor(tmp_path)
    back = load_policy(ModelSection(base=str(base), lora=ALL_PARTS), adapter=tmp_path)
    back.model.eval()
    assert torch.equal(torch.cat(packed_logps(back, sequences, 4096)), ours)

    plain = policy.family.load_model(dtype=torch.float32)
    merged = PeftModel.from_pretrained(plain, tmp_path).merge_and_unload(safe_merge=True)
    theirs = torch.cat([kit.stock_logps(policy, tokens, merged) for tokens in sequences])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    policy.family.save_processor(tmp_path / "merged")
    again = load_policy(ModelSection(base=str(tmp_path / "merged")))  # a fresh adapter changes nothing
    again.model.eval()
    torch.testing.assert_close(torch.cat(packed_logps(again, sequences, 4096)), ours, rtol=0, atol=1e-4)


def test_adapters_sit_on_every_linear_of_each_part(policy, base):
    modules = dict(loaded(base, lora=ALL_PARTS).model.named_modules())
    adapted = {name.removesuffix(".lora_A.default") for name in modules if name.endswith("lora_A.default")}
    linears = {name.removesuffix(".base_layer") for name, m in modules.items() if isinstance(m, torch.nn.Linear)}
    assert adapted == {name for name in linears if "lora_" not in name} - {"lm_head"}
    assert all("language_model" in n for n, p in policy.model.named_parameters() if p.requires_grad)


def test_nf4_quantises_the_language_blocks_and_nothing_else(kit, base):
    policy = loaded(base, quant="nf4")
    kinds = {name.removesuffix(".base_layer"): type(module) for name, module in policy.model.named_modules()}
    quantised = {name for name, kind in kinds.items() if kind is bnb.nn.Linear4bit}
    assert len(quantised) == 7 * len(policy.decoder.layers)
    assert all(".language_model.layers." in f".{name}" for name in quantised)
    check_log_probs(policy, kit, KINDS["first turns"], 4096)


def test_a_checkpoint_that_is_not_whole_is_refused(kit, base, tmp_path):
    copy = shutil.copytree(base, tmp_path / "base")
    weights = load_file(copy / "model.safetensors")
    del weights[kit.lost]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    lost = f"lacks 1 of the model's tensors.*{re.escape(kit.lost)}.*not a whole {kit.name} checkpoint"
    with pytest.raises(HartError, match=lost):
        load_policy(ModelSection(base=str(copy)))


# -- whole jobs ----------------------------------------------------------------------------------------------------


def a_box_for_any_text(family, text: str, seen, original) -> list[tuple[float, float, float, float, int]]:
    return next(filter(None, (boxes_from_any_text(family, text + more, seen, original) for more in ("", "a"))))


def all_right(runner, examples, cache) -> dict[str, dict]:
    return {name: entry | {"right": True} for name, entry in locate_once(runner, examples, cache).items()}


def test_all_kinds_of_stages_train_it_and_a_resumed_run_finds_it_done(kit, base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr, kit.family)
    monkeypatch.setattr(kit.family, "boxes_from_text", a_box_for_any_text)
    monkeypatch.setattr("hart_lite.training.stage.locate_once", all_right)
    stages = [rl_stage(steps=2), sft_stage(steps=2), distil_stage(steps=1)]
    pixels = {"full": 4 * kit.tile**2, "crop": kit.tile**2, "min": 784}
    recipe = small_recipe(base, tmp_path / "run", stages, pixels=pixels, rollout={"samples": 5})
    summary = train(recipe)
    rows = metrics(tmp_path / "run")
    assert [row["stage"] for row in rows] == ["1-rl"] * 2 + ["2-sft"] * 2 + ["3-distil"]
    moved = [row["stage"] for row in rows if row["grad_norm"] > 0]  # no step whose groups all agree
    assert "1-rl" in moved and moved.count("2-sft") == 2 and "3-distil" in moved
    assert set(summary) == {"before", "after-1-rl", "after-2-sft", "after-3-distil"}
    for name in ("preprocessor_config.json", "processor_config.json"):
        assert (tmp_path / "run" / "adapter" / name).is_file() == (base / name).is_file()
    assert train(recipe, resume=True) == summary
