"""Intervals and tests against closed forms, and against every case there is where those can be counted out."""

import math
from itertools import permutations, product

import numpy as np
import pytest

from hart_lite.errors import HartError
from hart_lite.eval.grounding import joint_table, mutual_information
from hart_lite.eval.statistics import bootstrap_interval, mcnemar, paired_bootstrap, permutation_test


def normal_interval(values) -> tuple[float, float]:
    mean, error = np.mean(values), np.std(values) / math.sqrt(len(values))
    return mean - 1.96 * error, mean + 1.96 * error


def test_single_questions_give_the_normal_interval():
    values = np.random.default_rng(3).random(800) < 0.3
    low, high = bootstrap_interval(values, range(800), samples=8000)
    assert (low, high) == pytest.approx(normal_interval(values), abs=0.003)
    assert bootstrap_interval(values, range(800), level=0.5)[0] > low + 0.01


def test_an_interval_follows_from_its_seed():
    values = [0.0, 1.0] * 20
    assert bootstrap_interval(values, range(40)) == bootstrap_interval(values, range(40))
    assert bootstrap_interval(values, range(40), samples=50) != bootstrap_interval(values, range(40), 50, seed=1)


def test_questions_that_agree_within_an_image_count_once():
    """Ten times the same questions are no more evidence than once: the interval is that of the images."""
    images = np.random.default_rng(5).random(100) < 0.4
    values, clusters = np.repeat(images, 10), np.repeat(range(100), 10)
    low, high = bootstrap_interval(values, list(clusters), samples=8000)
    assert (low, high) == pytest.approx(normal_interval(images), abs=0.01)
    alone = bootstrap_interval(values, range(1000), samples=8000)
    assert (high - low) / (alone[1] - alone[0]) == pytest.approx(math.sqrt(10), rel=0.05)


def test_three_questions_counted_out():
    """All 27 draws of 3 clusters, one with two questions: the quantiles of their means."""
    sums, counts = {"x": 2, "y": 0, "z": 0}, {"x": 2, "y": 1, "z": 1}
    means = [sum(sums[c] for c in draw) / sum(counts[c] for c in draw) for draw in product("xyz", repeat=3)]
    low, high = bootstrap_interval([1, 1, 0, 0], ["x", "x", "y", "z"], samples=20000, level=0.6)
    assert (low, high) == (pytest.approx(np.quantile(means, 0.2)), pytest.approx(np.quantile(means, 0.8)))


def test_the_mean_of_means_has_an_interval_of_its_own():
    """A group of 10 weighs as much as one of 190."""
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.random(190) < 0.9, rng.random(10) < 0.2]).astype(float)
    groups = ["large"] * 190 + ["small"] * 10
    macro = (values[:190].mean() + values[190:].mean()) / 2
    low, high = bootstrap_interval(values, range(200), samples=4000, groups=groups)
    error = math.sqrt(values[:190].var() / 190 + values[190:].var() / 10) / 2
    assert low < macro < high
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert high < values.mean() - 0.1


def test_one_image_says_nothing_of_the_spread():
    assert all(map(math.isnan, bootstrap_interval([0, 1, 1], ["x"] * 3)))
    paired = paired_bootstrap([0, 0, 0], [1, 1, 1], ["x"] * 3)
    assert (paired["difference"], paired["p"]) == (1, 1)


def test_what_cannot_be_measured_is_an_error():
    with pytest.raises(HartError, match="no questions"):
        bootstrap_interval([], [])
    with pytest.raises(HartError, match="2 labels for 3 values"):
        bootstrap_interval([1, 0, 1], ["x", "y"])
    with pytest.raises(HartError, match="1 values against 2"):
        paired_bootstrap([1], [1, 0], ["x", "y"])
    with pytest.raises(HartError, match="1 answers against 2"):
        permutation_test([True], [True, False])


def test_the_difference_is_b_less_a():
    a, b = [0.0] * 50 + [1.0] * 50, [0.0] * 20 + [1.0] * 80
    found = paired_bootstrap(a, b, range(100), samples=4000)
    assert found["difference"] == pytest.approx(0.3)
    assert (found["low"], found["high"]) == pytest.approx(normal_interval(np.subtract(b, a)), abs=0.01)
    assert found["p"] == pytest.approx(1 / 4001)
    back = paired_bootstrap(b, a, range(100), samples=4000)
    assert (back["difference"], back["low"], back["high"]) == (-0.3, -found["high"], -found["low"])


def test_equal_systems_do_not_differ():
    values = [1.0, 0.0, 1.0, 0.0]
    assert paired_bootstrap(values, values, range(4)) == {"difference": 0, "low": 0, "high": 0, "p": 1}


