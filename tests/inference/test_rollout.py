"""The loops on scripted responses and on the tiny model: what each turn is shown, what is trained, what is earned."""

import pytest
import torch
from pictures import Photo, packed_logps
from PIL import Image
from scripted import logps_of, play, runner, without_logps
from small_runs import make_up

from hart_lite.inference.engine import Decoding
from hart_lite.inference.protocols.mgpo import NO_SUB_IMAGE, SUB_IMAGE
from hart_lite.inference.rollout import Runner
from hart_lite.models.generation import batches
from hart_lite.types import Box, Example, ImageView, Slot, Tokens

LOCATE = "Output the coordinates of the key image area relevant to the problem"
VERIFY = "now the full image is not visible"
CHOICES = ("lion", "tiger", "bear", "wolf")
BOX = '[{"bbox_2d": [28,28,84,84]}]'  # of 112 x 112: the middle half


def example(*images: Photo, choices: tuple[str, ...] = CHOICES) -> Example:
    return Example("q", images or (Photo(672, 672),), "Which animal is it?", "B" if choices else "tiger", choices)


def text_of(runner: Runner, prompt: Tokens) -> str:
    return runner.policy.family.tokenizer.decode(prompt.ids)


def trained_ids(tokens: Tokens) -> list[tuple[int, ...]]:
    return [tokens.ids[span.start : span.stop] for span in tokens.sampled]


# -- hart ----------------------------------------------------------------------------------------------------------


def test_hart_shows_the_whole_image_first_and_then_only_crops(policy):
    run = runner(policy, [BOX], ["The answer is (B)."], crop_pad=0.0)
    q = example()
    [done] = play(run, [q], "hart")
    locate, verify = done.turns
    assert [(s.view.source, s.view.box, s.view.size) for s in locate.prompt.slots] == [(q.images[0], None, (112, 112))]
    assert [(s.view.box, s.view.size) for s in verify.prompt.slots] == [(Box(168, 168, 504, 504), (56, 56))]
    assert done.boxes == (Box(168, 168, 504, 504),)
    assert (done.reward, done.answer, done.rejected) == (1.0, "The answer is (B).", 0)
    assert "tiger" not in text_of(run, locate.prompt)  # choices are withheld
    assert LOCATE in text_of(run, locate.prompt)
    assert "(B) tiger" in text_of(run, verify.prompt)
    assert VERIFY in text_of(run, verify.prompt)
    assert LOCATE not in text_of(run, verify.prompt)
    assert done.sequences == (locate.tokens, verify.tokens)
    assert [trained_ids(s) for s in done.sequences] == [[locate.response], [verify.response]]


def test_the_words_of_turn_two_stand_ahead_of_the_crops_and_are_shared(policy):
    other = '[{"bbox_2d": [0,0,56,56]}]'
    run = runner(policy, [BOX, other], ["(B)", "(A)"])
    group = run.rollout([example()], "hart", samples=2, seed=0)[0]
    one, two = (t.turns[1].prompt for t in group.trajectories)
    shared = one.slots[0].start
    assert one.ids[:shared] == two.ids[:shared]
    assert "(D) wolf" in policy.family.tokenizer.decode(one.ids[:shared])
    assert group.rewards == [1.0, 0.0]
    assert not group.flat


@torch.no_grad()
def test_nothing_outside_the_crop_reaches_turn_two(policy):
    """Two images that agree inside the crop only: turn 1 differs, turn 2 is the same to the last bit."""
    kept = (168, 168, 504, 504)
    found = []
    for seed in (1, 2):
        policy.forget_images()
        run = runner(policy, [BOX], None, crop_pad=0.0, max_tokens_answer=8)
        [done] = play(run, [example(Photo(672, 672, seed, kept))], "hart")
        found.append((done, packed_logps(policy, done.sequences, 4096)))
    (one, one_logps), (two, two_logps) = found
    assert one.turns[1].response == two.turns[1].response
    assert torch.equal(one_logps[1], two_logps[1])
    assert not torch.equal(one_logps[0], two_logps[0])


