"""What a conversation goes on from is not read again, and nobody can tell from what is said."""

from __future__ import annotations

import pytest
import torch
from pictures import photo_view

from hart_lite.models import prefill
from hart_lite.models.generation import Sampling, generate
from hart_lite.models.packing import trie
from hart_lite.models.prompt_cache import PromptCache
from hart_lite.models.tree_attention import Tree
from hart_lite.perf.step_time.count import size
from hart_lite.types import Tokens


@pytest.fixture(scope="module")
def talkative(new_policy):
    return new_policy(adapter_std=0.4)


def first_turns(family) -> list[Tokens]:
    """Two questions, three samples each."""
    asked = [family.chat((photo_view(112, 84, n), f"Where is it, {n}?")) for n in (1, 2)]
    return [prompt for prompt in asked for _ in range(3)]


def next_turns(policy, prompts: list[Tokens], cache) -> list[Tokens]:
    said = generate(policy, prompts, Sampling(12, seed=2), cache)
    crop = photo_view(56, 56, 7)
    return [
        prompt + Tokens.response(response.ids) + policy.family.reply((crop, "What is it?"), False)
        for prompt, response in zip(prompts, said, strict=True)
    ]


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """Tokens of each pass over prompts."""
    counts, tree = [], Tree.of
    monkeypatch.setattr(Tree, "of", lambda lengths, *rest: counts.append(sum(lengths)) or tree(lengths, *rest))
    return counts


@pytest.mark.parametrize("feed", [4096, 23])
def test_the_second_turn_reads_what_is_new_and_says_the_same(talkative, read, monkeypatch, feed):
    monkeypatch.setattr(prefill, "FEED_TOKENS", feed)
    prompts = first_turns(talkative.family)
    cache = PromptCache(10_000)
    again = next_turns(talkative, prompts, cache)
    read.clear()
    expected = generate(talkative, again, Sampling(12, seed=3))
    whole = sum(read)
    read.clear()
    found = generate(talkative, again, Sampling(12, seed=3), cache)
    assert [r.ids for r in found] == [r.ids for r in expected]
    logps = ([logp for r in responses for logp in r.logps] for responses in (found, expected))
    torch.testing.assert_close(*map(torch.tensor, logps), rtol=0, atol=5e-5)
    assert sum(read) <= whole - size(trie([*dict.fromkeys(prompts)]))


def test_a_third_turn_goes_on_from_the_second(talkative, read):
    cache = PromptCache(10_000)
    second = next_turns(talkative, first_turns(talkative.family), cache)
    third = next_turns(talkative, second, cache)
    read.clear()
    generate(talkative, third, Sampling(2), cache)
    new = sum(len(t) - len(s) for s, t in zip(second, third, strict=True))
    assert sum(read) <= new


def test_nothing_is_kept_beyond_its_room(talkative, read):
    small, prompts = PromptCache(20), first_turns(talkative.family)
    again = next_turns(talkative, prompts, small)
    assert small.used == 0 and all(small.find(prompt) is None for prompt in again)
    large = PromptCache(10_000)
    next_turns(talkative, prompts, large)
    assert all(len(large.find(a)) == len(p) for a, p in zip(again, prompts, strict=True))
    assert large.find(prompts[0]) is None  # nothing of it would be left to read
    large.forget()
    assert large.find(again[0]) is None
