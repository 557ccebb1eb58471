"""A question that stands several times in a pass is asked once in a step."""

import random
from collections import Counter

import pytest

from hart_lite.errors import HartError
from hart_lite.training.question_order import QuestionOrder, check_repeats, spread


@pytest.mark.parametrize("per_step", [2, 3, 5, 8])
@pytest.mark.parametrize("seed", range(5))
def test_copies_are_asked_in_different_steps_and_none_is_lost(per_step, seed):
    ids = [f"a{n}" for n in range(9)] + [f"b{n}" for n in range(6)] * 3
    order = QuestionOrder(len(ids), per_step, seed, ids)
    whole = len(ids) - len(ids) % per_step
    for epoch in range(2):
        asked = [order[epoch * whole + n] for n in range(whole)]
        assert len(set(asked)) == whole
        for first in range(0, whole, per_step):
            step = [ids[i] for i in asked[first : first + per_step]]
            assert len(set(step)) == per_step
    counts = Counter(ids[i] for i in asked)
    assert sum(counts[f"b{n}"] for n in range(6)) >= 18 - per_step


def test_without_copies_the_order_is_what_it_was():
    ids = [str(n) for n in range(7)]
    assert [QuestionOrder(7, 3, 0, ids)[i] for i in range(12)] == [QuestionOrder(7, 3, 0)[i] for i in range(12)]


def test_an_order_without_copies_in_a_step_stays():
    order = random.Random(0).sample(range(6), 6)
    same = list(order)
    spread(same, "abcdef", 3)
    assert same == order


def test_weights_that_leave_no_way_are_refused():
    with pytest.raises(HartError, match="b stands 5 times in a pass of 2 steps with 3 different questions"):
        check_repeats("abbbbbc", 3)
    with pytest.raises(HartError, match="questions_per_step = 4"):
        check_repeats("aabbcc", 4)
