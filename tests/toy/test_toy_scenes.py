import pytest

from hart_lite.boxes import iou
from hart_lite.errors import HartError
from hart_lite.toy.scenes import CHOICES, Scene, World, examples

WORLDS = [
    World(),
    World(objects=(8, 8), glance_share=0.0),
    World(glance_share=1.0),
    World(size=168, objects=(8, 8)),
    World(colours=("red",), objects=(5, 5)),
    World(glyphs=CHOICES, objects=(1, 1)),
]


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_every_question_has_one_right_answer_and_its_box(world):
    for index in range(30):
        scene = Scene(world, index)
        things = scene.things
        assert world.objects[0] <= len(things) <= world.objects[1]
        assert len({(t.colour, t.shape) for t in things}) == len(things)
        assert all(iou(a.box, b.box) == 0 for a in things for b in things if a is not b)
        for example in examples(world, range(index, index + 1)):
            [thing] = [t for t in things if f"{t.colour} {t.shape}?" in example.question]
            assert len(set(example.choices)) == CHOICES
            assert example.choices["ABCDE".index(example.answer)] == thing.glyph
            assert example.boxes == (thing.box,)
            x1, y1, x2, y2 = thing.box.xyxy
            assert 0 <= x1 < x2 <= world.size and 0 <= y1 < y2 <= world.size


def test_a_scene_is_the_same_whenever_it_is_drawn_and_another_by_seed():
    one, again, other = (Scene(World(seed=seed), 5) for seed in (1, 1, 2))
    assert one == again and one.key == again.key != other.key
    assert one.load().tobytes() == again.load().tobytes() != other.load().tobytes()
    assert one.load().size == one.size() == (672, 672)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"colours": ("red", "pink")}, r"\['pink'\] are unknown"),
        ({"colours": ("red", "red")}, "repeat one"),
        ({"colours": ("red",), "objects": (3, 6)}, "at most colours x 5 shapes"),
        ({"objects": (6, 3)}, "min <= max"),
        ({"glyphs": 4}, "glyphs = 4; allowed: 5 to"),
        ({"size": 100}, "size = 100 px"),
    ],
    ids=str,
)
def test_impossible_worlds_are_refused(settings, message):
    with pytest.raises(HartError, match=message):
        World(**settings)


def test_a_share_of_questions_is_a_share():
    with pytest.raises(HartError, match=r"glance_share = 2\.0; allowed: 0 to 1"):
        World(glance_share=2.0)


def test_one_thing_of_a_scene_is_big_and_alone_fills_a_sixth_of_it():
    for index in range(60):
        things = Scene(World(), index).things
        [big] = [t for t in things if t.big]
        side = World().size
        assert big.box.width * big.box.height > 0.4**2 * side**2 * 0.98
        assert all(max(t.box.width, t.box.height) <= 0.166 * side + 1 for t in things if t is not big)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_the_share_of_questions_about_the_big_thing(share):
    asked = examples(World(glance_share=share), range(600), 1)
    big = [e for e in asked if e.category == "big"]
    assert abs(len(big) / 600 - share) < 0.05
    assert all(e.boxes[0].width > 200 for e in big)
    plain = examples(World(), range(600), 1)
    assert all(a.images[0].things == b.images[0].things for a, b in zip(asked, plain, strict=True))


def test_small_things_are_asked_about_once_then_the_big_one():
    for index in range(20):
        asked = examples(World(glance_share=0.0, objects=(3, 3)), range(index, index + 1), 4)
        assert [e.category for e in asked] == ["small", "small", "big", "big"]
        assert asked[0].question != asked[1].question and asked[2].question == asked[3].question
        assert len({e.id for e in asked}) == 4
