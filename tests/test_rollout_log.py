"""The pictures of rollouts: boxes where they were, green when the answer was right and red when it was wrong."""

import json

import pytest
from PIL import Image

from hart_lite.toy.scenes import Scene, World
from hart_lite.training.rollout_log import HEADER, SIDE, draw_rollout, save_rollouts
from hart_lite.types import Box, Example, Group, ImageView, Slot, Tokens, Trajectory, Turn

GREEN, RED = (44, 160, 44), (214, 39, 40)
SCENE = Scene(World(size=SIDE * 2), 0)  # drawn at half its size
EXAMPLE = Example("7", (SCENE,), "Which character?", "A", ("H", "U"))


def trajectory(box: Box | None, reward: float) -> Trajectory:
    located = Turn("locate", Tokens(), (), "there")
    if box is None:
        return Trajectory((located,), (), "", 0.0)
    prompt = Tokens((0,), (Slot(0, 1, ImageView(SCENE, (56, 56), box)),))
    return Trajectory((located, Turn("verify", prompt, (), "H")), (box,), "H", reward)


@pytest.mark.parametrize(("reward", "colour"), [(1.0, GREEN), (0.0, RED)])
def test_a_box_is_drawn_where_it_was(reward, colour):
    """(200, 100) .. (400, 300) of the original lies at (100, 50) .. (200, 150), its frame just outside."""
    picture = draw_rollout(EXAMPLE, [trajectory(Box(200, 100, 400, 300), reward)])
    assert picture.getpixel((99, HEADER + 100)) == colour
    assert picture.getpixel((200, HEADER + 100)) == colour
    assert picture.getpixel((150, HEADER + 49)) == colour
    assert picture.getpixel((150, HEADER + 100)) != colour
    assert picture.getpixel((SIDE + 5, HEADER + 5)) == colour  # the crop's frame


def test_a_rollout_without_a_box_has_no_crop():
    picture = draw_rollout(EXAMPLE, [trajectory(None, 0.0)])
    colours = {colour for _, colour in picture.crop((0, HEADER, SIDE, HEADER + SIDE)).getcolors(1 << 20)}
    plain = SCENE.load().resize((SIDE, SIDE))
    assert colours == {colour for _, colour in plain.getcolors(1 << 20)}


def test_transcripts_lie_beside_the_pictures(tmp_path):
    group = Group(EXAMPLE, (trajectory(Box(200, 100, 400, 300), 1.0), trajectory(None, 0.0)))
    save_rollouts(tmp_path, 3, [group])
    rows = [json.loads(line) for line in (tmp_path / "step-00003.jsonl").read_text().splitlines()]
    assert [row["reward"] for row in rows] == [1.0, 0.0]
    assert [row["boxes"] for row in rows] == [[[200, 100, 400, 300, 0]], []]
    assert [turn["kind"] for turn in rows[0]["turns"]] == ["locate", "verify"]
    with Image.open(tmp_path / rows[0]["picture"]) as picture:
        assert picture.height == HEADER + SIDE