@torch.no_grad()
def test_the_full_image_is_in_sight_in_the_other_ways(policy):
    """The check above can fail: where the image stays, the second turn changes with it."""
    kept = (168, 168, 504, 504)
    for way in ("mgpo", "full+crops"):
        logps = []
        for seed in (1, 2):
            run = runner(policy, [BOX], ["(B)"], crop_pad=0.0)
            [done] = play(run, [example(Photo(672, 672, seed, kept))], way)
            logps.append(packed_logps(policy, done.sequences[-1:], 4096)[0][-1])
        assert not torch.equal(*logps)


@pytest.mark.parametrize(
    ("said", "rejected"),
    [
        ("I see nothing.", 0),
        ("", 0),
        ('[{"bbox_2d": [28,28,28,84]}]', 1),  # no width
        ('[{"bbox_2d": [500,500,600,600]}]', 1),  # outside
        ('[{"bbox_2d": [NaN,28,84,84]}]', 1),
        ('[{"bbox_2d": [28,28,84,84], "image": 7}]', 1),
        ('[{"bbox_2d": [28,28,84', 0),
        ("[" * 5000, 0),
    ],
)
def test_without_a_valid_box_there_is_one_turn_and_no_reward(policy, said, rejected):
    run = runner(policy, [said, BOX], ["(B)"])
    bad, good = play(run, [example(), example()], "hart")
    assert [t.kind for t in bad.turns] == ["locate"]
    assert (bad.reward, bad.answer, bad.boxes, bad.rejected) == (0.0, "", (), rejected)
    assert bad.sequences == (bad.turns[0].tokens,)
    assert good.reward == 1.0


def test_a_turn_that_names_the_answer_instead_of_a_box_earns_nothing(policy):
    run = runner(policy, ["The answer is (B)."], [])
    [done] = play(run, [example()], "hart")
    assert done.reward == 0.0


def test_twelve_boxes_are_capped_and_counted(policy):
    boxes = ", ".join(f'{{"bbox_2d": [{n},0,{n + 28},28]}}' for n in range(12))
    run = runner(policy, [f"[{boxes}]"], ["(B)"], max_boxes=4, crop_pad=0.0)
    [done] = play(run, [example()], "hart")
    assert [box.x1 for box in done.boxes] == [0, 6, 12, 18]
    assert done.rejected == 8
    assert len(done.turns[1].prompt.slots) == 4


def test_reversed_corners_are_sorted_and_large_boxes_refused(policy):
    said = '[{"bbox_2d": [84,84,28,28]}, {"bbox_2d": [0,0,112,112]}]'
    run = runner(policy, [said], ["(B)"], max_box_share=0.5)
    [done] = play(run, [example()], "hart")
    assert done.boxes == (Box(168, 168, 504, 504),)
    assert done.rejected == 1


# -- crops ---------------------------------------------------------------------------------------------------------


CROPS = {
    # 4 x 4 tokens, scale 10: 280..560, padded by half of 280 on each side
    "square": ((1120, 1120), (112, 112), [28, 28, 56, 56], 0.5, (140, 140, 700, 700)),
    # 4000 x 1000 is seen at 224 x 56: scale 17.857; 28..56 is 500..1000 on both axes
    "landscape": ((4000, 1000), (224, 56), [28, 28, 56, 56], 0.0, (500, 500, 1000, 1000)),
    # padded by a tenth of 500 on each side and clipped at the lower border
    "landscape, padded": ((4000, 1000), (224, 56), [28, 28, 56, 56], 0.1, (450, 450, 1050, 1000)),
    "portrait": ((1000, 4000), (56, 224), [28, 56, 56, 112], 0.0, (500, 1000, 1000, 2000)),
    "portrait, padded": ((1000, 4000), (56, 224), [28, 56, 56, 112], 0.1, (450, 900, 1000, 2100)),
    # a border between pixels goes to the pixels the box touches: 840 / 112 = 7.5, so 1..3 is 7.5..22.5
    "touched pixels": ((840, 840), (112, 112), [1, 1, 3, 3], 0.0, (7, 7, 23, 23)),
}


