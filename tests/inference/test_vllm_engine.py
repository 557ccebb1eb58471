"""Rollouts on vLLM servers, of which stand-ins on loopback answer from the tiny base."""

from collections import Counter
from contextlib import ExitStack, contextmanager

import pytest
import torch
from chi_square import chi_square
from pictures import Photo, packed_logps
from small_runs import make_up, small_recipe
from vllm_server import StandIn, serving

from hart_lite.config.sections import Lora
from hart_lite.errors import HartError, ServerError
from hart_lite.inference.engine import GREEDY, Decoding
from hart_lite.inference.load import recipe_model
from hart_lite.inference.protocols import hart
from hart_lite.inference.rollout import Runner
from hart_lite.inference.vllm_engine import serve_model
from hart_lite.types import Example

pytestmark = pytest.mark.usefixtures("no_proxy")

LANGUAGE = {"r": 4}
ALL_PARTS = {"r": 4, "parts": ["language", "vision", "projector"]}
EXAMPLES = [
    Example(str(n), (Photo(300 + 40 * n, 200, seed=n),), f"Which letter is on sign {n}?", "A") for n in range(3)
]


@contextmanager
def two_runners(new_policy, base, folder, lora=LANGUAGE, fault="", servers=1, policy=None, **stand_in):
    """(the runner on servers, the local one, the stand-ins) of one policy."""
    policy = policy or new_policy(dtype="float32", device="cpu", lora=Lora(**lora))
    with ExitStack() as stack:
        stand_ins = [StandIn(base, lora, fault=fault, **stand_in) for _ in range(servers)]
        addresses = [stack.enter_context(serving(one)) for one in stand_ins]
        recipe = small_recipe(base, folder, rollout={"engine": "vllm", "servers": addresses, "temperature": 1.0})
        local = recipe_model("tiny", policy, recipe, {})
        settings = {"attempts": 2, "pause": 0.01, "timeout": 1.0 if fault == "slow" else 60.0}
        served = serve_model(local, recipe, folder / "served", **settings)
        yield Runner(served), Runner(local), stand_ins


def changed(policy) -> None:
    """As an optimizer step changes it."""
    with torch.no_grad():
        for parameter in policy.adapter_parameters:
            parameter.add_(0.02)
    policy.forget_images()


# -- what comes back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [LANGUAGE, ALL_PARTS], ids=["language", "all"])
def test_ids_and_log_probs_are_those_of_our_own_forward_pass(new_policy, tiny_base, tmp_path, lora, monkeypatch):
    make_up(monkeypatch.setattr)
    with two_runners(new_policy, tiny_base, tmp_path, lora) as (served, local, [stand_in]):
        groups = served.rollout(EXAMPLES, "hart", samples=4, seed=0)
        turns = [turn for group in groups for t in group.trajectories for turn in t.turns]
        assert {turn.kind for turn in turns} == {"locate", "verify"}
        for turn in turns:
            assert turn.logps == pytest.approx(packed_logps(local.policy, [turn.tokens], 4096)[0].tolist(), abs=1e-4)
        assert all(
            b["return_token_ids"] and b["top_k"] == -1 and b["repetition_penalty"] == 1.0 for b in stand_in.asked
        )
        assert [b["n"] for b in stand_in.asked if b["n"] > 1][:3] == [4, 4, 4]  # the samples of a question together
        banned = {str(i) for i in local.policy.family.banned_ids}
        assert all(set(body["logit_bias"]) == banned for body in stand_in.asked)


