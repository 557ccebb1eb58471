"""From a recipe to the questions of each stage: other layouts beside each other, and images on both sides."""

import json
import logging
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from hart_lite.config.recipe import load_recipe
from hart_lite.errors import HartError
from hart_lite.runs.splits import load_splits


def draw(folder, images: list[str]) -> None:
    """A picture of its own for each name."""
    for image in images:
        Image.new("RGB", (60, 40), (ord(image[0]), 0, 0)).save(folder / image)


def rows(folder, name: str, images: list[str]) -> str:
    folder.mkdir(exist_ok=True)
    draw(folder, images)
    lines = [json.dumps({"id": f"{name}-{i}", "image": i, "question": "What?", "answer": "a cat"}) for i in images]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return str(folder / f"{name}.jsonl")


def mme(folder, name: str, images: list[str]) -> str:
    out = []
    draw(folder, images)
    for image in images:
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
    assert len(splits(train, "data.eval_toy.eval_scenes=3").eval) == 3


def copied(folder, name: str, images: dict[str, int], **fields) -> str:
    """Rows on files of their own: equal numbers are one picture under two names."""
    lines = []
    (folder / name).mkdir()
    for image, number in images.items():
        Image.new("RGB", (60, 40), (number, 0, 0)).save(folder / name / image)
        row = {"id": f"{name}-{image}", "image": f"{name}/{image}", "question": "What?", "answer": "a cat"}
        lines.append(json.dumps(row | fields))
    (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return str(folder / f"{name}.jsonl")


def pictures(examples) -> set[bytes]:
    return {image.load().tobytes() for example in examples for image in example.images}


def test_rl_and_sft_share_no_picture_under_two_names(tmp_path):
    train = copied(tmp_path, "train", {f"{n}.png": n % 20 for n in range(40)})
    data = splits(f"data.train={train}", "data.rl_size=20")
    assert len(data.rl) + len(data.sft) == 40 and data.rl and data.sft
    assert not pictures(data.rl) & pictures(data.sft)


def test_a_picture_in_a_table_and_its_file_are_one(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    train = copied(tmp_path, "train", {f"{n}.png": n for n in range(6)})
    cells = [(tmp_path / f"train/{n}.png").read_bytes() for n in (1, 4)]
    table = {"image": cells, "question": ["?"] * 2, "answer": ["x"] * 2, "id": ["p", "q"]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "sft.parquet")
    with pytest.raises(HartError, match="RL and SFT share 2 images"):
        splits(f"data.train={train}", f"data.sft={tmp_path / 'sft.parquet'}")


def test_training_leaves_out_pictures_of_the_evaluation(tmp_path, caplog):
    train = copied(tmp_path, "train", {f"{n}.png": n for n in range(8)})
    held = copied(tmp_path, "held", {"x.png": 3, "y.png": 5, "z.png": 99})
    data = splits(f"data.train={train}", f"data.eval={held}")
    assert len(data.eval) == 3 and len([*data.rl, *data.sft]) == 6
    assert not pictures([*data.rl, *data.sft]) & pictures(data.eval)
    assert "2 of 8 training questions are on pictures of data.eval and are left out" in caplog.text
    everything = copied(tmp_path, "all", {f"{n}.png": n for n in range(8)})
    with pytest.raises(HartError, match=r"all 8 training questions are on pictures of data\.eval"):
        splits(f"data.train={train}", f"data.eval={everything}")


def test_several_files_with_weights(tmp_path):
    a = copied(tmp_path, "a", {f"{n}.png": n for n in range(3)})
    b = copied(tmp_path, "b", {f"{n}.png": 10 + n for n in range(4)})
    c = copied(tmp_path, "c", {f"{n}.png": 20 + n for n in range(200)})
    files = f"data.train=[{a}, {{path: {b}, weight: 2}}, {{path: {c}, weight: 0.5}}]"
    data = splits(files, "data.rl_size=100", "stages=[{kind: sft}]")
    count = Counter(example.id.split("/")[0] for example in data.sft)
    assert (count["a"], count["b"]) == (3, 8) and 70 < count["c"] < 130
    assert Counter(example.id for example in data.sft)["b/b-0.png"] == 2
    assert [e.id for e in splits(files, "stages=[{kind: sft}]").sft] == [e.id for e in data.sft], "drawn with the seed"


def test_ids_of_files_that_count_their_lines_do_not_meet(tmp_path):
    a, b = (copied(tmp_path, name, {"0.png": n}, id=None) for n, name in enumerate("ab"))
    found = splits(f"data.train=[{a}, {b}]", "stages=[{kind: sft}]").sft
    assert sorted(example.id for example in found) == ["a/1", "b/1"]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("[]", r"data\.train = \[\]: List should have at least 1 item"),
        ("[a.jsonl, a.jsonl]", "name each file once"),
        ("[toy, a.jsonl]", "no toy among them"),
        ("[{path: a.jsonl, weight: 0}]", r"data\.train\.0\.weight = 0: should be greater than 0"),
        ("[{path: a.jsonl, wieght: 2}]", r"unknown key data\.train\.0\.wieght; did you mean data\.train\.0\.weight"),
        ("[{weight: 2}]", r"data\.train\.0\.path is missing"),
        ("3", r"data\.train = 3: should be a valid string"),
    ],
)
def test_files_that_make_no_sense_are_refused(train, message):
    with pytest.raises(HartError, match=message) as caught:
        load_recipe("tiny_cpu", [f"data.train={train}"])
    assert str(caught.value).count("data.train") <= 2


def test_columns_of_training_files_are_those_of_the_evaluation(tmp_path):
    columns = "data.columns={id: id, image: photo, question: problem, answer: solution}"
    a, b = (copied(tmp_path, name, {"0.png": n, "1.png": n + 5}) for n, name in enumerate("ab"))
    for path in (a, b):
        text = Path(path).read_text()
        for ours, theirs in (("image", "photo"), ("question", "problem"), ("answer", "solution")):
            text = text.replace(f'"{ours}":', f'"{theirs}":')
        Path(path).write_text(text)
    data = splits(f"data.train={a}", f"data.eval={b}", columns)
    assert [e.id for e in data.eval] == ["b-0.png", "b-1.png"] and len([*data.rl, *data.sft]) == 2
