"""From a recipe to the questions of each stage: other layouts beside each other, and images on both sides."""

import json
import logging

from PIL import Image

from hart_lite.config.recipe import load_recipe
from hart_lite.runs.splits import load_splits


def rows(folder, name: str, images: list[str]) -> str:
    folder.mkdir(exist_ok=True)
    for image in images:
        Image.new("RGB", (60, 40)).save(folder / image)
    lines = [json.dumps({"id": f"{name}-{i}", "image": i, "question": "What?", "answer": "a cat"}) for i in images]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return str(folder / f"{name}.jsonl")


def mme(folder, name: str, images: list[str]) -> str:
    out = []
    for image in images:
        Image.new("RGB", (60, 40)).save(folder / image)
        choices = ["(A) a cat", "(B) a dog"]
        row = {"Question_id": f"q/{image}", "Image": image, "Text": "What?", "Question Type": "x", "Category": "c"}
        out.append(row | {"Answer choices": choices, "Ground truth": "A", "Task": "T", "Subtask": "S", "Dataset": "d"})
    (folder / f"{name}.json").write_text(json.dumps(out))
    return str(folder / f"{name}.json")


def splits(*overrides: str):
    return load_splits(load_recipe("tiny_cpu", overrides))


def test_evaluation_on_training_images_is_said(tmp_path, caplog):
    train = rows(tmp_path, "train", ["a.png", "b.png"])
    apart = rows(tmp_path, "apart", ["c.png"])
    with caplog.at_level(logging.WARNING):
        splits(f"data.train={train}", f"data.eval={apart}")
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        splits(f"data.train={train}", f"data.eval={train}")
    assert "2 of 2 evaluation questions are on images of the training data" in caplog.text


def test_the_papers_setting_trains_without_lite_and_evaluates_on_it(tmp_path):
    full = mme(tmp_path, "full", ["a.png", "b.png", "c.png", "d.png"])
    lite = mme(tmp_path, "lite", ["d.png"])
    data = splits("data.format=mme_realworld", f"data.train={full}", f"data.lite={lite}", f"data.eval={lite}")
    assert sorted(e.id for e in [*data.rl, *data.sft]) == ["q/a.png", "q/b.png", "q/c.png"]
    assert [e.id for e in data.eval] == ["q/d.png"]


def test_rows_may_go_with_another_layout(tmp_path):
    full, lite = mme(tmp_path, "full", ["a.png", "b.png"]), mme(tmp_path, "lite", ["b.png"])
    own = rows(tmp_path, "own", ["e.png"])
    data = splits("data.format=mme_realworld", f"data.train={full}", f"data.lite={lite}", f"data.sft={own}")
    assert [e.id for e in data.rl] == ["q/a.png"]
    assert [e.id for e in data.sft] == ["own-e.png"]


def test_held_out_scenes_may_be_of_another_world(tmp_path):
    own = ["data.eval_toy.colours=[red, green, blue, white]", "data.eval_toy.eval_scenes=30"]
    data, plain = splits(*own), splits()
    assert data.rl == plain.rl
    assert len({image for e in data.eval for image in e.images}) == 30

    def colours(examples):
        return {thing.colour for e in examples for thing in e.images[0].things}

    assert colours(data.eval) == {"red", "green", "blue", "white"}
    assert len(colours(data.rl)) == len(colours(plain.eval)) == 8
    assert [e.images[0].index for e in data.eval] == [e.images[0].index for e in plain.eval[: len(data.eval)]]


def test_a_policy_trained_on_rows_may_be_evaluated_in_the_world(tmp_path):
    train = f"data.train={rows(tmp_path, 'train', ['a.png', 'b.png'])}"
    assert splits(train).eval == []
    assert len(splits(train, "data.eval_toy.eval_scenes=3").eval) == 6
