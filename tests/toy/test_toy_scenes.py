import pytest

from hart_lite.boxes import iou
from hart_lite.errors import HartError
from hart_lite.toy.scenes import CHOICES, Scene, World, examples

WORLDS = [
    World(),
    World(objects=(8, 8), big_share=1.0),
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


def test_a_share_of_big_things_is_a_share():
    with pytest.raises(HartError, match=r"big_share = 2\.0; allowed: 0 to 1"):
        World(big_share=2.0)