@pytest.mark.parametrize(("original", "seen", "box", "pad", "cut"), CROPS.values(), ids=CROPS.keys())
def test_crops_are_cut_from_the_original_pixels(policy, original, seen, box, pad, cut):
    photo = Photo(*original)
    run = runner(policy, [f'[{{"bbox_2d": {box}}}]'], ["(B)"], crop_pad=pad)
    [done] = play(run, [example(photo)], "hart")
    assert done.turns[0].prompt.slots[0].view.size == seen
    [slot] = done.turns[1].prompt.slots
    assert slot.view.box.xyxy == cut
    assert done.boxes[0].xyxy == pytest.approx([v * o / s for v, o, s in zip(box, original * 2, seen * 2, strict=True)])
    ratio = (cut[2] - cut[0]) / (cut[3] - cut[1])
    assert 0.5 < slot.view.size[0] / slot.view.size[1] / ratio < 2
    assert (
        slot.view.load().tobytes() == photo.load().crop(cut).resize(slot.view.size, Image.Resampling.BICUBIC).tobytes()
    )


def test_a_box_on_the_second_image_is_cut_from_it(policy):
    photos = Photo(672, 672, 1), Photo(1000, 4000, 2)  # the second is seen at 56 x 224
    said = '[{"bbox_2d": [28,56,56,112], "image": 2}, {"bbox_2d": [28,28,84,84]}]'
    run = runner(policy, [said], ["(B)"], crop_pad=0.0)
    [done] = play(run, [example(*photos)], "hart")
    assert [s.view.source for s in done.turns[0].prompt.slots] == list(photos)
    assert [(s.view.source, s.view.box) for s in done.turns[1].prompt.slots] == [
        (photos[1], Box(500, 1000, 1000, 2000, 1)),
        (photos[0], Box(168, 168, 504, 504, 0)),
    ]
    assert [box.image for box in done.boxes] == [1, 0]


# -- mgpo, direct, full+crops --------------------------------------------------------------------------------------


def test_mgpo_is_one_conversation_whose_spans_are_what_was_sampled(policy):
    run = runner(policy, [BOX], ["tiger (B)"], crop_pad=0.0)
    [done] = play(run, [example()], "mgpo")
    locate, verify = done.turns
    [sequence] = done.sequences
    assert trained_ids(sequence) == [locate.response, verify.response]
    assert sequence.ids[: len(locate.tokens)] == locate.tokens.ids
    assert [s.view.box for s in sequence.slots] == [None, Box(168, 168, 504, 504)]
    assert SUB_IMAGE in text_of(run, verify.prompt)
    assert done.reward == 1.0


def test_mgpo_without_a_box_is_shown_the_original_again_and_may_still_earn(policy):
    run = runner(policy, ["nothing"], ["(B)"])
    [done] = play(run, [example()], "mgpo")
    assert [s.view.box for s in done.sequences[0].slots] == [None, None]
    assert NO_SUB_IMAGE in text_of(run, done.turns[1].prompt)
    assert (done.reward, done.boxes) == (1.0, ())


def test_mgpo_goes_on_after_a_response_that_was_cut_off(policy):
    """A response without an end token is closed by the template, outside the sampled span."""
    run = runner(policy, None, ["(B)"], max_tokens_locate=3)
    [done] = play(run, [example()], "mgpo")
    end = policy.family.eos_ids[0]
    [first, _] = done.sequences[0].sampled
    assert len(first) == 3
    assert end not in done.turns[0].response
    assert done.sequences[0].ids[first.stop] == end


