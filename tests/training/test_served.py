"""Whole runs whose rollouts a server draws: stand-ins on loopback answer from the tiny base."""

from contextlib import ExitStack, contextmanager

import pytest
import torch
from safetensors.torch import load_file
from small_runs import make_up, metrics, rl_stage, small_recipe, without_timings
from vllm_server import StandIn, serving

from hart_lite.errors import ServerError
from hart_lite.inference import vllm_server
from hart_lite.training.train import train

STAGES = [rl_stage(steps=4, save_every=1)]


@pytest.fixture(autouse=True)
def _place(monkeypatch, no_proxy):
    make_up(monkeypatch.setattr)
    monkeypatch.setattr(vllm_server, "ATTEMPTS", 1)


@contextmanager
def recipes(base, folder, number=1, **stand_in):
    """(a recipe maker, the stand-ins)."""
    with ExitStack() as stack:
        stand_ins = [StandIn(base, {"r": 4}, **stand_in) for _ in range(number)]
        servers = [stack.enter_context(serving(one)) for one in stand_ins]

        def recipe(name: str, **changes):
            rollout = {"engine": "vllm", "servers": servers, "temperature": 2.0}
            return small_recipe(base, folder / name, STAGES, rollout=rollout, **changes)

        yield recipe, stand_ins


def adapter(run) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter/adapter_model.safetensors")


def test_a_run_trains_on_what_the_server_draws(tiny_base, tmp_path):
    with recipes(tiny_base, tmp_path) as (recipe, [stand_in]):
        train(recipe("run", evaluate={"watch": 1}))
    rows = metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    trained = [row for row in rows if "sampling_gap" in row]
    assert trained and all(row["sampling_gap"] < 1e-4 and row["reweighted"] == 0 for row in trained)
    names = [name for name in stand_in.loaded if "language" not in name]
    assert len(set(names)) == len(names) > 3 and not stand_in.adapters  # a fresh one for each state, none at the end
    assert max(v.abs().max() for n, v in adapter(tmp_path / "run").items() if "lora_B" in n) > 1e-3
    assert not any((tmp_path / "run/served").iterdir())


def test_a_run_that_lost_its_server_goes_on_to_the_same_end(tiny_base, tmp_path):
    with recipes(tiny_base, tmp_path) as (recipe, [stand_in]):
        train(recipe("whole"))
        asked = len(stand_in.asked)
        stand_in.fault, stand_in.healthy = "500", asked + asked * 2 // 3
        with pytest.raises(
            ServerError, match=r"out of luck, 1 times.*(?s:.)*The checkpoints in .* are intact.*--resume"
        ):
            train(recipe("broken"))
        steps = [row["step"] for row in metrics(tmp_path / "broken")]
        assert 1 <= len(steps) < 4
        stand_in.fault = ""
        train(recipe("broken"), resume=True)
    one, other = adapter(tmp_path / "whole"), adapter(tmp_path / "broken")
    assert all(torch.equal(one[name], other[name]) for name in one)
    first, second = (without_timings(metrics(tmp_path / name)) for name in ("whole", "broken"))
    assert first == second


def test_tokens_that_the_server_draws_otherwise_carry_importance_weights(tiny_base, tmp_path, monkeypatch):
    """A server that is a little off: its log-probs are shifted, so every token is reweighted, up to the cap."""
    complete = StandIn.complete

    def shifted(self, body):
        import json

        code, text = complete(self, body)
        answer = json.loads(text)
        for choice in answer.get("choices", []):
            for token in (choice["logprobs"] or {"content": []})["content"]:
                token["logprob"] -= 0.2
        return code, json.dumps(answer)

    with recipes(tiny_base, tmp_path) as (recipe, _):
        train(recipe("exact"))
        monkeypatch.setattr(StandIn, "complete", shifted)
        monkeypatch.setattr("hart_lite.inference.served_adapters.TOLERANCE", {torch.float32: 0.5})
        train(recipe("shifted"))
    rows = metrics(tmp_path / "shifted")
    assert all(row["sampling_gap"] == pytest.approx(0.2, abs=1e-3) for row in rows if "sampling_gap" in row)
    assert all(row["reweighted"] == 1 for row in rows if "reweighted" in row)
    exact, off = metrics(tmp_path / "exact")[0], rows[0]
    assert off["policy_loss"] == pytest.approx(1.2214 * exact["policy_loss"], rel=1e-2, abs=1e-6)


def test_several_servers_share_a_step(tiny_base, tmp_path):
    with recipes(tiny_base, tmp_path, number=2) as (recipe, stand_ins):
        train(recipe("run"))
    assert all(len(one.asked) > 8 for one in stand_ins)
    assert stand_ins[0].loaded == stand_ins[1].loaded
