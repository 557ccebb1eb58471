"""check-base on the base that ships: with keys as large as those of Qwen2.5, and broken on purpose."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from large_keys import KEY_BIAS, with_large_keys
from pictures import stock_inputs
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from hart_lite.box_formats import from_original, written
from hart_lite.boxes import iou
from hart_lite.cli import main as cli
from hart_lite.config.resources import TOY_BASE
from hart_lite.config.sections import Rollout
from hart_lite.inference.load import OpenModel
from hart_lite.inference.local_engine import LocalEngine
from hart_lite.inference.protocols import hart
from hart_lite.inference.rollout import Runner
from hart_lite.models import attention
from hart_lite.models.generation import Response
from hart_lite.models.loading import load_policy
from hart_lite.models.policy import Policy
from hart_lite.perf.check_base import decode, memory, run, verdicts
from hart_lite.perf.check_base.boxes import Boxes, probe
from hart_lite.perf.check_base.layers import KEY, PRODUCT, RESIDUAL, SCORES, largest_scores, largest_values
from hart_lite.perf.check_base.pictures import drawings, questions
from hart_lite.perf.check_base.run import Report
from hart_lite.perf.check_base.settings import settings
from hart_lite.types import Tokens

QUERY_BIAS = 233.0
RECIPE = settings("toy", ["model.device=cpu", "model.dtype=float32"])
EXAMPLES = questions(RECIPE.pixels.full)


@pytest.fixture(scope="module")
def toy_base() -> Policy:
    """With a fresh adapter, in float32; no test changes it."""
    return load_policy(RECIPE.model)


def runner_of(policy: Policy, locate=None) -> Runner:
    how = {"generate": locate} if locate else {}
    engine = LocalEngine(policy, Rollout().tokens_per_batch, 1, **how)
    return Runner(OpenModel("toy", engine, policy.family.name, {}, RECIPE.pixels, Rollout(max_boxes=1)))


def prompts_of(policy: Policy, numbers=(0, 3)) -> list[Tokens]:
    """Of a square picture and of a wide one."""
    return [runner_of(policy).prompt(EXAMPLES[n], hart.locate) for n in numbers]


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def checked(monkeypatch, capsys):
    """Runs the command on the base that ships, with large keys; gives its exit code, its report and what it printed."""

    def checked(dtype: str) -> tuple[int, Report, str]:
        reports = []
        whole, load = run.check_base, run.load_policy
        monkeypatch.setattr(run, "load_policy", lambda section: with_large_keys(load(section), QUERY_BIAS))
        if dtype != "float32":  # once will do: the profiler takes as long as all the rest
            monkeypatch.setattr(memory, "peak_bytes", lambda work, device: work() or 2**20)
        monkeypatch.setattr(run, "LONGEST_LOCATE", 8)  # tokens; boxes are tested below
        monkeypatch.setattr(run, "check_base", lambda *given: reports.append(whole(*given)) or reports[0])
        code = cli.main(["check-base", "toy", f"model.dtype={dtype}", "model.device=cpu"])
        return code, reports[0], capsys.readouterr().out

    return checked


def status(report: Report) -> dict[str, str]:
    return {check.name: check.status for check in report.checks}


NAMES = ["activations", "attention scores", "sampling gap", "library", "fresh adapter", "box format", "memory"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_large_keys_are_seen_and_decoded_soundly(checked, dtype):
    code, report, printed = checked(dtype)
    assert code == 0 and report.sound and "verdict: sound" in printed
    for row in report.largest.layers:  # products of 2 * 150 * 233 = 69,900, more or less what the base has beside them
        assert row[SCORES] == pytest.approx(2 * KEY_BIAS * QUERY_BIAS, rel=0.05)
        assert row[KEY] == pytest.approx(KEY_BIAS, rel=0.1)
    found = status(report)
    assert list(found) == NAMES
    wrong = {name: value for name, value in found.items() if value != "pass" and name != "box format"}
    assert wrong == ({"attention scores": "warn"} if dtype == "float16" else {})
    assert report.decoding.gap.mean < {"float32": 3e-4, "bfloat16": 3e-2, "float16": 3e-3}[dtype]
    assert report.decoding.gap.most > 0 and report.decoding.adapter == 0
    assert report.speed.seconds_per_token > 0 and 0 < report.memory.load < report.memory.work


def test_scores_in_16_bits_fail(checked, monkeypatch):
    """One path of the three rounds q.k: what is drawn, but not what is trained."""
    monkeypatch.setattr(attention, "float32_product", lambda a, b: (a @ b).float())
    code, report, printed = checked("bfloat16")
    found = status(report)
    assert code == 1 and found["sampling gap"] == "fail" and found["fresh adapter"] == "pass"
    assert "verdict: NOT sound" in printed and "fail  sampling gap: mean |drawn - pack| is" in printed


def test_scores_past_the_end_of_float16_fail_where_they_are_float16(checked, monkeypatch):
    monkeypatch.setattr(attention, "float32_product", lambda a, b: (a @ b).float())
    code, report, printed = checked("float16")
    assert code == 1 and status(report) == {"activations": "pass", "attention scores": "warn", "sampling": "fail"}
    assert report.decoding is report.boxes is report.memory is report.speed is None
    assert "nothing can be drawn" in printed and "float16 is too narrow" in printed


def test_an_adapter_that_is_not_fresh_fails():
    policy = load_policy(RECIPE.model)
    changed = dict(policy.model.named_parameters())
    with torch.no_grad():
        next(p for name, p in changed.items() if "lora_B" in name).fill_(0.01)
    found = decode.compare(policy, prompts_of(policy, [0]))
    assert found.adapter > 1e-4 and verdicts.adapter(found).status == "fail"
    assert verdicts.sampling_gap(found, "float32").status == verdicts.library(found, "float32").status == "pass"


def test_a_pack_that_is_not_the_librarys_forward_fails(toy_base, monkeypatch):
    """Drawn and packed alike by our decoder, which here turns what the library does not."""
    monkeypatch.setattr(toy_base.decoder, "scale", toy_base.decoder.scale * 2)
    found = decode.compare(toy_base, prompts_of(toy_base, [0]))
    assert verdicts.sampling_gap(found, "float32").status == "pass"
    assert verdicts.library(found, "float32").status == "fail"
    assert found.greedy.alike < found.greedy.tokens and found.greedy.margin > 0.1


# -- largest values ----------------------------------------------------------------------------------------------------


def test_scores_are_those_of_keys_up_to_the_own_one():
    """Two heads share a key head. |q.k| of token 0 with key 1 would be 50, and is never computed in attention."""
    q = torch.tensor([[[5.0, 0.0], [0.0, 1.0]], [[0.0, 2.0], [0.0, -4.0]]])
    k = torch.tensor([[[1.0, 1.0]], [[10.0, -3.0]]])
    assert largest_scores(q, k) == 12
    assert largest_scores(q * torch.tensor([torch.nan, 1.0]), k).isnan()


@torch.no_grad()
def library_values(policy: Policy, tokens: Tokens) -> tuple[dict[int, list[float]], float]:
    """By the library's own model and modules: for each layer |q.k|, |key|, residual, MLP product; then vision."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(TOY_BASE, dtype=torch.float32).eval()
    seen: dict[int, list[float]] = defaultdict(lambda: [0.0] * 4)
    vision = [0.0]

    def note(n: int, column: int, values: torch.Tensor) -> None:
        seen[n][column] = max(seen[n][column], values.abs().max().item())

    def attended(block, given, named) -> None:
        x, (cos, sin) = named["hidden_states"], named["position_embeddings"]
        q, k = (p(x).unflatten(-1, (-1, block.head_dim)).transpose(1, 2) for p in (block.q_proj, block.k_proj))
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        note(block.layer_idx, KEY, k)
        note(block.layer_idx, SCORES, (q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT).tril())

    def saw(module, given, out) -> None:
        if isinstance(out, torch.Tensor) and out.is_floating_point():
            vision[0] = max(vision[0], out.abs().max().item())

    for n, layer in enumerate(model.model.language_model.layers):
        layer.self_attn.register_forward_pre_hook(attended, with_kwargs=True)
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, given, n=n: note(n, PRODUCT, given[0]))
        layer.post_attention_layernorm.register_forward_pre_hook(lambda _, given, n=n: note(n, RESIDUAL, given[0]))
        layer.register_forward_hook(lambda *a, n=n: note(n, RESIDUAL, a[-1]))
    for module in model.model.visual.modules():
        module.register_forward_hook(saw)
    model(**stock_inputs(policy, tokens), use_cache=False)
    return seen, vision[0]