def test_direct_is_one_turn(policy):
    run = runner(policy, ["(B)"])
    [done] = play(run, [example()], "direct")
    assert [t.kind for t in done.turns] == ["answer"]
    assert done.sequences == (done.turns[0].tokens,)
    assert "(B) tiger" in text_of(run, done.turns[0].prompt)
    assert done.reward == 1.0


def test_full_and_crops_sees_both_in_a_fresh_context(policy):
    run = runner(policy, [BOX, "nothing"], ["(B)", "(B)"], crop_pad=0.0)
    with_box, without = play(run, [example(), example()], "full+crops")
    assert [s.view.box for s in with_box.turns[1].prompt.slots] == [None, Box(168, 168, 504, 504)]
    assert [s.view.box for s in without.turns[1].prompt.slots] == [None]
    assert not with_box.turns[1].prompt.sampled
    assert with_box.reward == without.reward == 1.0


def test_free_text_answers_are_graded_too(policy):
    run = runner(policy, ["Tiger.", "lion"])
    right, wrong = play(run, [example(choices=())] * 2, "direct")
    assert (right.reward, wrong.reward) == (1.0, 0.0)
    assert "choices" not in text_of(run, right.turns[0].prompt)


# -- what is trained -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "train", "trained"),
    [
        ("hart", ("locate", "verify"), [["locate"], ["verify"]]),
        ("hart", ("locate",), [["locate"]]),
        ("hart", ("verify",), [["verify"]]),
        ("mgpo", ("locate", "verify"), [["locate", "verify"]]),
        ("mgpo", ("locate",), [["locate"]]),
        ("mgpo", ("verify",), [["verify"]]),
        ("direct", ("locate", "verify"), [["answer"]]),
        ("direct", ("verify",), [["answer"]]),
    ],
)
def test_train_turns_marks_the_right_spans(policy, way, train, trained):
    script = [["(B)"]] if way == "direct" else [[BOX], ["tiger (B)"]]
    run = runner(policy, *script, train=train)
    [done] = play(run, [example()], way)
    said = {turn.kind: turn.response for turn in done.turns}
    assert [trained_ids(s) for s in done.sequences] == [[said[kind] for kind in kinds] for kinds in trained]
    whole = done.turns[-1].tokens if way != "hart" else None
    if whole:  # nothing but the marks changes
        assert [s.ids for s in done.sequences] == [whole.ids]


def test_a_missed_box_leaves_nothing_to_train_when_only_answers_are_trained(policy):
    run = runner(policy, ["nothing"], [], train=("verify",))
    [done] = play(run, [example()], "hart")
    assert done.sequences == ()
    assert done.reward == 0.0


# -- groups --------------------------------------------------------------------------------------------------------


def test_groups_hold_their_own_samples_in_order(policy):
    one, two = example(Photo(672, 672, 1)), example(Photo(672, 672, 2))
    run = runner(policy, [BOX] * 4, ["(A)", "(B)", "(C)", "(D)"])
    groups = run.rollout([one, two], "hart", samples=2, seed=0)
    assert [group.example for group in groups] == [one, two]
    assert [[t.answer for t in group.trajectories] for group in groups] == [["(A)", "(B)"], ["(C)", "(D)"]]
    assert [group.rewards for group in groups] == [[0.0, 1.0], [0.0, 0.0]]
    assert [group.flat for group in groups] == [False, True]
    for group in groups:
        for trajectory in group.trajectories:
            assert {s.view.source for turn in trajectory.turns for s in turn.prompt.slots} == set(group.example.images)


def test_a_missed_box_in_the_middle_does_not_shift_the_answers(policy):
    run = runner(policy, [BOX, "nothing", BOX], ["(A)", "(B)"])
    done = play(run, [example()] * 3, "hart")
    assert [t.answer for t in done] == ["(A)", "", "(B)"]
    assert [t.reward for t in done] == [0.0, 0.0, 1.0]


