"""Scored verification: the probability of the right answer, against a plain forward pass and against many samples."""

import logging
import math
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from family_kits import KITS, loaded
from pictures import Photo, stock_logps
from scripted import runner
from small_runs import make_up

from hart_lite.boxes import control_boxes, iou
from hart_lite.config.sections import ToySection
from hart_lite.errors import DataError, ModelError, NotFiniteError
from hart_lite.inference.engine import Decoding
from hart_lite.inference.load import open_model
from hart_lite.inference.protocols import hart
from hart_lite.inference.rollout import Runner, trajectory
from hart_lite.inference.scoring import LONGEST, Scorer, check_scorable, ways_to_choose
from hart_lite.rl.rewards import grade_reward
from hart_lite.rl.rewards.terms import less_boxes, less_control
from hart_lite.toy.scenes import examples, toy_scenes
from hart_lite.types import Box, Example, Group, Tokens, Trajectory

CHOICES = ("lion", "tiger", "bear", "wolf")
BOX = '[{"bbox_2d": [28,28,84,84]}]'  # of 112 x 112: the middle half
SMALL = '[{"bbox_2d": [28,28,56,56]}]'  # one that has room elsewhere
BOXES = (Box(168, 168, 504, 504), Box(0, 0, 200, 100), Box(400, 100, 500, 300))


def example(seed: int = 0, answer: str = "B", choices: tuple[str, ...] = CHOICES) -> Example:
    return Example(f"q{seed}", (Photo(672, 672, seed),), "Which animal is it?", answer, choices)


def prompts_of(run: Runner, asked: Example, boxes=BOXES) -> list[Tokens]:
    return [run.prompt(asked, hart.given([box])) for box in boxes]


def rights(scorer: Scorer, prompts: list[Tokens], asked: list[Example]) -> list[float]:
    return [scores.right for scores in scorer.scores(prompts, asked)]


# -- the probability -----------------------------------------------------------------------------------------------


def plain(policy, prompt: Tokens, asked: Example, logps=stock_logps) -> float:
    """The share of the right choice, by one plain forward pass of the whole model for every text of an answer."""
    found = {letter: 0.0 for letter in "ABCD"}
    for letter, text in zip("ABCD", asked.choices, strict=True):
        for words in (letter, text):
            response = Tokens.response(policy.family.response_ids(words))
            found[letter] += math.exp(logps(policy, prompt + response).sum().item())
    return found[asked.answer] / sum(found.values())


@torch.no_grad()
def test_it_is_that_of_a_plain_forward_pass(policy):
    run = runner(policy)
    for asked in (example(1), example(2, "D")):
        prompts = prompts_of(run, asked)
        found = rights(run.scorer, prompts, [asked] * 3)
        expected = [plain(policy, prompt, asked) for prompt in prompts]
        assert found == pytest.approx(expected, abs=1e-5)
        assert max(expected) - min(expected) > 1e-3  # crops make a difference, or nothing would be compared


@torch.no_grad()
@pytest.mark.parametrize("name", KITS)
def test_so_it_is_in_every_family(name, tmp_path):
    kit = KITS[name]
    policy = loaded(kit.build(tmp_path))
    run, asked = runner(policy), example(3)
    prompts = prompts_of(run, asked)
    found = rights(run.scorer, prompts, [asked] * 3)
    assert found == pytest.approx([plain(policy, p, asked, kit.stock_logps) for p in prompts], abs=1e-5)


@torch.no_grad()
def test_of_all_choices_together_it_is_one(policy):
    run = runner(policy)
    [prompt] = prompts_of(run, example(), BOXES[:1])
    found = rights(run.scorer, [prompt] * 4, [example(answer=letter) for letter in "ABCD"])
    assert sum(found) == pytest.approx(1)
    assert len({round(p, 6) for p in found}) == 4
    logps = [stock_logps(policy, tokens) for tokens in run.scorer.sequences([prompt], [example()])[0]]
    mass = sum(math.exp(own.sum().item()) for own in logps)
    assert run.scorer.scores([prompt], [example()])[0].mass == pytest.approx(mass, rel=1e-4)


