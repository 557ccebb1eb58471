"""Rows to examples: every format, every kind of bad row, the split by image, the check."""

import base64
import io
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from hart_lite.data import images
from hart_lite.data.check import check_dataset, format_report
from hart_lite.data.dataset import check_disjoint, load_examples, load_mme_realworld, split_by_image
from hart_lite.data.images import ImageBytes
from hart_lite.errors import HartError
from hart_lite.types import Box, Example, ImageView

REPO = Path(__file__).parents[2]
REALSET = Path(os.environ.get("HART_REALSET", REPO.parent / "shared" / "realset"))

GOOD = {"image": "a.png", "question": "What is it?", "choices": ["cat", "dog", "owl"], "answer": "B"}


def png(colour="red", size=(40, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png("red"))
    (tmp_path / "b.png").write_bytes(png("blue", (60, 50)))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def write_rows(path: Path, *rows) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def no_decoding(monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))


# --- JSONL


def test_jsonl(folder, monkeypatch):
    no_decoding(monkeypatch)
    path = write_rows(
        folder / "rows.jsonl",
        GOOD | {"id": 7, "boxes": [[0, 0, 40, 30], [1.5, 2, 3, 4]], "category": "ocr"},
        "",
        {"images": ["a.png", "b.png"], "question": " Which? ", "answer": "the  left", "boxes": [[0, 0, 60, 50, 1]]},
    )
    first, second = load_examples(path)
    assert (first.id, first.question, first.answer, first.category) == ("7", "What is it?", "B", "ocr")
    assert first.choices == ("cat", "dog", "owl")
    assert first.boxes == (Box(0, 0, 40, 30), Box(1.5, 2, 3, 4))
    assert first.images[0].key == str(folder / "a.png")
    assert (second.id, second.question, second.answer, second.choices) == ("3", "Which?", "the  left", ())
    assert second.boxes == (Box(0, 0, 60, 50, 1),)
    assert [image.size() for image in second.images] == [(40, 30), (60, 50)]


def test_jsonl_reads_a_byte_order_mark_labels_and_choice_texts(folder):
    row = GOOD | {"choices": ["(A) cat", "(B)dog", "(C) owl"], "answer": "owl"}
    (folder / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(row).encode())
    (example,) = load_examples(folder / "rows.jsonl")
    assert (example.choices, example.answer) == (("cat", "dog", "owl"), "C")


@pytest.mark.parametrize("form", ["{}. {}", "{}) {}", "{}: {}", "\uff08{}\uff09 {}"])
def test_labels_of_other_forms_are_dropped_from_choices(folder, form):
    row = GOOD | {"choices": [form.format("AB"[n], text) for n, text in enumerate(("cat", "dog"))], "answer": "dog"}
    (example,) = load_examples(write_rows(folder / "rows.jsonl", row))
    assert (example.choices, example.answer) == (("cat", "dog"), "B")