def test_each_turn_draws_with_its_own_seed_and_limits(policy):
    run = runner(policy, [BOX], ["(B)"], max_tokens_locate=27, max_tokens_answer=9, top_p=0.9)
    play(run, [example()], "hart", Decoding(0.7, 0.9, seed=3))
    (_, first), (_, second) = run.engine.generate.calls
    assert (first.max_tokens, second.max_tokens) == (27, 9)
    assert (first.temperature, first.top_p) == (second.temperature, second.top_p) == (0.7, 0.9)
    assert first.seed != second.seed


def test_a_rollout_of_the_tiny_model_is_scored_in_full(policy):
    """The untrained model finds no box; every sampled token of the loop still has a log-prob."""
    run = runner(policy, max_tokens_locate=6, max_tokens_answer=5)
    for way in ("hart", "mgpo", "direct"):
        groups = run.rollout([example(Photo(90, 60, 1)), example(Photo(60, 90, 2))], way, samples=3, seed=1)
        again = run.rollout([example(Photo(90, 60, 1)), example(Photo(60, 90, 2))], way, samples=3, seed=1)
        assert groups == again
        sequences = [s for g in groups for t in g.trajectories for s in t.sequences]
        with torch.no_grad():
            logps = packed_logps(policy, sequences, 512)
        assert [len(lp) for lp in logps] == [sum(map(len, s.sampled)) for s in sequences]
        assert all(lp.isfinite().all() and (lp <= 0).all() for lp in logps)
        torch.testing.assert_close(logps_of(groups), torch.cat(logps), rtol=0, atol=1e-5)  # those it was drawn with


# -- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["hart", "mgpo", "direct"])
def test_what_is_drawn_does_not_depend_on_the_token_budget(policy, monkeypatch, way):
    make_up(monkeypatch.setattr)
    asked = [example(Photo(90, 60, n)) for n in range(3)]
    settings = {"max_tokens_locate": 6, "max_tokens_answer": 5, "temperature": 4.0}
    whole = runner(policy, **settings).rollout(asked, way, samples=3, seed=1)
    assert len({t.turns[-1].response for g in whole for t in g.trajectories}) > 3
    assert len(logps_of(whole)) == sum(len(turn.response) for g in whole for t in g.trajectories for turn in t.turns)
    for budget in (64, 300):
        cut = runner(policy, **settings, tokens_per_batch=budget).rollout(asked, way, samples=3, seed=1)
        assert without_logps(cut) == without_logps(whole)
        torch.testing.assert_close(logps_of(cut), logps_of(whole), rtol=0, atol=1e-5)


def test_a_batch_holds_what_the_budget_allows(policy):
    """Two questions of three samples: 20 tokens each, of which samples of a question share all and the two nothing."""
    view = [ImageView(Photo(60, 60, n), (28, 28)) for n in range(2)]
    prompts = {n: Tokens((7, *range(1, 20)), (Slot(0, 1, view[n // 3]),)) for n in range(6)}

    def cut(budget, limits=(10,) * 6):
        return [list(batch) for batch in batches(prompts, dict(enumerate(limits)), budget)]

    assert cut(100) == [[0, 1, 2, 3, 4, 5]]  # 2 x 20 + 6 x 10
    assert cut(99) == [[0, 1, 2, 3, 4], [5]]
    assert cut(50) == [[0, 1, 2], [3, 4, 5]]  # 20 + 3 x 10
    assert cut(49) == [[0, 1], [2], [3, 4], [5]]
    assert cut(1) == [[n] for n in range(6)]
    assert list(batches({}, {}, 50)) == []
    assert cut(80, (10, 10, 20, 10, 10, 10)) == [[0, 1, 2], [3, 4, 5]]  # 20 + 3 x 20
    assert cut(79, (10, 10, 20, 10, 10, 10)) == [[0, 1], [2], [3, 4, 5]]  # 20 + 20 + 2 x 20 for 2 and 3