@torch.no_grad()
def test_of_an_open_answer_it_is_that_of_its_words_and_their_end(policy):
    run = runner(policy)
    asked = example(answer="tiger", choices=())
    [prompt] = prompts_of(run, asked, BOXES[:1])
    response = Tokens.response(policy.family.response_ids("tiger"))
    expected = math.exp(stock_logps(policy, prompt + response).sum().item())
    assert rights(run.scorer, [prompt], [asked]) == pytest.approx([expected], rel=1e-4)


def test_it_is_the_share_of_right_answers_among_many_samples():
    """On the toy base, which reads a character and says it. Of crops that show half of one it is neither sure nor does
    it guess; what it says is then often no choice, which the mass tells."""
    policy = open_model("toy", device="cpu").engine.policy
    run, samples, far = runner(policy, temperature=1.5, max_tokens_answer=8), 150, []
    for n, asked in enumerate(examples(toy_scenes(ToySection(scenes=3)), range(3), 1)):
        [whole] = asked.boxes
        half = hart.given([replace(whole, y2=whole.y1 + 0.45 * whole.height)])
        answered = run.engine.answer([half(asked, run.setting) for _ in range(samples)], Decoding(1.5, seed=n))
        sampled = sum(grade_reward(asked, trajectory(conversation, ())) for _, conversation in answered) / samples
        [found] = run.scorer.scores([run.prompt(asked, half)], [asked])
        expected = found.right * found.mass
        far.append((sampled - expected) / math.sqrt(expected * (1 - expected) / samples + 1e-4))
    assert max(map(abs, far)) < 3, far


def test_a_text_counts_for_the_choice_that_the_grader_reads_from_it():
    assert ways_to_choose(("red", "blue")) == {"A": "A", "B": "B", "red": "A", "blue": "B"}
    assert ways_to_choose(("B", "C", "A")) == {"A": "A", "B": "B", "C": "C"}  # letters win
    assert ways_to_choose(("one", "one", "two")) == {"A": "A", "B": "B", "C": "C", "two": "C"}


def test_rows_whose_answer_has_no_probability_to_speak_of_are_named():
    long = example(7, "a long way to say what could be said in a word", ())
    check_scorable([example(), example(answer="x" * LONGEST, choices=()), replace(long, choices=("a", "b"))])
    with pytest.raises(DataError, match=r"1 of 2 questions have no choices and a longer answer, 'q7' the first"):
        check_scorable([example(), long])


# -- passes --------------------------------------------------------------------------------------------------------


def test_it_does_not_depend_on_what_fits_into_a_pass(policy, caplog):
    run = runner(policy)
    prompts, asked = prompts_of(run, example()), [example()] * 3
    whole = rights(run.scorer, prompts, asked)
    small, sizes = Scorer(policy, 1.0), []
    longest = max(len(s) for own in small.sequences(prompts, asked) for s in own)
    decode = policy.decoder

    def short(embeds, *args):
        sizes.append(embeds.shape[1])
        if embeds.shape[1] > 150:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return decode(embeds, *args)

    short.scale = decode.scale
    policy.decoder = short
    try:
        with caplog.at_level(logging.WARNING):
            assert rights(small, prompts, asked) == pytest.approx(whole, abs=1e-5)
        assert sizes[0] > 150 >= max(sizes[-2:]) and small.budget.value == 128
        assert "memory ran out in scoring answers with scored tokens=" in caplog.text
        policy.decoder = lambda *args: short(torch.zeros(1, 151, 1))
        policy.decoder.scale = decode.scale
        with pytest.raises(ModelError, match=rf"a prompt with one answer, of {longest} tokens, cannot be scored alone"):
            rights(small, prompts, asked)
    finally:
        policy.decoder = decode


def test_words_and_crops_are_read_once(policy):
    """Twelve texts of answers to three prompts, of which two show the same crop."""
    run, sizes = runner(policy), []
    prompts = prompts_of(run, example(), (BOXES[0], BOXES[0], BOXES[1]))
    decode = policy.decoder

    def counted(embeds, *args):
        sizes.append(embeds.shape[1])
        return decode(embeds, *args)

    counted.scale = decode.scale
    policy.decoder = counted
    try:
        rights(run.scorer, prompts, [example()] * 3)
    finally:
        policy.decoder = decode
    shared = prompts[0].slots[0].start
    answers = 3 * sum(len(policy.family.response_ids(text)) + 1 for text in ways_to_choose(CHOICES))
    assert sizes == [shared + sum(len(p) - 1 - shared for p in prompts[1:]) + answers]


