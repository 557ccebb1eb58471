"""No two turns draw from one seed: not those of a conversation, nor those of two steps of a training."""

from pictures import Photo
from scripted import SAMPLED, runner

from hart_lite.inference.engine import Decoding
from hart_lite.inference.protocols.base import Outcome, Say
from hart_lite.types import Example

BOX = '[{"bbox_2d": [28,28,84,84]}]'
EXAMPLE = Example("q", (Photo(672, 672),), "Which animal is it?", "B", ("lion", "tiger"))


def test_the_turns_of_any_two_seeds_are_apart():
    seeds = [Decoding(seed=seed).turn_seed(turn) for seed in range(500) for turn in (0, 1)]
    assert len(set(seeds)) == len(seeds)


def test_the_turns_of_a_training_draw_from_seeds_of_their_own(policy):
    """Twenty rollouts of two turns, in each loop that has two."""
    for loop in ("hart", "mgpo"):
        run = runner(policy, *[[BOX, BOX], ["(B)", "(A)"]] * 20)
        for seed in range(20):
            run.rollout([EXAMPLE], loop, samples=2, seed=seed)
        drawn = [sampling.seed for _, sampling in run.engine.generate.calls]
        assert len(drawn) == len(set(drawn)) == 40


def twice(example, setting):
    """One message, asked anew."""
    first = yield Say(["Which?"], max_tokens=6)
    second = yield Say(["Which?"], max_tokens=6)
    return Outcome(f"{first}|{second}")


def test_a_message_that_is_asked_again_is_answered_anew(policy):
    """Greedily it is the same answer: what differs is what is drawn."""
    run = runner(policy)
    drawn = [[turn.response for turn in one.turns] for one in run.run([EXAMPLE] * 6, twice, SAMPLED)]
    assert all(first != second for first, second in drawn)
    assert drawn == [[turn.response for turn in one.turns] for one in run.run([EXAMPLE] * 6, twice, SAMPLED)]
    [greedy] = run.run([EXAMPLE], twice)
    assert greedy.turns[0].response == greedy.turns[1].response