BAD = {
    "not JSON": ("{oops", "not JSON"),
    "not an object": ("[1, 2]", "a row is a JSON object with the fields id, image"),
    "a misspelt field": (GOOD | {"qestion": "?"}, r"unknown field 'qestion' \(did you mean 'question'\?\)"),
    "no answer": ({k: v for k, v in GOOD.items() if k != "answer"}, "no answer"),
    "answer null": (GOOD | {"answer": None}, "no answer"),
    "a number as answer that is no choice": (GOOD | {"answer": 4}, "'4' is not one of the choices"),
    "a truth as answer": (GOOD | {"answer": True}, "answer: True given; text is allowed"),
    "a question in the field of another tool": (
        {"image": "a.png", "problem": "What?", "answer": "x"}, r"unknown field 'problem' \(did you mean 'question'"),
    "choices in another tool's field": (
        {"image": "a.png", "question": "What?", "options": ["a", "b"], "answer": "x"}, r"did you mean 'choices'\?"),
    "a key twice": (json.dumps(GOOD)[:-1] + ', "answer": "A"}', "the key 'answer' stands twice"),
    "two markers for one image": (GOOD | {"question": "<image><image>What?"}, "2 times <image> for 1 images"),
    "a question of a marker alone": (GOOD | {"question": "<image>"}, "question: '<image>' holds no word"),
    "an address": (GOOD | {"image": "https://example.org/a.png"}, "is an address, and nothing is fetched"),
    "an address of a file": (GOOD | {"image": "file:///photos/a.png"}, "give the path alone, without file://"),
    "a data URI": (GOOD | {"image": "data:image/png;base64,iVBORw0KGgo="}, "is a data URI, which only tables may hold"),
    "a Windows path": (GOOD | {"image": "sub\\a.png"}, "no such image file; it is a Windows path: write /"),
    "a blank at the end of a name": (GOOD | {"image": "a.png "}, "no such image file; there is a blank"),
    "an answer that is a thought cut off": (
        {"image": "a.png", "question": "?", "answer": "<think>a sign"}, "answer: '<think>a sign' given; nothing can"),
    "an answer in an empty tag": (
        {"image": "a.png", "question": "?", "answer": "<answer> </answer>"}, "so that no response would be right"),
    "an answer that says nothing": (
        {"image": "a.png", "question": "?", "answer": "I am not sure."}, "give the answer alone, as text"),
    "no question": ({k: v for k, v in GOOD.items() if k != "question"}, "no question"),
    "an empty question": (GOOD | {"question": "  "}, "question: '  ' is empty"),
    "a letter beyond the choices": (GOOD | {"answer": "D"}, "'D' is not one of the choices: A='cat'"),
    "an answer not among the choices": (GOOD | {"answer": "fox"}, "'fox' is not one of the choices"),
    "one choice": (GOOD | {"choices": ["cat"]}, "choices: .* at least two texts"),
    "choices in one text": (GOOD | {"choices": "cat, dog"}, "choices: 'cat, dog' given"),
    "labels out of order": (GOOD | {"choices": ["(B) cat", "(A) dog"]}, "labelled out of order; A, B is needed"),
    "a label without text": (GOOD | {"choices": ["(A) cat", "(B)"]}, "a label but no text"),
    "no image": ({k: v for k, v in GOOD.items() if k != "image"}, "either `image` or `images`"),
    "image and images": (GOOD | {"images": ["a.png"]}, "either `image` or `images`"),
    "no images": ({"images": [], "question": "?", "answer": "x"}, r"images: \[\] given"),
    "a missing image": (GOOD | {"image": "gone.png"}, r"gone\.png: no such image file"),
    "an image that is a number": (GOOD | {"image": 3}, "image: 3 given"),
    "a path with a null byte": (GOOD | {"image": "a\0.png"}, "image: .* given"),
    "an image that is none": (GOOD | {"image": "rows.jsonl"}, "rows.jsonl: not an image"),
    "a box of three numbers": (GOOD | {"boxes": [[1, 2, 3]]}, r"boxes: \[1, 2, 3\] given; \[x1, y1, x2, y2\]"),
    "a box of texts": (GOOD | {"boxes": [["1", 2, 3, 4]]}, "boxes: .* given; "),
    "a box with NaN": (GOOD | {"boxes": [[1, 2, float("nan"), 4]]}, r"boxes: \[1, 2, nan, 4\] given"),
    "a box with a number beyond float": (GOOD | {"boxes": [[1, 2, 10**400, 4]]}, "reaches outside"),
    "one box not in a list": (GOOD | {"boxes": [1, 2, 3, 4]}, "boxes: 1 given"),
    "a box outside": (GOOD | {"boxes": [[1, 2, 41, 4]]}, "outside its image of 40 x 30 pixels"),
    "a box above": (GOOD | {"boxes": [[1, -1, 4, 4]]}, "outside its image of 40 x 30 pixels"),
    "a box of no width": (GOOD | {"boxes": [[4, 2, 4, 4]]}, r"boxes: \[4, 2, 4, 4\] is empty"),
    "reversed corners": (GOOD | {"boxes": [[9, 9, 2, 2]]}, "is empty; x1 < x2"),
    "a box without image number": (
        {"images": ["a.png", "b.png"], "question": "?", "answer": "x", "boxes": [[1, 2, 3, 4]]}, "image number from 0"),
    "a box on a third image": (
        {"images": ["a.png", "b.png"], "question": "?", "answer": "x", "boxes": [[1, 2, 3, 4, 2]]}, "images 0 to 1"),
    "an id that is a list": (GOOD | {"id": [1]}, r"id: \[1\] given"),
    "an id twice": (GOOD | {"id": "1"}, r"id: '1' is taken by .*rows\.jsonl:1"),
    "a category that is a number": (GOOD | {"category": 3}, "category: 3 given"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_row_is_named_with_its_line(folder, name):
    row, message = BAD[name]
    path = write_rows(folder / "rows.jsonl", GOOD, row, GOOD)
    with pytest.raises(HartError, match=rf"1 of 3 rows are bad:\n  .*rows\.jsonl:2: .*{message}"):
        load_examples(path)


def test_bad_utf8_is_named_with_its_line(folder):
    (folder / "rows.jsonl").write_bytes(json.dumps(GOOD).encode() + b'\n{"question": "\xff"}')
    with pytest.raises(HartError, match=r"rows\.jsonl:2: not JSON: .*utf-8"):
        load_examples(folder / "rows.jsonl")


def test_many_bad_rows_make_one_error_and_can_be_left_out(folder, caplog):
    path = write_rows(folder / "rows.jsonl", GOOD, *[GOOD | {"answer": "Z"}] * 9)
    with pytest.raises(HartError) as caught:
        load_examples(path)
    assert "9 of 10 rows are bad" in str(caught.value) and "... and 4 more" in str(caught.value)
    assert [f"rows.jsonl:{i}:" in str(caught.value) for i in range(1, 8)] == [False, *[True] * 5, False]
    assert [example.id for example in load_examples(path, strict=False)] == ["1"]
    assert "9 of 10 rows are bad" in caplog.text
    with pytest.raises(HartError, match="2 of 2 rows are bad"):
        load_examples(write_rows(folder / "none.jsonl", "{", "{"), strict=False)


def test_what_is_no_data_set(folder):
    with pytest.raises(HartError, match=r"empty\.jsonl: no rows"):
        load_examples(write_rows(folder / "empty.jsonl"))
    with pytest.raises(HartError, match=r"gone\.jsonl: cannot be read"):
        load_examples(folder / "gone.jsonl")
    with pytest.raises(HartError, match="gone: no such data set"):
        load_examples(folder / "gone")
    with pytest.raises(HartError, match="set format to one of jsonl"):
        load_examples(write_rows(folder / "rows.txt", GOOD))
    with pytest.raises(HartError, match="Unknown data format 'csv'"):
        load_examples(folder / "rows.txt", format="csv")
    with pytest.raises(HartError, match="not for jsonl"):
        load_examples(write_rows(folder / "rows.jsonl", GOOD), split="train")


# --- tables


def write_table(path: Path, columns: dict, **schema) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path, **schema)
    return path


COLUMNS = {"image": "picture", "question": "Text", "choices": "options", "answer": "gt"}


def mapped(pictures: list) -> dict:
    n = len(pictures)
    options = [["(A) cat", "(B) dog"]] * n
    return {"picture": pictures, "Text": ["What?"] * n, "options": options, "gt": ["B"] * n, "other": [1] * n}


@pytest.mark.parametrize(
    "picture",
    [
        {"bytes": png("green"), "path": "x.png"},
        png("green"),
        base64.b64encode(png("green")).decode(),
        "data:image/png;base64," + base64.encodebytes(png("green")).decode(),
    ],
    ids=["struct", "bytes", "base64", "data URI"],
)
def test_parquet_images(folder, monkeypatch, picture):
    path = write_table(folder / "rows.parquet", mapped([picture] * 20))
    with monkeypatch.context() as patch:
        no_decoding(patch)
        examples = load_examples(path, columns=COLUMNS)
    assert [e.id for e in examples] == [str(i) for i in range(20)]
    assert (examples[19].question, examples[19].choices, examples[19].answer) == ("What?", ("cat", "dog"), "B")
    (image,) = examples[19].images
    assert image.key == ImageBytes(png("green"), "x").key, "the same picture in two rows is one image"
    assert image.size() == (40, 30)
    assert image.load().getpixel((0, 0)) == (0, 128, 0)


@pytest.mark.parametrize("picture", ["a.png", {"bytes": None, "path": "a.png"}], ids=["path", "struct with a path"])
def test_parquet_image_paths(folder, picture):
    (example,) = load_examples(write_table(folder / "rows.parquet", mapped([picture])), columns=COLUMNS)
    assert example.images[0].key == str(folder / "a.png")
    (folder / "sub").mkdir()
    path = write_table(folder / "sub" / "rows.parquet", mapped([picture]))
    (example,) = load_examples(path, columns=COLUMNS, image_dir=folder)
    assert example.images[0].key == str(folder / "a.png")


def test_parquet_written_by_datasets_with_several_images(folder, monkeypatch):
    import datasets

    rows = {"images": [[png("red"), png("blue")]], "question": ["?"], "answer": ["x"], "boxes": [[[1, 2, 3, 4, 1]]]}
    features = datasets.Features(
        images=datasets.List(datasets.Image()), question=datasets.Value("string"), answer=datasets.Value("string"),
        boxes=datasets.List(datasets.List(datasets.Value("int64"))),
    )  # fmt: skip
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "rows.parquet")
    with monkeypatch.context() as patch:
        no_decoding(patch)
        (example,) = load_examples(folder / "rows.parquet")
    assert [image.load().getpixel((0, 0)) for image in example.images] == [(255, 0, 0), (0, 0, 255)]
    assert example.boxes == (Box(1, 2, 3, 4, 1),)