def test_scores_that_are_no_numbers_are_refused(policy, monkeypatch):
    run = runner(policy)
    monkeypatch.setattr(policy, "logps", lambda packed, t: torch.full((len(packed.targets_N),), torch.nan))
    with pytest.raises(NotFiniteError, match="the scores of answers are not finite"):
        rights(run.scorer, prompts_of(run, example()), [example()] * 3)


# -- rollouts ------------------------------------------------------------------------------------------------------


def test_a_scored_rollout_draws_no_answer_and_trains_where_it_looks(policy):
    run = runner(policy, [BOX, "nothing"], verify="score", crop_pad=0.0)
    [group] = run.rollout([example()], "hart", samples=2, seed=0)
    seen, unseen = group.trajectories
    [expected] = rights(run.scorer, [run.prompt(example(), hart.given(BOXES[:1]))], [example()])
    assert seen.reward == pytest.approx(expected, abs=1e-6) and 0 < seen.reward < 1
    assert [turn.kind for turn in seen.turns] == ["locate", "verify"]
    assert seen.turns[1].prompt == run.prompt(example(), hart.given(BOXES[:1])) and not seen.turns[1].response
    assert seen.boxes == BOXES[:1] and [crop.box for crop in seen.crops] == list(BOXES[:1])
    assert seen.sequences == (seen.turns[0].tokens,)
    assert (unseen.reward, len(unseen.turns), unseen.boxes) == (0.0, 1, ())
    assert len(run.engine.generate.calls) == 1  # of turn 1


def test_the_first_turn_is_drawn_as_where_answers_are(policy, monkeypatch):
    make_up(monkeypatch.setattr)
    drawn = []
    for verify in ("sample", "score"):
        run = runner(policy, max_tokens_locate=6, max_tokens_answer=3, temperature=4.0, verify=verify)
        groups = run.rollout([example(1), example(2)], "hart", samples=3, seed=5)
        drawn.append([t.turns[0].response for g in groups for t in g.trajectories])
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 3


def test_groups_whose_rewards_hardly_differ_are_flat():
    group = Group(example(), tuple(Trajectory((), reward=r) for r in (0.50, 0.54)))
    assert not group.flat
    assert replace(group, flat_below=0.05).flat and not replace(group, flat_below=0.03).flat
    assert Group(example(), tuple(Trajectory((), reward=0.5) for _ in range(2))).flat


@pytest.mark.parametrize(
    ("settings", "spread"),
    [
        ({}, 0.0),
        ({"verify": "score"}, 0.05),
        ({"control_region": True}, 0.05),
        ({"verify": "score", "flat_below": 0.2}, 0.2),
        ({"flat_below": 0.1}, 0.1),
    ],
)
def test_the_spread_that_counts_is_the_recipes(policy, settings, spread):
    scripts = [[BOX, BOX]] + [["(A)", "(B)"]] * ("verify" not in settings)
    [group] = runner(policy, *scripts, **settings).rollout([example()], "hart", samples=2, seed=0)
    assert group.flat_below == spread


# -- control regions -----------------------------------------------------------------------------------------------


def test_a_control_region_has_the_same_sizes_elsewhere():
    sizes, boxes = [(600, 400), (100, 100)], (Box(10, 20, 110, 80), Box(300, 300, 340, 390), Box(5, 5, 30, 40, 1))
    places = Counter()
    for seed in range(50):
        found = control_boxes(boxes, sizes, random.Random(seed))
        for one, other in zip(boxes, found, strict=True):
            assert (other.width, other.height, other.image) == (
                pytest.approx(one.width),
                pytest.approx(one.height),
                one.image,
            )
            assert max(iou(other, chosen) for chosen in boxes) < 0.1
            assert other.x1 >= 0 <= other.y1 and other.x2 <= sizes[one.image][0] and other.y2 <= sizes[one.image][1]
        places[found[0].x1 > 300] += 1
    assert min(places.values()) > 5  # all over the image
    assert control_boxes(boxes, sizes, random.Random(1)) == control_boxes(boxes, sizes, random.Random(1))
    assert control_boxes((Box(0, 0, 500, 300),), sizes, random.Random(0)) is None
    assert control_boxes((), sizes, random.Random(0)) == ()


