"""What every family has to hold, checked against the library's own forward on the pixels its stock processor makes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from pictures import Photo, drawn, packed_logps
from transformers import GenerationConfig

from hart_lite.config.sections import Lora, ModelSection, PixelBudgets, Rollout
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
from hart_lite.types import Box, ImageView, Tokens

ALL_PARTS = Lora(parts=["language", "vision", "projector"])
BUDGET = 70_000  # pixels: some tiles of either family
Stock = Callable[[Policy, Tokens], dict[str, torch.Tensor]]


def loaded(base: Path, adapter_std: float = 0.05, **section) -> Policy:
    """On a tiny base, with adapters that change what the model says."""
    policy = load_policy(ModelSection(base=str(base), **section))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, adapter_std, generator=generator)
    return policy


def view(family, width: int, height: int, seed: int = 0, most: int = 18_000, box: Box | None = None) -> ImageView:
    photo = Photo(width, height, seed)
    size = (round(box.width), round(box.height)) if box else photo.size()
    return ImageView(photo, family.fit(size, most, 1), box)


def said(n: int, seed: int) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    return Tokens.response(tuple(torch.randint(20, 400, (n,), generator=generator).tolist()))


def first_turns(family) -> list[Tokens]:
    """Two questions with one and with two images, three responses of different lengths each."""
    one = family.chat((view(family, 300, 100, 1), "Which character is on the red square?"))
    two = family.chat((view(family, 60, 200, 2), view(family, 50, 50, 3, 4000), "Which character is on it?"))
    return [prompt + said(n, n) for prompt in (one, two) for n in (5, 1, 8)]


def second_turns(family) -> list[Tokens]:
    """Crops: two samples chose the same crop, one another, one chose two."""
    left, right = (view(family, 400, 300, 4, 9000, Box(x, 10, x + 150, 90)) for x in (20, 200))
    crops = ((left,), (left,), (right,), (left, right))
    return [family.chat(("Answer the question: which?\n", *c)) + said(4, 10 + n) for n, c in enumerate(crops)]


def conversations(family) -> list[Tokens]:
    """Two sampled spans in one sequence, the full image still there."""
    full, crop = view(family, 300, 200, 1), view(family, 90, 80, 5, 4000)
    prompt = family.chat((full, "Where is it?"), "Look closely.")
    return [prompt + said(n, n) + family.reply((crop, "What is it?"), False) + said(3, 20 + n) for n in (4, 2)]


KINDS = {"first turns": first_turns, "second turns": second_turns, "conversations": conversations}


def everything(family) -> list[Tokens]:
    return [tokens for make in KINDS.values() for tokens in make(family)]


def stock_logps(policy: Policy, tokens: Tokens, stock: Stock, model: torch.nn.Module | None = None) -> torch.Tensor:
    """Log-probs of the sampled tokens by one plain forward pass of the whole model, which makes its own positions."""
    logits = (model or policy.model)(**stock(policy, tokens), use_cache=False).logits[0].float()
    at = torch.tensor([i for span in tokens.sampled for i in range(span.start, span.stop)])
    return logits.log_softmax(-1)[at - 1, torch.tensor(tokens.ids)[at]]


@torch.no_grad()
def check_log_probs(policy: Policy, stock: Stock, make: Callable, budget: int) -> None:
    policy.model.eval()
    policy.forget_images()
    sequences = make(policy.family)
    packed = packed_logps(policy, sequences, budget)
    for ours, tokens in zip(packed, sequences, strict=True):
        torch.testing.assert_close(ours, stock_logps(policy, tokens, stock), rtol=0, atol=1e-5)
    turned = {view: tokens.flip(0) for view, tokens in policy._features.items()}
    policy._features.update(turned)  # the order of an image's tokens is seen, or the above would say little
    assert (torch.cat(packed_logps(policy, sequences, budget)) - torch.cat(packed)).abs().max() > 1e-3
    policy.forget_images()


def gradients(policy: Policy, logps: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of a sum in which every token has another weight."""
    flat = torch.cat(logps)
    policy.model.zero_grad()
    (flat * torch.linspace(-1, 1, len(flat))).sum().backward()
    return {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.requires_grad}


def check_gradients(policy: Policy, stock: Stock, parts: set[str]) -> None:
    policy.model.train()
    sequences = everything(policy.family)
    theirs = gradients(policy, [stock_logps(policy, tokens, stock) for tokens in sequences])
    for budget in (250, 4096):
        ours = gradients(policy, packed_logps(policy, sequences, budget))
        assert ours.keys() == theirs.keys()
        for name, expected in theirs.items():
            assert expected.norm() > 0, name
            assert (ours[name] - expected).norm() <= 1e-4 * expected.norm(), name
    assert {name.split(".")[1] for name in theirs} == parts
    rows = pack(sequences, policy.family.positions, 4096)
    assert sum(map(len, rows)) < 0.7 * sum(map(len, sequences))  # what is shared is paid for once


@torch.no_grad()
def stock_greedy(policy: Policy, prompt: Tokens, stock: Stock, max_tokens: int) -> tuple[int, ...]:
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=list(policy.family.eos_ids),
        pad_token_id=policy.family.pad_id,
        suppress_tokens=list(policy.family.banned_ids),
    )
    out = policy.model.generate(**stock(policy, prompt), generation_config=config)
    return tuple(out[0, len(prompt) :].tolist())


def check_greedy(policy: Policy, stock: Stock, make: Callable) -> None:
    policy.forget_images()
    prompts = [Tokens(t.ids[: t.sampled[-1].start], t.slots, t.sampled[:-1]) for t in make(policy.family)]
    greedy = Sampling(max_tokens=12, temperature=0)
    together = drawn(policy, prompts, greedy)
    assert together == [drawn(policy, [prompt], greedy)[0] for prompt in prompts]
    assert together == [stock_greedy(policy, prompt, stock, 12) for prompt in prompts]
    assert len(set(together)) > 1 and min(len(set(response)) for response in together) > 3