def test_parquet_lists_folders_and_splits(folder):
    (folder / "set").mkdir()
    one = write_table(folder / "set" / "train-0.parquet", mapped(["a.png"]))
    two = write_table(folder / "set" / "train-1.parquet", mapped(["b.png"] * 2))
    assert len(load_examples([one, two], columns=COLUMNS, image_dir=folder)) == 3
    assert len(load_examples(folder / "set", columns=COLUMNS, image_dir=folder)) == 3
    write_table(folder / "set" / "test-0.parquet", mapped(["b.png"]))
    with pytest.raises(HartError, match="several splits; set split to one of"):
        load_examples(folder / "set", columns=COLUMNS, image_dir=folder)
    assert len(load_examples(folder / "set", columns=COLUMNS, image_dir=folder, split="test")) == 1


def test_bad_tables(folder):
    path = write_table(folder / "rows.parquet", mapped(["a.png", "gone.png", None, "?" * 5000, "eHh4eA=="]))
    with pytest.raises(HartError) as caught:
        load_examples(path, columns=COLUMNS)
    for message in (
        "4 of 5 rows",
        "[1]: ",
        "gone.png: no such image",
        "[2]: a row needs either",
        "[3]: image: '???",
        "image: not",
    ):
        assert message in str(caught.value)
    assert len(str(caught.value)) < 1500, "the cell is not printed whole"
    with pytest.raises(HartError, match=r"no column 'Txt' \(for 'question'\) \(did you mean 'Text'\?\)"):
        load_examples(path, columns=COLUMNS | {"question": "Txt"})
    with pytest.raises(HartError, match=r"unknown field 'imag' \(did you mean 'image'\?\)"):
        load_examples(path, columns={"imag": "picture"})
    with pytest.raises(HartError, match=r"gone\.parquet: no such parquet file"):
        load_examples(folder / "gone.parquet")
    (folder / "junk.parquet").write_bytes(b"junk")
    with pytest.raises(HartError, match=r"junk\.parquet: the data set cannot be opened"):
        load_examples(folder / "junk.parquet")


