"""A real vLLM server draws what our own engine draws: ids, log-probs, boxes, a whole run, an evaluation."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chi_square import chi_square
from pictures import packed_logps
from small_runs import metrics

from hart_lite.config.resources import TOY_BASE
from hart_lite.config.schema import Recipe
from hart_lite.eval.evaluator import evaluate_benchmarks
from hart_lite.eval.results import read_evaluation
from hart_lite.eval.settings import EvalSettings
from hart_lite.inference.engine import Decoding
from hart_lite.inference.load import recipe_model
from hart_lite.inference.protocols import hart
from hart_lite.inference.rollout import Runner
from hart_lite.inference.vllm_engine import serve_model
from hart_lite.models.loading import load_policy
from hart_lite.toy.scenes import World, examples
from hart_lite.training.train import train
from hart_lite.types import Trajectory

pytestmark = pytest.mark.engine

EXAMPLES = list(examples(World(), range(4)))
ADAPTERS = {"base": [], "language": ["language_model"], "vision": ["visual"], "all": ["language_model", "visual"]}


@pytest.fixture
def runners(recipe, tmp_path_factory):
    """(on the server, our own) of one policy. The server is left without an adapter, for the next run."""
    policy = load_policy(recipe.model)
    local = recipe_model("tiny", policy, recipe, {})
    served = serve_model(local, recipe, tmp_path_factory.mktemp("served"))
    yield Runner(served), Runner(local)
    served.engine.close()


def wear(policy, parts: list[str]) -> None:
    """Adapters on these parts that change what the model says; none elsewhere."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                std = 0.03 if any(part in name for part in parts) else 0.0
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    policy.forget_images()


@pytest.mark.parametrize("parts", ADAPTERS.values(), ids=ADAPTERS)
def test_ids_and_log_probs(runners, parts, capsys):
    """Of the prompts the engine compares each id itself, and ends at the first that differs."""
    served, local = runners
    policy = local.policy
    wear(policy, [])
    [plain] = packed_logps(policy, [probe(local)], 4096)
    wear(policy, parts)
    [worn] = packed_logps(policy, [probe(local)], 4096)
    assert ((plain - worn).abs().max() > 0.01) == bool(parts)  # the adapter says something
    wear(policy, [])
    served.engine.sync()
    wear(policy, parts)
    begun = time.perf_counter()
    served.engine.sync()
    swapped = time.perf_counter()
    groups = served.rollout(EXAMPLES, "hart", samples=8, seed=0)
    drawn = time.perf_counter()
    local.rollout(EXAMPLES, "hart", samples=8, seed=0)
    ended = time.perf_counter()
    turns = [turn for group in groups for t in group.trajectories for turn in t.turns]
    gaps = [(torch.tensor(turn.logps) - packed_logps(policy, [turn.tokens], 4096)[0]).abs().max() for turn in turns]
    name, largest = " and ".join(parts) or "nothing", max(gaps)
    with capsys.disabled():
        print(f"\nadapter on {name}: {len(turns)} turns, largest gap {largest:.1e}")
        print(f"handed over and checked in {swapped - begun:.2f} s")
        print(f"rollout over HTTP {drawn - swapped:.2f} s, local {ended - drawn:.2f} s")
    assert {turn.kind for turn in turns} == {"locate", "verify"}
    assert largest < 1e-4


def probe(run: Runner):
    """A response to the first question that is not the policy's own."""
    family = run.policy.family
    prompt = run.prompt(EXAMPLES[0], hart.full)
    return prompt + type(prompt).response(family.response_ids("The answer is here."))


def test_boxes_have_the_same_distribution(runners):
    """Which of 36 cells the first box of a sample lies in."""
    served, local = runners
    wear(local.policy, [])
    repeated = [EXAMPLES[1]] * 240
    counts = [
        Counter(cell(t) for t in run.run(repeated, hart.locate, Decoding(1.0, seed=seed)))
        for run, seed in ((served, 1), (local, 2), (local, 3))
    ]
    assert len(counts[0]) > 2
    assert chi_square(counts[0], counts[1]) < 1 and chi_square(counts[2], counts[1]) < 1
    [(most, _)] = counts[0].most_common(1)
    without = Counter({place: n for place, n in counts[0].items() if place != most})
    assert chi_square(without, counts[1]) > 1


def cell(trajectory: Trajectory) -> tuple[int, int] | None:
    if not trajectory.boxes:
        return None
    box = trajectory.boxes[0]
    return int((box.x1 + box.x2) / 2 // 112), int((box.y1 + box.y2) / 2 // 112)


def test_a_whole_run(recipe: Recipe, tmp_path):
    stages = [recipe.stages[0].model_copy(update={"steps": 3})]
    small = recipe.data.toy.model_copy(update={"scenes": 40, "eval_scenes": 4})
    data = recipe.data.model_copy(update={"toy": small})
    run = tmp_path / "run"
    train(recipe.model_copy(update={"stages": stages, "data": data, "output": str(run)}))
    rows = metrics(run)
    assert len(rows) == 3 and all(row["sampling_gap"] < 1e-4 and row["reweighted"] == 0 for row in rows)
    assert 0 < sum(row["reward"] for row in rows) < 3


def test_an_evaluation_equals_the_local_one_question_by_question(recipe: Recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", f"{recipe.rollout.servers[0]}/v1")
    pixels = recipe.pixels
    limits = {"full_pixels": pixels.full, "crop_pixels": pixels.crop, "min_pixels": pixels.min, "max_tokens": 24}
    settings = EvalSettings(benchmarks={"toy": "scenes=20"}, **limits)
    over_http = replace(settings, family="qwen2_5_vl")
    for model, how, name in (("toy", settings, "local"), (f"api:{TOY_BASE}", over_http, "http")):
        evaluate_benchmarks(model, how, tmp_path / name)
    local, http = (rows_of(tmp_path / name) for name in ("local", "http"))
    assert len(local) == 40 * 3 and local == http


def rows_of(folder: Path) -> dict:
    rows = read_evaluation(folder).rows
    return {(row.id, row.mode): (row.text, [box.to_list() for box in row.boxes]) for row in rows}
