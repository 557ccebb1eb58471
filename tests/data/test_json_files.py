"""One value on each line, one list, or objects over several lines: the same rows, wherever the line ends are."""

import json

import pytest

from hart_lite.data.dataset import load_examples
from hart_lite.data.json_files import json_entries, parse_json, read_json
from hart_lite.errors import DataError

ROWS = [{"id": "7", "text": "ä 红", "list": ["{", "\n"]}, {"id": "8"}]
FORMS = {
    "lines": "\n".join(map(json.dumps, ROWS)),
    "lines with blank ones": "\n\n" + "\r\n\r\n".join(map(json.dumps, ROWS)) + "\n",
    "a list": json.dumps(ROWS),
    "a list over lines": json.dumps(ROWS, indent=2),
    "a row on each line of a list": "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]",
    "objects over lines": "\n".join(json.dumps(row, indent=2, ensure_ascii=False) for row in ROWS),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_rows_are_the_same_in_every_form(tmp_path, form, encoding, name):
    (tmp_path / name).write_bytes(FORMS[form].encode(encoding))
    entries = list(json_entries(tmp_path / name))
    assert [(entry.value, entry.problem) for entry in entries] == [(row, "") for row in ROWS]
    assert len({entry.number for entry in entries}) == 2


def test_a_line_keeps_its_number_and_an_item_its_index(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n\n{"a"}\n3\n')
    assert [(e.place, e.value, e.problem[:9]) for e in json_entries(path)] == [
        (":1", {"a": 1}, ""), (":3", None, "not JSON:"), (":4", 3, "")
    ]  # fmt: skip
    path.write_text("[1, [2]]")
    assert [(e.place, e.value) for e in json_entries(path)] == [("[0]", 1), ("[1]", [2])]


@pytest.mark.parametrize("text", ['[\n{"a": 1},\n{"b": 2\n]', '{\n  "a": 1,\n  "b": [\n    2\n  }\n}'])
def test_what_breaks_off_over_several_lines_is_one_error_with_its_place(tmp_path, text):
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=r"x\.jsonl: not JSON: .*line \d"):
        list(json_entries(path))


def test_text_that_is_half_utf16_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "x.jsonl").write_bytes("{}".encode("utf-16")[:-1])
    with pytest.raises(DataError, match=r"x\.jsonl: neither UTF-8 nor whole UTF-16; save it as UTF-8"):
        list(json_entries(tmp_path / "x.jsonl"))


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"b": {"a": 1, "c": 2, "a": 3}}]'])
def test_a_key_that_stands_twice_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="the key 'a' stands twice"):
        parse_json(text.encode())
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json: not JSON: the key 'a' stands twice"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("text", ["", "  ", "1 2", "{}{}", "[" * 100_000, '"\\ud800"'])
def test_one_value_is_one_value(text):
    with pytest.raises(ValueError):
        parse_json(text.encode())


def test_rows_of_ones_own_are_read_from_a_list(tmp_path, picture):
    row = {"image": picture, "question": "What?", "choices": ["red", "blue"], "answer": "B"}
    (tmp_path / "rows.json").write_text(json.dumps([row, row | {"answer": "red"}], indent=1))
    assert [(e.id, e.answer) for e in load_examples(tmp_path / "rows.json")] == [("0", "B"), ("1", "A")]