def test_hub_data_set(folder, monkeypatch):
    """No network: `load_dataset` is replaced by one that returns what the Hub's would."""
    import datasets

    table = datasets.Dataset.from_dict(mapped([png()])).cast_column("picture", datasets.Image())

    def load_dataset(path, split):
        assert (path, split) == ("owner/name", "train")
        return table

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (example,) = load_examples("owner/name", columns=COLUMNS, split="train")
    assert example.images[0].load().getpixel((0, 0)) == (255, 0, 0)


def test_no_torch_is_imported():
    code = "import sys, hart_lite.data.check; sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)


# --- MME-RealWorld


def mme_row(number: int, image: str, answer: str = "B") -> dict:
    return {
        "Question_id": f"Perception/Remote Sensing/count/{number:04}",
        "Image": image,
        "Text": "How many ships?",
        "Question Type": "Multiple Choice",
        "Answer choices": ["(A) 3", "(B) 4", "(C) 5", "(D) 6", "(E) The image does not feature the ships"],
        "Ground truth": answer,
        "Category": "count",
        "Subtask": "Remote Sensing",
        "Task": "Perception",
        "Dataset": "x",
    }


@pytest.fixture
def mme(folder):
    (folder / "imgs" / "rs").mkdir(parents=True)
    for name in "abcde":
        (folder / "imgs" / "rs" / f"{name}.png").write_bytes(png())
    rows = [mme_row(i, f"rs/{name}.png") for i, name in enumerate("aabbcdde")]
    (folder / "MME_RealWorld.json").write_text(json.dumps(rows))
    return folder


