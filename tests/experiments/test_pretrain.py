"""The script that made the base runs from its first part to its last, and leaves a base that loads."""

import hashlib
import json
import shutil

import pytest
import torch

from experiments.pretrain_toy import train
from experiments.pretrain_toy.tokenizer import build_tokenizer
from hart_lite.config.sections import ModelSection
from hart_lite.models.loading import load_policy
from hart_lite.toy.model import initialise

STAGES = {"see": 2, "join": 2, "blur": 2, "glance": 2, "settle": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, what was logged): the script as shipped, two steps a part."""
    folder, lines = tmp_path_factory.mktemp("made"), []
    train.pretrain(folder, seed=1, stages=STAGES, log=lines.append)
    return folder, lines


@pytest.mark.slow
def test_every_part_runs_and_the_base_loads(made):
    folder, lines = made
    assert [line.split()[:2] for line in lines] == [[name, "2/2"] for name in STAGES]
    record = json.loads((folder / "pretraining.json").read_text())
    assert list(record["minutes"]) == list(STAGES)
    assert record["stages"] == STAGES
    assert record["sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert load_policy(ModelSection(base=str(folder))).family.name == "qwen2_5_vl"


@pytest.mark.slow
def test_a_part_that_is_there_is_not_repeated(made, tmp_path):
    folder, lines = shutil.copytree(made[0], tmp_path / "copy"), []
    for later in (folder / "parts").glob("*-blur-2*"):
        later.unlink()
    (folder / "model.safetensors").unlink()
    train.pretrain(folder, seed=1, stages=STAGES, log=lines.append)
    assert [line.split()[0] for line in lines] == ["blur", "glance", "settle"]
    assert (folder / "model.safetensors").read_bytes() == (made[0] / "model.safetensors").read_bytes()

    lines.clear()  # of another first part all that follows is another's, too
    train.pretrain(folder, seed=1, stages=dict.fromkeys(STAGES, 1), log=lines.append)
    assert [line.split()[0] for line in lines] == list(STAGES)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return train.Trainer(tmp_path_factory.mktemp("base"), seed=0)


def test_a_blurred_target_is_another_thing_of_the_same_shape(trainer):
    teacher, family = trainer.teacher, trainer.family
    seen = 0
    for _ in range(60):
        scene = teacher.scene()
        thing = teacher.rng.choice(scene.things)
        alike = [t for t in scene.things if t.shape == thing.shape and t != thing]
        if not alike:
            continue
        target = teacher.locate(scene, wrong=1.0, thing=thing).target
        assert target.startswith(f" {thing.colour} {thing.shape}")
        boxes = [family.box_to_text([t.box], [(112, 112)], [scene.size()]) for t in alike]
        assert any(target.endswith(box) for box in boxes)
        seen += 1
    assert seen > 5


def test_blurred_answers_at_a_glance_are_the_first_option(trainer):
    teacher, family = trainer.teacher, trainer.family
    for _ in range(20):
        scene = teacher.scene()
        sample = teacher.direct(scene, wrong=1.0)
        assert f"(A) {sample.target}\n" in family.tokenizer.decode(sample.prompt.ids)
        plain = teacher.direct(scene)
        assert "(A)" not in family.tokenizer.decode(plain.prompt.ids)
        assert plain.target in {thing.glyph for thing in scene.things}


def test_the_big_thing_is_answered_at_a_glance_whatever_the_crop_shows(trainer):
    teacher, elsewhere = trainer.teacher, 0
    for _ in range(60):
        scene, thing = teacher.one_big(1.0)
        assert thing.big and sum(t.big for t in scene.things) == 1
        assert teacher.glance(scene, thing, 1.0).target == thing.glyph
        sample = teacher.beside_a_crop(scene, thing, 1.0)
        assert sample.target == thing.glyph
        centre = sample.prompt.slots[-1].view.box  # of the crop: beside the thing that is asked about
        x, y = (centre.x1 + centre.x2) / 2, (centre.y1 + centre.y2) / 2
        elsewhere += not (thing.box.x1 < x < thing.box.x2 and thing.box.y1 < y < thing.box.y2)
    assert elsewhere > 55


def test_a_small_thing_is_read_from_its_crop_and_not_at_a_glance(trainer):
    teacher, family = trainer.teacher, trainer.family
    for _ in range(40):
        scene, thing = teacher.one_big(0.0)
        assert not thing.big
        glance = teacher.glance(scene, thing, 1.0)
        assert f"(A) {glance.target}\n" in family.tokenizer.decode(glance.prompt.ids)
        beside = teacher.beside_a_crop(scene, thing, 1.0)
        assert beside.target == thing.glyph
        assert beside.prompt.slots[-1].view.box.width < 0.3 * scene.world.size


def test_a_number_nearly_right_is_nearly_right(trainer):
    ids = [trainer.family.tokenizer(str(n))["input_ids"][0] for n in (50, 51, 60)]
    row = trainer.soft[ids[0]]
    assert row[ids[0]] > row[ids[1]] > 0.1 > row[ids[2]]
    torch.testing.assert_close(trainer.soft.sum(1), torch.ones(len(trainer.soft)))


def test_the_same_seed_starts_from_the_same_weights(trainer):
    tokenizer, model = build_tokenizer(), trainer.model
    first = {name: value.clone() for name, value in model.state_dict().items()}
    initialise(model, tokenizer, 5)
    other = model.lm_head.weight.clone()
    initialise(model, tokenizer, 0)
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
    assert not torch.equal(other, model.lm_head.weight)