def test_largest_values_are_those_of_the_librarys_modules(toy_base):
    prompts = prompts_of(toy_base)
    found = largest_values(toy_base, prompts)
    alone = [library_values(toy_base, prompt) for prompt in prompts]
    assert len(found.layers) == len(alone[0][0]) == 4
    for n, row in enumerate(found.layers):
        most = [max(values) for values in zip(*(seen[n] for seen, _ in alone), strict=True)]
        assert row == pytest.approx(most, rel=1e-4)
    assert found.vision == pytest.approx(max(vision for _, vision in alone), rel=1e-4)
    assert found.scale == toy_base.decoder.layers[0].self_attn.head_dim ** -0.5


def test_what_is_no_number_comes_through(toy_base):
    norm = toy_base.decoder.layers[1].post_attention_layernorm.weight
    kept = norm[0].item()
    with torch.no_grad():
        norm[0] = torch.nan
    found = largest_values(toy_base, prompts_of(toy_base, [0]))
    with torch.no_grad():
        norm[0] = kept
    check = verdicts.activations(found, "float32")
    assert check.status == "fail" and check.text.startswith("residual of layer 1 is not finite")


# -- boxes -------------------------------------------------------------------------------------------------------------


def located(policy: Policy, frame: str) -> Boxes:
    """What is found of a base that points at every thing, in numbers of `frame`."""

    def locate(policy, prompts, sampling, cache=None) -> list[Response]:
        return [Response(policy.family.response_ids(answer(p, e))) for p, e in zip(prompts, EXAMPLES, strict=True)]

    def answer(prompt: Tokens, example) -> str:
        seen, original = prompt.slots[0].view.size, example.images[0].size()
        numbers = written(frame, from_original(frame, example.boxes[0].xyxy, seen, original))
        return f'[{{"bbox_2d": [{numbers}], "label": "it"}}]'

    return probe(runner_of(policy, locate), EXAMPLES)