@pytest.mark.parametrize(
    ("r", "control", "paid"), [(0.9, 0.2, 0.7), (0.3, 0.8, 0.0), (1.0, 1.0, 0.0), (0.6, None, 0.0)]
)
def test_crops_are_paid_for_what_their_control_does_not_give(r, control, paid):
    done = less_control(Trajectory((), BOXES[:1], reward=r), control)
    assert done.reward == pytest.approx(paid)
    assert done.terms["crops_reward"] == r and done.terms["control_unplaced"] == (control is None)
    assert done.terms.get("control_reward") == control
    assert less_control(Trajectory((), (), reward=0.0), 0.4) == Trajectory((), (), reward=0.0)


@pytest.mark.parametrize("verify", ["sample", "score"])
def test_a_rollout_against_control_regions(policy, verify):
    """Two samples: one box that has room elsewhere, and one over nearly the whole image."""
    script = [[SMALL, '[{"bbox_2d": [0,0,112,100]}]']] + [["(B)", "(B)"]] * (verify == "sample")
    run = runner(policy, *script, verify=verify, control_region=True, crop_pad=0.0)
    [group] = run.rollout([example()], "hart", samples=2, seed=3)
    placed, unplaced = group.trajectories
    [control] = control_boxes(placed.boxes, [(672, 672)], random.Random("3/q0"))
    of_crops, of_control = rights(run.scorer, prompts_of(run, example(), (placed.boxes[0], control)), [example()] * 2)
    earned = 1.0 if verify == "sample" else of_crops
    assert placed.reward == pytest.approx(max(0.0, earned - of_control), abs=1e-5)
    assert placed.terms["control_reward"] == pytest.approx(of_control, abs=1e-5)
    assert (unplaced.reward, unplaced.terms["control_unplaced"]) == (0.0, 1.0)


def test_samples_of_a_question_have_controls_in_common_places(policy):
    run = runner(policy, [SMALL, SMALL, SMALL], verify="score", control_region=True)
    [one] = run.rollout([example()], "hart", samples=3, seed=3)
    assert len({t.terms["control_reward"] for t in one.trajectories}) == 1
    found = []
    for seed in (3, 4):
        run = runner(policy, [SMALL], verify="score", control_region=True)
        found.append(run.rollout([example()], "hart", samples=1, seed=seed)[0].trajectories[0].terms["control_reward"])
    assert found[0] == pytest.approx(one.trajectories[0].terms["control_reward"], abs=1e-6) and found[0] != found[1]


# -- overlap and number --------------------------------------------------------------------------------------------


def test_boxes_that_overlap_or_are_too_many_earn_nothing():
    near = (Box(0, 0, 100, 100), Box(0, 20, 100, 120), Box(300, 300, 400, 400))  # IoU 2/3
    done = Trajectory((), near, reward=0.8)
    assert less_boxes(done, None, None) == done
    assert less_boxes(done, 0.7, None).reward == 0.8
    assert less_boxes(done, 0.6, None).reward == 0.0
    assert less_boxes(done, 0.6, None).terms == {"boxes_overlap": 1.0}
    assert less_boxes(done, None, 3).reward == 0.8
    assert less_boxes(done, None, 2).reward == 0.0
    assert less_boxes(done, 0.7, 2).terms == {"boxes_overlap": 0.0, "boxes_over_budget": 1.0}
    elsewhere = replace(done, boxes=(near[0], replace(near[0], image=1)))
    assert less_boxes(elsewhere, 0.0, None).reward == 0.8  # boxes on two images never overlap


def test_a_rollout_pays_by_the_recipes_limits(policy):
    two = '[{"bbox_2d": [28,28,84,84]}, {"bbox_2d": [28,30,84,84]}]'
    for settings, paid in (({}, 1.0), ({"max_overlap": 0.5}, 0.0), ({"box_budget": 1}, 0.0), ({"box_budget": 2}, 1.0)):
        [group] = runner(policy, [two], ["(B)"], **settings).rollout([example()], "hart", samples=1, seed=0)
        assert group.rewards == [paid]
