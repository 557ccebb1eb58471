"""What is kept of rollouts: transcripts, a sheet with everyone's boxes, and the pictures that pages put together."""

import numpy as np
from PIL import Image

from hart_lite.data.drawing import COLOURS, MARGIN
from hart_lite.toy.scenes import Scene, World
from hart_lite.training.rollout_log import SHEET_SIDE, draw_rollout, save_rollouts
from hart_lite.types import Box, Example, Group, ImageView, Tokens, Trajectory, Turn
from hart_lite.utils.jsonl import read_jsonl

SCENE = Scene(World(size=SHEET_SIDE * 2), 0)  # drawn at half its size
EXAMPLE = Example("7", (SCENE,), "Which character?", "A", ("H", "U"))
BOX = Box(200, 100, 400, 300)


def trajectory(box: Box | None, reward: float = 0.0) -> Trajectory:
    located = Turn("locate", Tokens(), (), "there")
    if box is None:
        return Trajectory((located,))
    crop = ImageView(SCENE, (56, 56), Box(box.x1 - 20, box.y1 - 20, box.x2 + 20, box.y2 + 20))
    return Trajectory((located, Turn("verify", Tokens(), (), "H")), (box,), "H", reward, crops=(crop,))


def near(picture: Image.Image, x: int, y: int) -> set[str]:
    return {"#{:02X}{:02X}{:02X}".format(*picture.getpixel((x + d, y))) for d in range(-8, 9)}


def test_each_sample_has_its_number_and_colour():
    """(200, 100) .. (400, 300) of the original lies at (100, 50) .. (200, 150)."""
    picture = draw_rollout(EXAMPLE, [trajectory(None), trajectory(BOX, 1.0), trajectory(Box(900, 900, 1100, 1000))])
    first, second = near(picture, MARGIN + 100, MARGIN + 100), near(picture, MARGIN + 450, MARGIN + 475)
    assert COLOURS[1] in first and COLOURS[2] in second
    assert COLOURS[0] not in first | second  # the first sample named no box


def test_a_rollout_without_a_box_shows_the_image_alone():
    picture = draw_rollout(EXAMPLE, [trajectory(None)])
    shown = picture.crop((MARGIN, MARGIN, MARGIN + SHEET_SIDE, MARGIN + SHEET_SIDE))
    plain = SCENE.load().resize((SHEET_SIDE, SHEET_SIDE), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(shown), np.asarray(plain))


def test_transcripts_name_the_pictures_beside_them(tmp_path):
    group = Group(EXAMPLE, (trajectory(BOX, 1.0), trajectory(None)))
    save_rollouts(tmp_path, 3, [group])
    first, second = (row for _, row in read_jsonl(tmp_path / "step-00003.jsonl"))
    assert (first["boxes"], first["reward"], first["answer"]) == ([[200, 100, 400, 300, 0]], 1.0, "A")
    assert [turn["text"] for turn in first["turns"]] == ["there", "H"]
    assert (second["boxes"], second["reward"], second["crops"]) == ([], 0.0, [])
    assert first["picture"] == second["picture"] == "step-00003-0.jpg"
    assert first["size"] == [2 * SHEET_SIDE] * 2
    assert Image.open(tmp_path / first["photo"]).size == (960, 960)
    [crop] = first["crops"]
    assert Image.open(tmp_path / crop).size == (240, 240)  # its own pixels, with the margin that the model saw
    left = np.asarray(SCENE.load())[80:320, 180:420].astype(int)
    assert np.abs(np.asarray(Image.open(tmp_path / crop)).astype(int) - left).mean() < 5
    assert sorted(p.name for p in tmp_path.glob("*.jpg")) == [
        "step-00003-0-0-0.jpg", "step-00003-0-photo.jpg", "step-00003-0.jpg"
    ]  # fmt: skip