def test_mme_realworld(mme):
    examples = load_examples(mme / "MME_RealWorld.json", format="mme_realworld", image_dir=mme / "imgs")
    assert len(examples) == 8
    first = examples[0]
    assert first.id == "Perception/Remote Sensing/count/0000"
    assert first.category == "Perception/Remote Sensing"
    assert first.choices == ("3", "4", "5", "6", "The image does not feature the ships")
    assert (first.question, first.answer) == ("How many ships?", "B")


def test_mme_realworld_minus_lite(mme):
    # Lite holds question 0 on image a (so question 1 goes too), c under a flat folder, and d under a deeper one.
    lite = [mme_row(0, "rs/a.png"), mme_row(900, "c.png"), mme_row(901, "imgs/rs/d.png")]
    (mme / "lite.json").write_text(json.dumps(lite))
    examples = load_mme_realworld(mme / "MME_RealWorld.json", mme / "lite.json", mme / "imgs")
    assert [(e.id[-4:], Path(e.images[0].key).name) for e in examples] == [
        ("0002", "b.png"), ("0003", "b.png"), ("0007", "e.png")]  # fmt: skip


def test_mme_realworld_drops_by_question_id_alone(mme):
    (mme / "lite.json").write_text(json.dumps([mme_row(7, "renamed.png")]))
    examples = load_mme_realworld(mme / "MME_RealWorld.json", mme / "lite.json", mme / "imgs")
    assert [e.id[-4:] for e in examples] == [f"000{i}" for i in range(7)]


def test_mme_realworld_refuses_files_that_are_not_it(mme):
    full = mme / "MME_RealWorld.json"
    (mme / "lite.json").write_text(json.dumps([mme_row(77, "other.png")]))
    with pytest.raises(HartError, match=r"lite\.json: none of its 1 questions or images"):
        load_mme_realworld(full, mme / "lite.json", mme / "imgs")
    broken = {k: v for k, v in mme_row(0, "rs/a.png").items() if k != "Image"}
    (mme / "lite.json").write_text(json.dumps([broken]))
    with pytest.raises(HartError, match=r"lite\.json\[0\]: not an MME-RealWorld question: no Image"):
        load_mme_realworld(full, mme / "lite.json", mme / "imgs")
    (mme / "lite.json").write_text("{}")
    with pytest.raises(HartError, match="is a JSON list of questions, not dict"):
        load_examples(mme / "lite.json", format="mme_realworld")
    full.write_text(json.dumps([mme_row(0, "rs/a.png"), mme_row(1, "rs/a.png", "F"), mme_row(2, "rs/gone.png")]))
    with pytest.raises(HartError, match=r"(?s)\[1\]: The answer 'F' is not.*\[2\]: .*gone\.png: no such image"):
        load_examples(full, format="mme_realworld", image_dir=mme / "imgs")


# --- the split


def pool(seed: int) -> list[Example]:
    """Some 60 questions on 25 images, a few of them on two images at once."""
    rng = random.Random(seed)
    images = [ImageBytes(bytes([i]), f"{i}") for i in range(25)]
    return [Example(f"{n:03}", tuple(rng.sample(images, 1 + (rng.random() < 0.1))), "?", "x") for n in range(60)]


@pytest.mark.parametrize("seed", range(20))
def test_split_by_image(seed):
    examples = pool(seed)
    rl, sft = split_by_image(examples, 25, seed)
    check_disjoint(rl, sft)
    assert Counter(e.id for e in rl + sft) == Counter(e.id for e in examples), "nothing lost, nothing twice"
    linked = {e.id: {o.id for o in rl if shares(e, o)} for e in rl}
    last = cluster(rl[-1].id, linked)
    assert len(rl) >= 25 > len(rl) - len(last), "no image more than needed"
    shuffled = random.Random(seed + 1).sample(examples, len(examples))
    assert split_by_image(shuffled, 25, seed) == (rl, sft)