def test_the_p_of_a_difference_counted_out():
    """Images sum to +2, +1 and -1: the eight ways to exchange the systems in them."""
    a, b, clusters = [0, 0, 0, 1], [1, 1, 1, 0], ["x", "x", "y", "z"]
    sums = [2, 1, -1]
    as_far = sum(abs(sum(s * v for s, v in zip(signs, sums, strict=True))) >= 2 for signs in product((1, -1), repeat=3))
    assert paired_bootstrap(a, b, clusters, samples=20000)["p"] == pytest.approx(as_far / 8, abs=0.01)


def test_without_clusters_the_p_is_mcnemars():
    a = [True] * 60 + [True] * 5 + [False] * 14 + [False] * 21
    b = [True] * 60 + [False] * 5 + [True] * 14 + [False] * 21
    exact = mcnemar(a, b)
    assert exact == {"only_a": 5, "only_b": 14, "p": pytest.approx(0.06357, abs=1e-5)}
    assert paired_bootstrap(a, b, range(100), samples=40000)["p"] == pytest.approx(exact["p"], abs=0.005)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (0, 1), (0, 6), (3, 7), (5, 5), (9, 4)])
def test_mcnemar_counted_out(only_a, only_b):
    """Every way in which the discordant questions could have fallen, none likelier than another."""
    n = only_a + only_b
    as_far = sum(abs(sum(ways) - n / 2) >= abs(only_a - n / 2) for ways in product((0, 1), repeat=n))
    a = [True] * only_a + [False] * only_b + [True, False]
    b = [False] * only_a + [True] * only_b + [True, False]
    assert mcnemar(a, b) == {"only_a": only_a, "only_b": only_b, "p": pytest.approx(as_far / 2**n)}


def test_mcnemar_on_more_questions_than_a_float_can_hold():
    n = 4000
    a, b = [True] * 1950 + [False] * 2050, [False] * 1950 + [True] * 2050
    z = (100 - 1) / math.sqrt(n)
    assert mcnemar(a, b)["p"] == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)
    assert mcnemar([True] * n, [False] * n)["p"] == 0


def counted_out(right, grounded, orders) -> float:
    found = mutual_information(joint_table(right, grounded))
    each = [mutual_information(joint_table([right[i] for i in order], grounded)) for order in orders]
    return sum(value >= found - 1e-12 for value in each) / len(each)


@pytest.mark.parametrize(
    ("right", "grounded"),
    [
        ([1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0]),
        ([1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1]),
        ([1, 1, 0, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0]),
        ([1, 0, 1, 0, 1, 0, 1], [1, 1, 0, 0, 1, 0, 0]),
    ],
)
def test_permutations_of_seven_counted_out(right, grounded):
    exact = counted_out(right, grounded, list(permutations(range(7))))
    assert permutation_test(right, grounded, samples=20000) == pytest.approx(exact, abs=0.012)


def test_answers_about_one_image_move_together():
    """Two questions each about four images, and three about one that has no partner: 4! orders of the pairs."""
    right = [1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 1]
    grounded = [1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0]
    clusters = ["a", "a", "b", "b", "c", "c", "d", "d", "e", "e", "e"]
    pairs = [(0, 1), (2, 3), (4, 5), (6, 7)]
    orders = [[*sum(order, ()), 8, 9, 10] for order in permutations(pairs)]
    exact = counted_out(right, grounded, orders)
    found = permutation_test(right, grounded, samples=20000, clusters=clusters)
    assert found == pytest.approx(exact, abs=0.012)
    assert found > permutation_test(right, grounded, samples=20000) + 0.05


def test_the_p_of_a_permutation_is_never_zero():
    right = [True] * 100 + [False] * 100
    assert permutation_test(right, right, samples=99) == 0.01
    assert permutation_test([True] * 200, right, samples=99) == 1
    assert permutation_test([True, False, True], [True, False, True], clusters=["x", "x", "y"]) == 1


def test_intervals_hold_what_they_say_on_questions_that_share_images():
    """300 evaluations of 100 images with four questions each, which are right together; taken for independent, the
    questions would give intervals that are too narrow."""
    rng, clusters = np.random.default_rng(0), np.repeat(np.arange(100), 4)
    held = dict.fromkeys(("by image", "by question", "difference"), 0)
    for seed in range(300):
        share = np.repeat(rng.beta(1.2, 0.8, 100), 4)  # of an image: 0.6 on average
        a, b = rng.random(400) < share, rng.random(400) < 0.9 * share + 0.09
        for name, of in (("by image", clusters), ("by question", range(400))):
            low, high = bootstrap_interval(a, of, samples=500, seed=seed)
            held[name] += low <= 0.6 <= high
        found = paired_bootstrap(a, b, clusters, samples=500, seed=seed)
        held["difference"] += found["low"] <= 0.03 <= found["high"]
    assert 0.93 * 300 <= held["by image"] <= 0.97 * 300
    assert 0.93 * 300 <= held["difference"] <= 0.97 * 300
    assert held["by question"] < 0.87 * 300
