"""What the names in a row are to us, in every kind of file: read, meant for another field, or left out and said."""

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from hart_lite.data.convert import convert
from hart_lite.data.dataset import load_examples
from hart_lite.errors import HartError

ROW = {"image": "a.png", "question": "Colour?", "answer": "B"}
LETTERS = {"A": "red", "B": "blue", "C": "x", "D": ""}


def jsonl(path, *rows):
    path.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path.with_suffix(".jsonl")


def json_list(path, *rows):
    path.with_suffix(".json").write_text(json.dumps(rows))
    return path.with_suffix(".json")


def parquet(path, *rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def commas(path, *rows, delimiter=","):
    with open(path.with_suffix(".csv"), "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path.with_suffix(".csv")


def semicolons(path, *rows):
    return commas(path, *rows, delimiter=";")


def tabs(path, *rows):
    return commas(path, *rows, delimiter="\t")


KINDS = pytest.mark.parametrize("write", [jsonl, json_list, parquet, commas, semicolons, tabs])


@KINDS
def test_columns_of_letters_are_the_choices(tmp_path, picture, write):
    (example,) = load_examples(write(tmp_path / "rows", ROW | LETTERS))
    assert (example.choices, example.answer) == (("red", "blue", "x"), "B")


@KINDS
def test_a_gap_in_the_choices_is_refused(tmp_path, picture, write):
    with pytest.raises(HartError, match="choices: A, C are given, with a gap"):
        load_examples(write(tmp_path / "rows", ROW | {"A": "red", "B": "", "C": "x"}))


@KINDS
def test_what_is_not_read_is_named_once_for_a_set(tmp_path, picture, write, caplog):
    rows = [ROW | {"id": str(n), "width": 3, "source": "x"} for n in range(3)]
    assert len(load_examples(write(tmp_path / "rows", *rows))) == 3
    (record,) = caplog.records
    assert record.getMessage().endswith("columns that are not read: width, source")


@KINDS
@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("chioces", "choices"),
        ("Choices", "choices"),
        ("options", "choices"),
        ("bbox", "boxes"),
        ("catgory", "category"),
    ],
)
def test_a_name_meant_for_a_field_is_refused(tmp_path, picture, write, name, ours):
    path = write(tmp_path / "rows", ROW | {name: "x"})
    with pytest.raises(HartError, match=rf"unknown field '{name}' \(did you mean '{ours}'\?\).*--column {ours}={name}"):
        load_examples(path)


@KINDS
def test_a_name_that_only_begins_like_a_field_is_left_out(tmp_path, picture, write, caplog):
    path = write(tmp_path / "rows", ROW | {"question_id": "5", "image_id": "7", "answer_type": "x", "label": "y"})
    assert load_examples(path)[0].answer == "B"
    assert "not read: question_id, image_id, answer_type, label" in caplog.text


@KINDS
def test_columns_say_what_is_read(tmp_path, picture, write, caplog):
    row = {"images": "a.png", "problem": "How many?", "gold": 3, "source": "x"}
    columns = {"image": "images", "question": "problem", "answer": "gold"}
    (example,) = load_examples(write(tmp_path / "rows", row), columns=columns)
    assert (example.question, example.answer) == ("How many?", "3")
    assert "columns that are not read: source" in caplog.text


@KINDS
def test_convert_reads_the_same_rows(tmp_path, picture, write):
    path = write(tmp_path / "rows", {"picture": "a.png", "q": "Colour?", "answer": "B"} | LETTERS)
    columns = {"image": "picture", "question": "q", "answer": "answer"}
    done = convert(path, tmp_path / "out", "rows", columns=columns)
    (example,) = load_examples(done.rows)
    assert (example.question, example.choices, example.answer) == ("Colour?", ("red", "blue", "x"), "B")


@pytest.mark.parametrize("write", [jsonl, json_list, parquet])
@pytest.mark.parametrize(("number", "text"), [(3, "3"), (3.0, "3"), (-2.5, "-2.5"), (10**20, "100000000000000000000")])
def test_numbers_are_texts(tmp_path, picture, write, number, text):
    if number == 10**20 and write is parquet:
        pytest.skip("no column of a table holds it")
    row = {"image": "a.png", "question": "How many?", "answer": number}
    assert load_examples(write(tmp_path / "rows", row))[0].answer == text


def test_numbers_are_choices(tmp_path, picture):
    rows = [
        {"id": str(n), "image": "a.png", "question": "?", "choices": [1, 2.5], "answer": a}
        for n, a in enumerate((1, 2.5))
    ]
    assert [(e.choices, e.answer) for e in load_examples(jsonl(tmp_path / "x", *rows))] == [
        (("1", "2.5"), "A"),
        (("1", "2.5"), "B"),
    ]


def test_numbers_of_32_bits_have_the_digits_they_were_written_with(tmp_path, picture):
    table = pyarrow.table(
        {"image": ["a.png"] * 2, "question": ["?"] * 2, "answer": pyarrow.array([0.1, 3], pyarrow.float32())}
    )
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert [e.answer for e in load_examples(tmp_path / "x.parquet")] == ["0.1", "3"]


@pytest.mark.parametrize("write", [commas, semicolons, parquet])
def test_boxes_and_choices_may_be_written_as_text(tmp_path, picture, write):
    row = ROW | {
        "choices": "['red', 'it''s', 'blue']".replace("''", "\\'"),
        "answer": "C",
        "boxes": "[[1, 2, 30, 20.5]]",
    }
    (example,) = load_examples(write(tmp_path / "rows", row))
    assert example.choices == ("red", "it's", "blue")
    assert example.boxes[0].xyxy == (1, 2, 30, 20.5)