def shares(a: Example, b: Example) -> bool:
    return bool({i.key for i in a.images} & {i.key for i in b.images})


def cluster(start: str, linked: dict[str, set[str]]) -> set[str]:
    found, new = set(), {start}
    while new:
        found |= new
        new = set().union(*(linked[n] for n in new)) - found
    return found


def test_split_depends_on_the_seed():
    assert len({tuple(e.id for e in split_by_image(pool(0), 25, seed)[0]) for seed in range(5)}) == 5


def test_split_of_a_small_set():
    examples = pool(3)
    assert len(split_by_image(examples, 60, 0)[0]) == 60
    rl, sft = split_by_image(examples, 10_000, 0, share_if_small=True)
    assert 30 <= len(rl) < 45 and len(rl) + len(sft) == 60
    assert split_by_image(examples, 25, 0, share_if_small=True) == split_by_image(examples, 25, 0)


def test_overlap_is_refused():
    examples = pool(0)
    with pytest.raises(HartError, match=r"share 1 images, sha256:.*disjoint by image"):
        check_disjoint(examples[:1], [Example("other", examples[0].images[:1], "?", "x")])


# --- the check


def test_check_reports_every_bad_row_and_writes_nothing(folder):
    noise = random.Random(0).randbytes(90 * 90 * 3)
    stream = io.BytesIO()
    Image.frombytes("RGB", (90, 90), noise).save(stream, "PNG")
    (folder / "gap.png").write_bytes(stream.getvalue()[:2000] + bytes(9000) + stream.getvalue()[11000:])
    rows = [
        GOOD | {"category": "ocr", "boxes": [[1, 2, 3, 4]]}, GOOD | {"category": "ocr"}, GOOD | {"image": "b.png"},
        GOOD | {"image": "gap.png"}, GOOD | {"image": "gap.png"}, *[GOOD | {"answer": "Z"}] * 7,
    ]  # fmt: skip
    path = write_rows(folder / "rows.jsonl", *rows)
    assert len(load_examples(write_rows(folder / "gap.jsonl", rows[3]))) == 1, "its header and its end look well"
    before = sorted(folder.rglob("*"))
    report = check_dataset(path)
    assert sorted(folder.rglob("*")) == before
    assert (report.good, report.images, report.with_boxes, report.ok) == (3, 2, 1, False)
    assert report.categories == {"ocr": 2, "": 1}
    assert len(report.problems) == 9
    for number, problem in zip(range(4, 13), report.problems, strict=True):
        assert problem.startswith(f"{path}:{number}: ")
        assert ("gap.png: damaged image" if number < 6 else "'Z' is not one of the choices") in problem
    text = format_report(report)
    assert all(problem in text for problem in report.problems)
    assert "3 of 12 rows are good" in text and "images: 2" in text and "ocr 2, (none) 1" in text


def test_check_draws_a_preview(folder):
    report = check_dataset(write_rows(folder / "rows.jsonl", GOOD, GOOD), preview=folder / "sheet.png")
    assert report.ok and report.good == 2
    assert Image.open(folder / "sheet.png").width > 504
    report = check_dataset(write_rows(folder / "empty.jsonl"), preview=folder / "empty.png")
    assert not report.ok and "no rows" in format_report(report)
    assert not (folder / "empty.png").exists()


# --- real photos


def test_real_photos(tmp_path):
    if not (REALSET / "questions.jsonl").exists():
        pytest.skip(f"the real photos are not at {REALSET}; set HART_REALSET to their folder")
    examples = load_examples(REALSET / "questions.jsonl")
    assert len(examples) == len((REALSET / "questions.jsonl").read_text().splitlines())
    assert all(example.boxes and example.choices for example in examples)
    for example in {e.images[0].key: e for e in examples}.values():
        source, box = example.images[0], example.boxes[0]
        assert source.load().size == source.size()
        crop = ImageView(source, (round(box.width), round(box.height)), box).load()
        assert crop == source.load().crop(tuple(map(round, box.xyxy)))
    rl, sft = split_by_image(examples, 10, seed=0, share_if_small=True)
    assert rl and sft
    check_disjoint(rl, sft)


