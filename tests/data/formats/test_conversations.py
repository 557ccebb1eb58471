"""Conversations and RL rows of every tool come to the same rows: question, choices, answer and images."""

import base64
import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from hart_lite.data.convert import convert
from hart_lite.data.dataset import load_examples
from hart_lite.errors import HartError

ASKED = {"type": "text", "text": "How many?"}
SYSTEM = {"role": "system", "content": [{"type": "text", "text": "You are helpful."}]}


def user(*parts):
    return {"role": "user", "content": list(parts)}


def said(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


ROWS = {
    "parts with a path": {"messages": [SYSTEM, user(ASKED, {"type": "image", "image": "a.png"}), said("One")]},
    "OpenAI": {"messages": [
        user({"type": "image_url", "image_url": {"url": "a.png"}}, ASKED), {"role": "assistant", "content": "One"}]},
    "a bare address of a part": {"messages": [user({"type": "image_url", "image_url": "a.png"}, ASKED), said("One")]},
    "parts without a name": {"images": ["a.png"], "messages": [user({"type": "image"}, ASKED), said("One")]},
    "roles under conversations": {"image": "a.png", "conversations": [
        {"role": "user", "content": "<image>\nHow many?"}, {"role": "assistant", "content": "One"}]},
    "turns as text": {"image": "a.png", "conversations": json.dumps(
        [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "One"}])},
    "TRL": {"prompt": [user({"type": "image"}, ASKED)], "images": ["a.png"], "solution": "<answer> One </answer>"},
    "TRL with completion": {"prompt": [user({"type": "image"}, ASKED)], "image": "a.png", "completion": [said("One")]},
    "ms-swift": {"images": ["a.png"], "messages": [{"role": "user", "content": "<image>How many?"}], "solution": "One"},
    "ms-swift, a sample beside the truth": {"images": ["a.png"], "solution": "One", "messages": [
        {"role": "user", "content": "<image>How many?"}, {"role": "assistant", "content": "Two"}]},
    "query and response": {"query": "<image>How many?", "response": "One", "images": ["a.png"]},
    "VLM-R1, R1-V": {
        "image": "a.png", "problem": "How many?", "solution": "<think>I count.</think><answer>One</answer>"},
    "EasyR1": {"images": ["a.png"], "problem": "<image>How many?", "answer": "One"},
    "verl": {"images": ["a.png"], "prompt": [{"role": "user", "content": "<image>How many?"}],
             "reward_model": {"style": "rule", "ground_truth": "One"}},
    "alpaca": {"images": ["a.png"], "instruction": "<image>How many?", "input": "", "output": "One"},
    "a thought in a turn": {"image": "a.png", "conversations": [
        {"from": "human", "value": "How many?"}, {"from": "gpt", "value": "<think>x</think><answer>One</answer>"}]},
    "answer and solution that agree": {
        "image": "a.png", "problem": "How many?", "answer": "One", "solution": "<answer>One</answer>"},
}  # fmt: skip


def converted(folder, *records, **options):
    (folder / "x.jsonl").write_text("\n".join(map(json.dumps, records)))
    return convert(folder / "x.jsonl", folder / "out", "sharegpt", **options)


@pytest.mark.parametrize("kind", ROWS)
def test_every_tools_row_is_the_same_row(tmp_path, picture, kind, caplog):
    (example,) = load_examples(converted(tmp_path, ROWS[kind]).rows)
    assert (example.question, example.answer, example.choices) == ("How many?", "One", ())
    assert [image.key for image in example.images] == [str(tmp_path / "a.png")]
    assert not caplog.records


def test_an_image_inside_a_turn_is_written_as_a_file(tmp_path, picture):
    data = (tmp_path / "a.png").read_bytes()
    address = "data:image/png;base64," + base64.b64encode(data).decode()
    part = {"type": "image_url", "image_url": {"url": address}}
    done = converted(tmp_path, {"messages": [user(part, ASKED), said("One")]})
    (example,) = load_examples(done.rows)
    assert example.images[0].path.read_bytes() == data and example.images[0].path.suffix == ".png"