@torch.no_grad()
def check_collated(policy: Policy) -> None:
    """The model's own forward on a batch of rows of several lengths, as SFT feeds it."""
    policy.model.eval()
    sequences = everything(policy.family)
    for some in (sequences[:6], sequences[6:], [policy.family.chat(("Which?",)) + said(3, 1)]):
        logits = policy.model(**policy.family.collate(some), use_cache=False).logits.log_softmax(-1)
        for row, tokens, ours in zip(logits, some, packed_logps(policy, some, 4096), strict=True):
            at = torch.tensor([i for span in tokens.sampled for i in range(span.start, span.stop)])
            torch.testing.assert_close(ours, row[at - 1, torch.tensor(tokens.ids)[at]], rtol=0, atol=1e-5)


@torch.no_grad()
def check_adapter(base: Path, stock: Stock, folder: Path) -> None:
    """Saved and loaded it is the same; merged by PEFT into the plain model, it is the same to rounding."""
    policy = loaded(base, lora=ALL_PARTS)
    policy.model.eval()
    sequences = everything(policy.family)
    ours = torch.cat(packed_logps(policy, sequences, 4096))
    with policy.reference():
        assert (torch.cat(packed_logps(policy, sequences, 4096)) - ours).abs().max() > 0.01
    policy.peft.save_pretrained(folder)
    policy.family.save_processor(folder)
    back = load_policy(ModelSection(base=str(base), lora=ALL_PARTS), adapter=folder)
    back.model.eval()
    assert torch.equal(torch.cat(packed_logps(back, sequences, 4096)), ours)

    plain = policy.family.load_model(dtype=torch.float32)
    merged = PeftModel.from_pretrained(plain, folder).merge_and_unload(safe_merge=True)
    theirs = torch.cat([stock_logps(policy, tokens, stock, merged) for tokens in sequences])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    whole = folder / "merged"
    merged.save_pretrained(whole)
    policy.family.save_processor(whole)
    again = load_policy(ModelSection(base=str(whole)))  # a fresh adapter changes nothing
    again.model.eval()
    torch.testing.assert_close(torch.cat(packed_logps(again, sequences, 4096)), ours, rtol=0, atol=1e-4)


def check_features(policy: Policy) -> None:
    """One tensor an image, of as many tokens as announced, the same alone and in a batch."""
    family = policy.family
    views = [view(family, w, h, w + h, most) for w, h in ((300, 100), (40, 90), (1000, 10)) for most in (4000, 30_000)]
    with torch.no_grad():
        together = family.features(policy.model, [v.load() for v in views])
        for shown, ours in zip(views, together, strict=True):
            [alone] = family.features(policy.model, [shown.load()])
            assert tuple(ours.shape) == (family.image_tokens(shown.size), 64)
            torch.testing.assert_close(ours, alone, rtol=0, atol=1e-5)
    assert len({len(tokens) for tokens in together}) > 2


@torch.no_grad()
def check_half(base: Path) -> None:
    """In bfloat16 with adapters in float32: near what float32 says, images and all."""
    half, full = loaded(base, dtype="bfloat16", lora=ALL_PARTS), loaded(base, lora=ALL_PARTS)
    assert half.family.vision(half.model)[0].dtype == torch.bfloat16
    for policy in (half, full):
        policy.model.eval()
    sequences = everything(full.family)
    ours, theirs = (torch.cat(packed_logps(policy, sequences, 4096)) for policy in (half, full))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.5)
    assert (ours - theirs).abs().mean() < 0.1
    logits = half.model(**half.family.collate(sequences[:2]), use_cache=False).logits
    assert logits.isfinite().all()


def check_processor_files(base: Path, folder: Path, kinds: tuple[str, ...], nested) -> None:
    """Image processors under the names that repositories have them, in a file of their own or inside the processor's:
    the same pixels. `nested` makes the stock processor of a family."""
    family_class = type(load_policy(ModelSection(base=str(base))).family)
    picture = view(family_class(str(base)), 300, 100).load()
    expected = family_class(str(base))._cut([picture])["pixel_values"]
    for name in (*kinds, "nested"):
        copy = folder / name
        shutil.copytree(base, copy)
        file = copy / "preprocessor_config.json"
        if name == "nested":
            family = family_class(str(base))
            file.unlink()
            nested(family.processor, family.tokenizer).save_pretrained(copy)
            assert not file.exists() and "image_processor" in json.loads((copy / "processor_config.json").read_text())
        else:
            settings = json.loads(file.read_text()) | {"image_processor_type": name}
            file.write_text(json.dumps(settings))
        assert torch.equal(family_class(str(copy))._cut([picture])["pixel_values"], expected)


def check_protocols(policy: Policy, pixels: PixelBudgets) -> None:
    """The peers' protocols too, which have limits and tools of their own."""
    engine = LocalEngine(policy, 65_536, 8)
    model = OpenModel(engine, policy.family.name, {}, pixels, Rollout())
    asked = EvalSettings(max_tokens=8, full_pixels=pixels.full, crop_pixels=pixels.crop)

    def runs() -> list:
        examples = list(BENCHMARK.read("scenes=1"))
        modes = [(e, mode) for e in examples for mode in PROTOCOLS]
        return [PROTOCOLS[mode](e, setting_of(Question(BENCHMARK, e), mode, asked, model)) for e, mode in modes]

    together = dict(engine.answer(runs()))
    assert len(together) == len(runs()) and all(talk.turns for talk in together.values())
    for n, run in enumerate(runs()):
        assert dict(engine.answer([run]))[0] == together[n]