def test_half_a_character_is_one_bad_row_among_good_ones(tmp_path):
    """JSON can spell a lone surrogate; no file name and no tokenizer can hold it."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    good = json.dumps({"id": "1", "image": "a.png", "question": "What?", "answer": "a cat"})
    bad = '{"id": "2", "image": "\\ud800", "question": "What?", "answer": "a cat"}'
    (tmp_path / "rows.jsonl").write_text(f"{good}\n{bad}\n")
    with pytest.raises(HartError, match=r"rows.jsonl:2.*surrogates not allowed"):
        load_examples(tmp_path / "rows.jsonl")
    assert [e.id for e in load_examples(tmp_path / "rows.jsonl", strict=False)] == ["1"]


# -- images that break off ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_an_image_that_breaks_off_is_found_when_rows_are_read(folder, kind):
    noise = Image.frombytes("L", (400, 300), random.Random(0).randbytes(400 * 300))
    stream = io.BytesIO()
    noise.save(stream, kind)
    data = stream.getvalue()
    path = write_rows(folder / "rows.jsonl", GOOD, GOOD | {"image": "noise"})
    for whole in (data, data + b"\0\0\0"):
        (folder / "noise").write_bytes(whole)
        assert len(load_examples(path)) == 2
    (folder / "noise").write_bytes(data[: len(data) // 2])
    with pytest.raises(HartError, match=r"rows\.jsonl:2: .*noise: damaged image"):
        load_examples(path)
    table = write_table(folder / "rows.parquet", mapped([data[: len(data) // 2]]))
    with pytest.raises(HartError, match="damaged image"):
        load_examples(table, columns=COLUMNS)


def test_only_images_that_end_oddly_are_decoded(folder, monkeypatch):
    """Such as a photo with a film behind it, which is whole."""
    decoded = []
    real = images.decode
    monkeypatch.setattr(images, "decode", lambda stream, name: decoded.append(Path(name).name) or real(stream, name))
    Image.new("RGB", (60, 40)).save(folder / "film.jpg")
    with (folder / "film.jpg").open("ab") as file:
        file.write(b"film" * 40_000)
    path = write_rows(folder / "rows.jsonl", GOOD, GOOD | {"image": "film.jpg"}, GOOD | {"image": "b.png"})
    assert [e.images[0].size() for e in load_examples(path)][1] == (60, 40)
    assert decoded == ["film.jpg"]


# -- messages ------------------------------------------------------------------------------------------------------

LONG = {
    "id": {"id": ["x"] * 5000},
    "image": {"image": "x" * 4000},
    "images": {"image": None, "images": "x" * 4000},
    "question": {"question": ["x"] * 5000},
    "number": {"question": 10**4000},
    "answer": {"answer": "x" * 5000},
    "choices": {"choices": ["x" * 5000]},
    "labels": {"choices": ["(B) " + "x" * 5000, "(A) y"]},
    "one choice": {"choices": ["x" * 5000, "y"], "answer": "z"},
    "box": {"boxes": [[1, 2, 3, 10**300]]},
    "boxes": {"boxes": "x" * 5000},
    "field": {"answer ": 1, "x" * 5000: 1},
}


@pytest.mark.parametrize("change", LONG.values(), ids=LONG.keys())
def test_a_long_value_is_quoted_in_part(folder, change):
    report = check_dataset(write_rows(folder / "rows.jsonl", GOOD | change))
    [problem] = report.problems
    assert len(problem) - len(str(folder)) < 800
    assert "rows.jsonl:1: " in problem


def test_the_report_of_long_and_many_categories_stays_short(folder):
    rows = [GOOD | {"id": str(n), "category": f"{n}" + "x" * 4000} for n in range(60)]
    text = format_report(check_dataset(write_rows(folder / "rows.jsonl", *rows, GOOD | {"category": ""})))
    assert len(text) < 60 * 220
    assert "and 11 more" in text


def test_a_folder_without_tables_says_so_and_no_library_speaks(folder, capfd):
    (folder / "set").mkdir()
    write_rows(folder / "set" / "rows.jsonl", GOOD)
    with pytest.raises(HartError, match=r"set: the folder holds no \.parquet file; for JSONL, name the \.jsonl"):
        load_examples(folder / "set")
    (folder / "set" / "a.parquet").write_text("x")
    with pytest.raises(HartError, match="cannot be opened"):
        load_examples(folder / "set")
    assert capfd.readouterr().err == ""