def test_rows_of_a_table_bring_their_images(tmp_path, picture):
    cells = []
    for colour in ("green", "blue"):
        file = io.BytesIO()
        Image.new("RGB", (9, 8), colour).save(file, "PNG")
        cells.append([{"bytes": file.getvalue(), "path": None}])
    rows = {"images": cells, "problem": ["<image>How many?", "<image>Colour?"], "answer": ["1", "blue"]}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "x.parquet")
    first, second = load_examples(convert(tmp_path / "x.parquet", tmp_path / "out", "sharegpt").rows)
    assert (first.question, first.answer, second.question, second.answer) == ("How many?", "1", "Colour?", "blue")
    assert second.images[0].load().getpixel((0, 0)) == (0, 0, 255)


def test_numbers_and_options(tmp_path, picture):
    records = [
        {"id": "n", "image": "a.png", "problem": "How many?", "solution": 3},
        {"id": "o", "image": "a.png", "question": "Colour?", "options": ["A. red", "B. blue"], "answer": "B"},
        {"id": "q", "image": "a.png", "query": "Colour?\nA. red\nB. blue\nAnswer by letter.", "response": "B. blue"},
    ]
    number, options, inside = load_examples(converted(tmp_path, *records).rows)
    assert (number.answer, number.choices) == ("3", ())
    for example in (options, inside):
        assert (example.question, example.choices, example.answer) == ("Colour?", ("red", "blue"), "B")


@pytest.mark.parametrize(
    "answer",
    ['```json\n[{"bbox_2d": [160,120,320,240]}]\n```', "<|box_start|>(1,2),(3,4)<|box_end|>", "[10, 20.5, 30, 40]",
     "<answer>[1, 2, 3, 4]</answer>", '{"bbox_2d": [1, 2, 3, 4], "label": "a car"}'],
)  # fmt: skip
def test_boxes_alone_are_no_answer(tmp_path, picture, answer):
    done = converted(tmp_path, ROWS["EasyR1"], {"image": "a.png", "problem": "Locate it.", "solution": answer})
    assert done.count == 1 and "holds boxes and no words" in done.dropped[0]


@pytest.mark.parametrize("answer", ["1, 2, 3, 4", "The car at [1, 2, 3, 4]", "(3, 4)", "2024-11-05"])
def test_answers_with_numbers_stay(tmp_path, picture, answer):
    (example,) = load_examples(converted(tmp_path, {"image": "a.png", "problem": "What?", "solution": answer}).rows)
    assert example.answer == answer


BAD = {
    "two answers that differ": (
        {"image": "a.png", "problem": "?", "answer": "1", "solution": "2"}, "answer and solution differ"),
    "two questions that differ": (
        {"image": "a.png", "problem": "a?", "query": "b?", "answer": "1"}, "problem and query differ"),
    "no answer": ({"image": "a.png", "problem": "a?"}, "no answer"),
    "no image": ({"problem": "a?", "answer": "1"}, "no image"),
    "a film": ({"image": "a.png", "messages": [user({"type": "video", "video": "a.mp4"}, ASKED), said("x")]},
               "parts of text and of images are read"),
    "images that are not those of the turns": (
        {"images": ["a.png", "a.png"], "messages": [user({"type": "image", "image": "a.png"}, ASKED), said("x")]},
        "2 images beside the turns and 1 in them"),
    "a system turn alone": ({"image": "a.png", "messages": [SYSTEM]}, "no question in its turns"),
    "a thought that was cut off": (
        {"image": "a.png", "problem": "a?", "solution": "<think>I"}, "nothing can be read from it"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_cannot_be_one_is_named(tmp_path, picture, name):
    record, problem = BAD[name]
    done = converted(tmp_path, record, ROWS["EasyR1"])
    assert done.count == 1 and len(done.dropped) == 1 and problem in done.dropped[0]
    assert done.dropped[0].startswith(f"{tmp_path / 'x.jsonl'}:1")


def test_names_of_its_own_are_mapped_and_others_said(tmp_path, picture, caplog):
    record = {"pictures": "a.png", "ask": "How many?", "gold": "One", "source": "x"}
    done = converted(tmp_path, record, columns={"image": "pictures", "problem": "ask", "solution": "gold"})
    assert [(e.question, e.answer) for e in load_examples(done.rows)] == [("How many?", "One")]
    assert "columns that are not read: source" in caplog.text
    with pytest.raises(HartError, match="unknown field 'boxs'"):
        convert(tmp_path / "x.jsonl", tmp_path / "other", "sharegpt", columns={"boxs": "gold"})