def test_greedy_answers_equal_the_local_ones(new_policy, tiny_base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    with two_runners(new_policy, tiny_base, tmp_path) as (served, local, _):
        for protocol in (hart.full, hart.crops, hart.full_and_crops):
            ours, theirs = (run.run(EXAMPLES, protocol, GREEDY) for run in (local, served))
            assert [[turn.response for turn in t.turns] for t in theirs] == [
                [turn.response for turn in t.turns] for t in ours
            ]
            assert [t.boxes for t in theirs] == [t.boxes for t in ours]


def test_what_is_drawn_has_the_same_distribution(new_policy, tiny_base, tmp_path):
    """First words of 600 samples by chi-square."""
    with two_runners(new_policy, tiny_base, tmp_path) as (served, local, _):
        repeated = [EXAMPLES[0]] * 600
        counts = [
            Counter(t.turns[0].response[0] % 16 for t in run.run(repeated, hart.full, Decoding(1.0, seed=seed)))
            for run, seed in ((served, 1), (local, 2), (local, 3))
        ]
    assert chi_square(counts[0], counts[1]) < 1 and chi_square(counts[2], counts[1]) < 1
    tilted = Counter({kind: n * (3 if kind % 2 else 1) for kind, n in counts[0].items()})
    assert chi_square(tilted, counts[1]) > 1


def test_the_same_seed_draws_the_same_and_another_does_not(new_policy, tiny_base, tmp_path):
    with two_runners(new_policy, tiny_base, tmp_path) as (served, _, _):
        one, same, other = (served.rollout(EXAMPLES[:1], "direct", 4, seed) for seed in (1, 1, 2))
        assert one == same != other
        responses = {t.turns[0].response for t in one[0].trajectories}
        assert len(responses) > 1


def test_questions_are_spread_over_servers(new_policy, tiny_base, tmp_path):
    with two_runners(new_policy, tiny_base, tmp_path, servers=2) as (served, _, stand_ins):
        served.engine.sync()
        before = [len(one.asked) for one in stand_ins]
        served.rollout(EXAMPLES[:2] * 2, "direct", samples=2, seed=0)
        assert [len(one.asked) - n for one, n in zip(stand_ins, before, strict=True)] == [1, 1]  # alike are one request
        served.rollout(EXAMPLES, "direct", samples=2, seed=0)
        assert [len(one.asked) - n for one, n in zip(stand_ins, before, strict=True)] == [3, 2]


# -- adapters ------------------------------------------------------------------------------------------------------


def test_each_state_of_the_weights_has_a_name_of_its_own(new_policy, tiny_base, tmp_path):
    policy = new_policy(dtype="float32", device="cpu", lora=Lora(**LANGUAGE))
    with two_runners(new_policy, tiny_base, tmp_path, policy=policy, servers=2) as (served, _, stand_ins):
        served.engine.sync()
        first = served.engine.adapters.name
        served.engine.sync()  # nothing has changed
        changed(policy)
        served.rollout(EXAMPLES[:1], "direct", 2, 0)
        second = served.engine.adapters.name
        assert first != second
        for stand_in in stand_ins:
            assert [name for name in stand_in.loaded if "language" not in name] == [first, second]
            assert list(stand_in.adapters) == [second]  # the old one is gone, and so is the strong one of the check
            assert stand_in.asked[-1]["model"] == second
        assert [path.name for path in (tmp_path / "served").iterdir()] == [second]
        served.engine.close()
        assert not any(one.adapters for one in stand_ins) and not any((tmp_path / "served").iterdir())


def test_checking_leaves_the_weights_as_they_were(new_policy, tiny_base, tmp_path):
    policy = new_policy(dtype="float32", device="cpu", lora=Lora(**ALL_PARTS))
    before = [p.detach().clone() for p in policy.adapter_parameters]
    with two_runners(new_policy, tiny_base, tmp_path, ALL_PARTS, policy=policy) as (served, _, [stand_in]):
        served.engine.sync()
        assert all(torch.equal(a, b) for a, b in zip(before, policy.adapter_parameters, strict=True))
        assert len(stand_in.loaded) == 4  # one for each part


def test_what_a_killed_run_left_is_taken_away_and_another_runs_adapter_is_not(new_policy, tiny_base, tmp_path):
    with two_runners(new_policy, tiny_base, tmp_path / "a") as (served, local, [stand_in]):
        left = f"{served.engine.adapters.mark}-0123456789ab"
        stand_in.adapters |= {left: {}, "somebody-elses": {}}
        served.engine.sync()
        assert list(stand_in.adapters) == ["somebody-elses", served.engine.adapters.name]
        recipe = small_recipe(
            tiny_base,
            tmp_path / "b",
            rollout={"engine": "vllm", "servers": [served.engine.adapters.servers[0].address]},
        )
        second = serve_model(local.model, recipe, tmp_path / "b/served")
        with pytest.raises(ServerError, match=f"holds adapter {served.engine.adapters.name} of another run"):
            second.engine.sync()


# -- what is wrong with a server -----------------------------------------------------------------------------------

FAULTS = [
    ("no-adapter", LANGUAGE, {}, "does not answer by the language part of an adapter"),
    ("no-tower", ALL_PARTS, {}, r"does not answer by the vision part .* \(--enable-tower-connector-lora\)"),
    ("other-words", LANGUAGE, {}, r"of \d+ and \d+ ids the first that differs is number \d+, \d+ there and \d+ here"),
    ("", LANGUAGE, {"most": 3 * 784}, r"It sees 2 image tokens where we see 5: its limits of pixels are others"),
    ("", LANGUAGE, {"least": 4 * 784}, r"It sees 4 image tokens where we see 1: its limits of pixels are others"),
    ("no-loading", LANGUAGE, {}, r"told to load adapter .*HTTP 404.*has to see .* under the same path"),
    ("unreadable", LANGUAGE, {}, r"told to load adapter .*No adapter found.*has to see .* under the same path"),
    ("500", LANGUAGE, {}, r"asked to sample .*HTTP 500: out of luck, 2 times"),
    ("400", LANGUAGE, {}, r"asked to sample .*HTTP 400: out of luck"),
    ("slow", LANGUAGE, {}, r"asked to sample .*timed out, 2 times"),
    ("hang-up", LANGUAGE, {}, r"asked to sample .*RemoteDisconnected.*, 2 times"),
    (
        "no-ids",
        LANGUAGE,
        {},
        "is no chat completion of 1 responses with their ids and log-probs, as vLLM 0.32 gives it",
    ),
]


@pytest.mark.parametrize(("fault", "lora", "stand_in", "message"), FAULTS, ids=[f"{f[0]}{f[2] or ''}" for f in FAULTS])
def test_a_server_that_will_not_do_is_named_before_training(
    new_policy, tiny_base, tmp_path, fault, lora, stand_in, message
):
    with two_runners(new_policy, tiny_base, tmp_path, lora, fault, **stand_in) as (served, _, [one]):
        with pytest.raises(ServerError, match=message) as failed:
            served.engine.sync()
        assert str(failed.value).startswith(f"vLLM server {served.engine.adapters.servers[0].address}")
        assert not one.adapters  # nothing is left behind


def test_a_server_of_another_base(new_policy, tiny_base, tmp_path):
    from hart_lite.config.resources import TOY_BASE

    with (
        two_runners(
            new_policy, TOY_BASE, tmp_path, policy=new_policy(dtype="float32", device="cpu", lora=Lora(r=4))
        ) as (served, _, _),
        pytest.raises(ServerError, match=r"Its base|does not answer by|reads another prompt"),
    ):
        served.engine.sync()


def test_stale_weights_under_a_new_name(new_policy, tiny_base, tmp_path):
    policy = new_policy(dtype="float32", device="cpu", lora=Lora(**LANGUAGE))
    with two_runners(new_policy, tiny_base, tmp_path, fault="stale", policy=policy) as (served, _, _):
        served.engine.sync()
        changed(policy)
        with pytest.raises(ServerError, match=r"gives a token of adapter .* the log-prob .* an old one"):
            served.engine.sync()


@pytest.mark.parametrize(
    ("fault", "message"),
    [("500", "out of luck, 2 times"), ("lost", "does not exist"), ("other-words", "reads another prompt")],
)
def test_what_fails_in_the_middle_of_a_rollout(new_policy, tiny_base, tmp_path, fault, message):
    with (
        two_runners(new_policy, tiny_base, tmp_path, fault=fault, healthy=4) as (served, _, _),
        pytest.raises(ServerError, match=message),
    ):
        served.rollout(EXAMPLES, "direct", 2, 0)


def test_a_server_that_is_not_there(new_policy, tiny_base, tmp_path):
    with two_runners(new_policy, tiny_base, tmp_path) as (served, _, _):
        pass
    with pytest.raises(ServerError, match=r"asked for its models: .*refused.*, 2 times. Way out: start it with"):
        served.engine.sync()


def test_a_family_that_no_chat_server_reads_as_we_do(new_policy, tiny_base, tmp_path):
    with two_runners(new_policy, tiny_base, tmp_path) as (_, local, _):
        local.engine.policy = type("Other", (), {"family": type("F", (), {"name": "internvl3"})()})()
        with pytest.raises(HartError, match=r"serves Qwen2.5-VL and Qwen3-VL, and the base is internvl3"):
            serve_model(local.model, small_recipe(tiny_base, tmp_path), tmp_path)