@pytest.mark.parametrize("frame", ["relative-1000", "pixels"])
def test_a_wrong_box_format_is_found(toy_base, frame):
    found = located(toy_base, frame)
    check = verdicts.box_format(found)
    assert (found.best, found.own, found.named, found.sure) == (frame, "seen-pixels", 12, True)
    assert found.readings[frame].iou > 0.9 and found.readings[frame].hits == 12
    assert check.status == "fail" and f"Set model.box_format={frame}" in check.text


def test_the_familys_own_box_format_passes(toy_base):
    found = located(toy_base, "seen-pixels")
    assert found.best == "seen-pixels" and not found.sure and found.readings["seen-pixels"].hits > 9
    assert verdicts.box_format(found).status == "pass"


@pytest.mark.parametrize("pixels", [12_544, 640 * 784, 4_000_000])
def test_pictures_tell_the_formats_apart(pixels):
    """Things lie apart within their picture, which is larger than it is seen and has no side of about 1000 pixels."""
    pictures = drawings(pixels)
    assert len({picture.key for picture in pictures}) == 4
    for picture in pictures:
        things = [thing.box for thing in picture.things]
        assert all(0 <= b.x1 < b.x2 <= picture.width and 0 <= b.y1 < b.y2 <= picture.height for b in things)
        assert sum(iou(a, b) for a in things for b in things) == len(things) == 4
        assert picture.width * picture.height >= 4 * pixels * 0.99
        assert abs(picture.width - 1000) > 50 and abs(picture.height - 1000) > 50
    assert pictures[1].load().size == pictures[1].size()
    assert len({example.id for example in questions(pixels)}) == 12
