"""Other people's data sets to our rows: what comes out is loaded again and compared, what is dropped is named."""

import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from hart_lite.data.convert import convert, format_conversion
from hart_lite.data.dataset import load_examples, load_mme_realworld
from hart_lite.errors import HartError
from hart_lite.types import Box


def png(colour="red", size=(40, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "imgs/sub").mkdir(parents=True)
    (tmp_path / "imgs/a.png").write_bytes(png("red"))
    (tmp_path / "imgs/sub/a.png").write_bytes(png("blue", (60, 50)))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def write(path: Path, value) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def chat(*turns, **fields) -> dict:
    said = [{"from": speaker, "value": text} for speaker, text in zip(("human", "gpt") * 9, turns, strict=False)]
    return {"image": "a.png", "conversations": said} | fields


# --- conversations


def test_llava_pairs_become_rows(folder):
    records = [
        chat("<image>\nWhat is it?", "A car.", id="x"),
        chat("What colour?\n<image>", "red", "And the wheels?", "black", id="x"),
        chat("<image>\n<image>\nWhich is larger?", "the second", id="y", images=["a.png", "sub/a.png"], image=None),
        chat("Put <image> beside <image>: same?", "no", id="y", image=["a.png", "sub/a.png"]),
        chat("No marker?", "none", id=7),
    ]
    source = write(folder / "llava.json", records)
    done = convert(source, folder / "out", "llava", image_dir=folder / "imgs")
    assert (done.count, done.images, done.dropped) == (6, 2, ())
    assert listing(folder / "out") == ["rows.jsonl"]
    examples = load_examples(done.rows)
    assert [(e.id, e.question, e.answer) for e in examples] == [
        ("x", "What is it?", "A car."),
        ("x-1", "What colour?", "red"),
        ("x-2", "And the wheels?", "black"),
        ("y", "Which is larger?", "the second"),
        ("y#2", "Put image 1 beside image 2: same?", "no"),
        ("7", "No marker?", "none"),
    ]
    assert [image.size() for image in examples[3].images] == [(40, 30), (60, 50)]
    assert rows_of(done.rows)[0]["image"] == "../imgs/a.png"


def test_markers_are_numbered_through_the_conversation(folder):
    record = chat(
        "<image>What is it?", "a car", "Is it in <image> too?", "no", image=None, images=["a.png", "sub/a.png"]
    )
    done = convert(write(folder / "c.json", [record]), folder / "out", "sharegpt", image_dir=folder / "imgs")
    assert [row["question"] for row in rows_of(done.rows)] == ["What is it?", "Is it in image 2 too?"]


def test_messages_jsonl_and_system_turns(folder):
    messages = [("system", "Be brief."), ("user", "<image>What?"), ("assistant", "a car")]
    record = {"image": "imgs/a.png", "messages": [{"role": role, "content": text} for role, text in messages]}
    done = convert(write(folder / "c.jsonl", json.dumps(record) + "\n"), folder / "out", "sharegpt")
    (example,) = load_examples(done.rows)
    assert (example.id, example.question, example.answer) == ("1", "What?", "a car")


def test_conversations_in_a_table_bring_their_images(folder):
    said = [chat("<image>What?", "a car")["conversations"], chat("<image>Where?", "left")["conversations"]]
    images = [{"bytes": png("green"), "path": None}] * 2
    table = folder / "c.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"id": ["p", "q"], "image": images, "conversations": said}), table)
    done = convert(table, folder / "out", "llava")
    (name,) = {row["image"] for row in rows_of(done.rows)}
    assert listing(folder / "out") == [name, "rows.jsonl"]
    assert (folder / "out" / name).read_bytes() == png("green")  # as it was, not encoded anew
    assert [e.answer for e in load_examples(done.rows)] == ["a car", "left"]


BAD_CHATS = {
    "no image": (chat("What?", "it", image=None), "[0]: no image"),
    "a missing image": (chat("What?", "it", image="gone.png"), "[0] turn 1: {imgs}/gone.png: no such image file"),
    "a question left open": (chat("What?", "it", "And?"), "[0] turn 3: a question without an answer"),
    "an answer first": (
        chat(conversations=[{"from": "gpt", "value": "Hi"}, *chat("What?", "it")["conversations"]]),
        "[0] turn 1: an answer without a question",
    ),
    "two questions": (
        chat(conversations=[{"from": "human", "value": "What"}, *chat("What?", "it")["conversations"]]),
        "[0] turn 1: a question without an answer",
    ),
    "two answers": (
        chat(conversations=[*chat("What?", "it")["conversations"], {"from": "gpt", "value": "Or that."}]),
        "[0] turn 3: an answer without a question",
    ),
    "too many markers": (chat("<image><image>What?", "it"), "[0]: 2 times <image> for 1 images; once for each"),
    "a tool": (
        chat(conversations=[{"from": "tool", "value": "x"}]),
        "[0]: turn 1 is by 'tool'; human, user, gpt, assistant are read",
    ),
    "no turns": (chat(conversations=[]), "[0]: no turns; `conversations` of {{from, value}} or"),
    "a turn that is text": (chat(conversations=["What?"]), "[0]: turn 1: 'What?' given; texts in `from` and `value`"),
    "only a marker": (chat("<image>", "it"), "[0] turn 1: question: '' is empty"),
    "an empty answer": (chat("What?", " "), "[0] turn 1: answer: ' ' is empty"),
    "no object": ("What?", "[0]: 'What?': an object is needed"),
}


@pytest.mark.parametrize("name", BAD_CHATS)
def test_a_bad_conversation_is_named(folder, name):
    record, problem = BAD_CHATS[name]
    source = write(folder / "c.json", [record, chat("What?", "it", id="good")])
    done = convert(source, folder / "out", "llava", image_dir=folder / "imgs")
    assert "good" in [e.id for e in load_examples(done.rows)]
    assert len(done.dropped) == 1
    assert done.dropped[0].startswith(f"{source}" + problem.format(imgs=folder / "imgs"))
    assert (folder / "out/dropped.txt").read_text() == done.dropped[0] + "\n"
    assert done.dropped[0] in format_conversion(done)


def test_long_free_answers_are_said(folder, caplog):
    records = [chat("What?", "It is a red car that stands in front of a house."), chat("What?", "a car")]
    convert(write(folder / "c.json", records), folder / "out", "llava", image_dir=folder / "imgs")
    assert "1 of 2 answers have no choices and more than 10 words" in caplog.text


# --- MGPO

MGPO = {
    "prompt": "<image> Question: Which plate?",
    "question": "Which plate?",
    "choices": "The choices are listed below:\n(A) LB MA 864\n(B) none,\nor two\n(C) This image doesn't feature it.\n",
    "reward_model": {"ground_truth": "C", "style": "rule"},
    "data_source": "Perception/OCR with Complex Context",
    "image_path": "imgs/sub/a.png",
}


def test_mgpo_json(folder):
    other = MGPO | {"choices": ["left", "right"], "reward_model": None, "answer": "right", "id": "v", "image_path": ""}
    source = write(folder / "m.json", [MGPO, other | {"image": "imgs/a.png"}])
    first, second = load_examples(convert(source, folder / "out", "mgpo").rows)
    assert (first.id, first.question, first.answer) == ("0", "Which plate?", "C")
    assert first.choices == ("LB MA 864", "none,\nor two", "This image doesn't feature it.")
    assert first.category == "Perception/OCR with Complex Context"
    assert first.images[0].size() == (60, 50)
    assert (second.id, second.choices, second.answer) == ("v", ("left", "right"), "B")
    assert second.images[0].size() == (40, 30)


def test_mgpo_parquet_prefers_the_encoded_image(folder):
    row = MGPO | {"image": {"bytes": png("green", (20, 20)), "path": "x.png"}, "image_path": "/not/here.png"}
    table = folder / "m.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row, row | {"question": "Which street?"}]), table)
    done = convert(table, folder / "out", "mgpo")
    first, second = load_examples(done.rows)
    assert first.images[0].size() == (20, 20)
    assert first.images[0].key == second.images[0].key
    assert done.images == 1
    assert (first.answer, first.choices[0]) == ("C", "LB MA 864")


def test_mgpo_rows_without_labels_or_answer_are_named(folder):
    rows = [MGPO, MGPO | {"choices": "red or blue"}, MGPO | {"reward_model": {"style": "rule"}}]
    done = convert(write(folder / "m.json", rows), folder / "out", "mgpo")
    assert [line.partition("m.json")[2][:30] for line in done.dropped] == [
        "[1]: choices: 'red or blue' gi",
        "[2]: no answer; every row need",
    ]


def test_a_table_without_the_columns_is_refused(folder):
    table = folder / "m.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"x": ["1"]}), table)
    with pytest.raises(HartError, match=r"none of the columns id, image, images, .*; there are: x"):
        convert(table, folder / "out", "mgpo")


# --- COCO


def coco(*annotations, **parts) -> dict:
    images = [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}, {"id": 2, "file_name": "sub/a.png"}]
    categories = [{"id": 5, "name": "dog"}, {"id": 6, "name": "cat"}]
    return {"images": images, "annotations": list(annotations), "categories": categories} | parts


def converted(folder, data, **options):
    return convert(write(folder / "coco.json", data), folder / "out", "coco", image_dir=folder / "imgs", **options)


def test_coco_questions_and_captions(folder):
    done = converted(folder, coco(
        {"id": 9, "image_id": 1, "category_id": 5, "bbox": [10, 5, 20, 15], "question": "Which?", "answer": "pug"},
        {"id": 8, "image_id": 2, "bbox": [0, 0, 60.4, 50], "captions": ["The left one?", "Larger?"], "answer": "yes"},
        {"id": 7, "image_id": 1, "question": "How many?", "answer": "two", "choices": ["one", "two"]},
    ))  # fmt: skip
    examples = load_examples(done.rows)
    assert [(e.id, e.question, e.answer, e.boxes, e.category) for e in examples] == [
        ("9", "Which?", "pug", (Box(10, 5, 30, 20),), "dog"),  # [x, y, width, height] no more
        ("8-1", "The left one?", "yes", (Box(0, 0, 60, 50),), ""),  # cut at the edge
        ("8-2", "Larger?", "yes", (Box(0, 0, 60, 50),), ""),
        ("7", "How many?", "B", (), ""),
    ]


def test_one_question_for_all_joins_the_boxes_of_a_category(folder, caplog):
    boxes = [[1, 2, 3, 4], [10, 10, 5, 5], [20, 20, 5.25, 5.125]]
    annotations = [{"id": n, "image_id": 1, "category_id": 5, "bbox": box} for n, box in enumerate(boxes)]
    annotations.append({"id": 3, "image_id": 1, "category_id": 6, "bbox": [0, 0, 2, 1]})
    annotations.append({"id": 4, "image_id": 2, "category_id": 5, "bbox": [0, 0, 2, 1]})
    data = coco(*annotations)
    done = converted(folder, data, question="Where is the {category}?", category_answer=True)
    assert "the answer stands in the question" in caplog.text
    examples = load_examples(done.rows)
    assert [(e.id, e.question, e.answer) for e in examples] == [
        ("0", "Where is the dog?", "dog"),
        ("3", "Where is the cat?", "cat"),
        ("4", "Where is the dog?", "dog"),
    ]
    assert examples[0].boxes == (Box(1, 2, 4, 6), Box(10, 10, 15, 15), Box(20, 20, 25.25, 25.12))
    assert examples[1].boxes == (Box(0, 0, 2, 1),)


def test_the_category_answers_only_when_asked_to(folder):
    with pytest.raises(HartError, match=r"none of 1 rows can be used:\n  .*coco\.json annotations\[0\]: no answer"):
        converted(folder, coco({"id": 1, "image_id": 1, "category_id": 5}), question="What is it?")
    assert not (folder / "out").exists()


BAD_ANNOTATIONS = {
    "no image": ({"image_id": 3}, "image_id 3: there is no such image"),
    "an id that is text": ({"image_id": "1"}, "image_id '1': there is no such image"),
    "a box of three": ({"bbox": [1, 2, 3]}, r"bbox: \[1, 2, 3\] given; \[x, y, width, height\]"),
    "a box with NaN": ({"bbox": [1, 2, float("nan"), 4]}, "bbox: .* given"),
    "a box beyond float": ({"bbox": [1, 2, 10**400, 4.5]}, "bbox: .* given"),
    "a box outside": ({"bbox": [30, 20, 20, 5]}, r"bbox: \[30, 20, 20, 5\] is empty or leaves its image of 40 x 30"),
    "an empty box": ({"bbox": [3, 2, 0, 5]}, "is empty or leaves"),
    "no question": ({"question": None}, "no `question` and no `captions`"),
    "a list as answer": ({"answer": [3]}, r"answer: \[3\] given; text"),
    "no object": (3, "3 given; an object is needed"),
}


@pytest.mark.parametrize("name", BAD_ANNOTATIONS)
def test_a_bad_annotation_is_named(folder, name):
    change, problem = BAD_ANNOTATIONS[name]
    good = {"id": 1, "image_id": 1, "bbox": [1, 2, 3, 4], "question": "What?", "answer": "it"}
    bad = good | {"id": 2} | change if isinstance(change, dict) else change
    done = converted(folder, coco(good, bad))
    (line,) = done.dropped
    assert re.search(rf"coco\.json annotations\[1\]: .*{problem}", line)
    (row,) = rows_of(done.rows)  # an annotation that asks the same and is good keeps its row
    assert row["boxes"] == [[1, 2, 4, 6]]


def test_boxes_drawn_on_another_size_are_refused(folder):
    """A photo that its EXIF turns: boxes drawn on the pixels as stored would lie elsewhere on the upright picture."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(folder / "imgs/turned.jpg", exif=exif)
    images = [{"id": 1, "file_name": "turned.jpg", "width": 40, "height": 30}, {"id": 2, "file_name": "a.png"}]
    asks = {"bbox": [1, 2, 3, 4], "question": "What?", "answer": "it"}
    done = converted(folder, coco({"id": 1, "image_id": 1} | asks, {"id": 2, "image_id": 2} | asks, images=images))
    assert done.count == 1
    assert "the image is 30 x 40 pixels upright, its boxes are for 40 x 30" in done.dropped[0]


@pytest.mark.parametrize("data", [[], {}, {"images": []}, {"images": {}, "annotations": []}])
def test_what_is_no_coco_file_is_refused(folder, data):
    with pytest.raises(HartError, match="lists of `images` and `annotations`"):
        converted(folder, data)


@pytest.mark.parametrize("name", [None, 3, "a\0.png", ""])
def test_a_file_name_that_is_none(folder, name):
    images = [{"id": 1, "file_name": name}]
    with pytest.raises(HartError, match=r"annotations\[0\]: image: .* given; a path"):
        converted(folder, coco({"image_id": 1, "bbox": [1, 2, 3, 4], "question": "?", "answer": "x"}, images=images))


# --- CSV


def csv_text(*lines: str, head: str = "image,question,choices,answer,category") -> str:
    return "\n".join([head, *lines]) + "\n"


def test_csv_folder(folder, caplog):
    text = csv_text(
        'a.png,"What, then?",red| blue |green,blue,colour,me',
        "sub/a.png,Who?,,nobody,,me",
        'a.png,"Two\nlines?",left|right,A,,me',
        head="image,question,choices,answer,category,annotator",
    )
    (folder / "imgs/questions.csv").write_text("\ufeff" + text, encoding="utf-8")
    done = convert(folder / "imgs", folder / "out", "csv")
    first, second, third = load_examples(done.rows)
    assert (first.question, first.choices, first.answer) == ("What, then?", ("red", "blue", "green"), "B")
    assert (first.category, second.category) == ("colour", "")
    assert (second.question, second.choices, second.answer) == ("Who?", (), "nobody")
    assert (third.question, third.answer) == ("Two\nlines?", "A")
    assert second.images[0].size() == (60, 50)
    assert "columns that are not read: annotator" in caplog.text


def test_bad_csv_rows_are_named(folder):
    text = csv_text(
        "a.png,What?,a|b,a,", "a.png,Who,me?,a|b,a,x", "a.png,What?,a|b,c,", "a.png,What?", "gone.png,?,,a,"
    )
    source = write(folder / "imgs/q.csv", text)
    done = convert(source, folder / "out", "csv")
    expected = (":3: more cells than columns", ":4: The answer 'c' is not one", ":5: no answer", ":6: ")
    for line, problem in zip(done.dropped, expected, strict=True):
        assert line.startswith(f"{source}{problem}")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"image/question/answer\na.png/What?/it\n", r"none of the columns id, image, .*; there are: image/que"),
        (b"image,question\na.png,What?\n", "no column answer"),
        (b"", "its first line has: nothing"),
        (b"image,question,answer,answer\n", "column answer is there twice"),
        (b"image,question,answer\na.png,\xe9,x\n", "not UTF-8 at byte 28; save it as 'CSV UTF-8'"),
        (b'image,question,answer\na.png,"What" else,x\n', r"q\.csv: not CSV after line 1"),
        (b"image,question,answer\n", "q.csv: no rows"),
    ],
)
def test_what_is_no_csv_is_refused(folder, data, message):
    (folder / "imgs/q.csv").write_bytes(data)
    with pytest.raises(HartError, match=message):
        convert(folder / "imgs/q.csv", folder / "out", "csv")
    assert not (folder / "out").exists()


def test_the_csv_of_a_folder_has_to_be_the_only_one(folder):
    with pytest.raises(HartError, match=r"no \.csv file in the folder"):
        convert(folder / "imgs", folder / "out", "csv")
    for name in ("a.csv", "b.CSV"):
        (folder / "imgs" / name).write_text("image,question,answer\n")
    with pytest.raises(HartError, match=r"holds a\.csv, b\.CSV; name the one to read"):
        convert(folder / "imgs", folder / "out", "csv")


# --- the paper's training set


def mme(id, image, answer="A", text="What?"):
    choices = ["(A) red", "(B) blue", "(C) green", "(D) white", "(E) none"]
    row = {"Question_id": id, "Image": image, "Text": text, "Answer choices": choices, "Ground truth": answer}
    return row | {"Task": "Perception", "Subtask": "Monitoring"}


def test_mme_realworld_without_lite(folder):
    (folder / "imgs/b.png").write_bytes(png("green"))
    full = [mme("q/0", "a.png"), mme("q/1", "a.png"), mme("q/2", "b.png", "B"), mme("q/3", "gone.png")]
    source, lite = write(folder / "full.json", full), write(folder / "lite.json", [mme("q/0", "a.png")])
    done = convert(source, folder / "out", "mme_realworld", lite=lite, image_dir=folder / "imgs")
    assert [line.partition("full.json")[2] for line in done.dropped] == [
        f"[3]: {folder}/imgs/gone.png: no such image file",
        "[0]: in the Lite benchmark, or on one of its images",
        "[1]: in the Lite benchmark, or on one of its images",
    ]
    (example,) = load_examples(done.rows)
    write(source, full[:3])
    (expected,) = load_mme_realworld(source, lite, folder / "imgs")
    assert example.images[0].key == expected.images[0].key
    assert replace(example, images=()) == replace(expected, images=())


# --- the folder that is written


def test_images_are_named_from_where_the_rows_will_be(folder):
    (folder / "link").symlink_to(folder / "imgs")
    (folder / "deep/er").mkdir(parents=True)
    source = write(folder / "c.json", [chat("What?", "it", image="link/a.png")])
    done = convert(source, folder / "deep/er/out", "llava")
    assert rows_of(done.rows)[0]["image"] == "../../../imgs/a.png"
    assert load_examples(done.rows)[0].images[0].key == str(folder / "imgs/a.png")


def test_relative_names_hold_behind_a_link(folder, monkeypatch):
    """OUT behind a link to a deeper folder, named from within another one."""
    (folder / "deep/er").mkdir(parents=True)
    (folder / "short").symlink_to(folder / "deep/er")
    write(folder / "c.json", [chat("What?", "it", image="imgs/a.png")])
    monkeypatch.chdir(folder)
    done = convert("c.json", "short/out", "llava")
    assert load_examples(done.rows)[0].images[0].size() == (40, 30)


def test_copied_images_stand_on_their_own(folder):
    records = [chat("What?", "it"), chat("Who?", "it", image="sub/a.png"), chat("Why?", "it")]
    source = write(folder / "c.json", records)
    done = convert(source, folder / "out", "llava", image_dir=folder / "imgs", copy_images=True)
    assert listing(folder / "out") == ["images/a-2.png", "images/a.png", "rows.jsonl"]
    assert [row["image"] for row in rows_of(done.rows)] == ["images/a.png", "images/a-2.png", "images/a.png"]
    os.rename(folder / "out", folder / "moved")
    os.rename(folder / "imgs", folder / "gone")
    sizes = [e.images[0].size() for e in load_examples(folder / "moved/rows.jsonl")]
    assert sizes == [(40, 30), (60, 50), (40, 30)]


@pytest.mark.parametrize("out", ["there", "file", "no/folder/out", "rows.jsonl"])
def test_out_has_to_be_a_new_folder(folder, out):
    (folder / "there").mkdir()
    (folder / "file").write_text("mine")
    source = write(folder / "c.json", [chat("What?", "it")])
    with pytest.raises(HartError, match=r"already there|no folder|name a folder"):
        convert(source, folder / out, "llava", image_dir=folder / "imgs")
    assert (folder / "file").read_text() == "mine"


def test_nothing_is_left_of_a_conversion_that_fails(folder, monkeypatch):
    source = write(folder / "c.json", [chat("What?", "it"), chat("Who?", "it", image="sub/a.png")])
    before = listing(folder)
    copied = []

    def full_disk(source, target):
        if copied:
            raise OSError(28, "No space left on device", str(target))
        copied.append(target)

    monkeypatch.setattr("shutil.copyfile", full_disk)
    with pytest.raises(OSError, match="No space left"):
        convert(source, folder / "out", "llava", image_dir=folder / "imgs", copy_images=True)
    assert listing(folder) == before
    assert not any(path.name.startswith(".") for path in folder.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{oops", "not JSON"),
        ('{"a": 1}\n{"a": 2}\n', "none of 2 rows can be used:\n.*c.json:1: no turns"),
        ('{"a": 1}', "none of 1 rows can be used:\n.*c.json:1: no turns"),
        ("[]", "c.json: no rows"),
        ("[" * 100_000, "not JSON"),
        ('["\\ud800"]', "not JSON"),
    ],
)
def test_a_source_that_cannot_be_read_writes_nothing(folder, content, message):
    with pytest.raises(HartError, match=message):
        convert(write(folder / "c.json", content), folder / "out", "llava")
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("yolo", {}, "Unknown layout 'yolo'; allowed: rows, llava, sharegpt, mgpo, coco, csv, mme_realworld"),
        ("llava", {"question": "Where?"}, "--question is for coco, not for llava"),
        ("csv", {"category_answer": True}, "--category-answer is for coco, not for csv"),
        ("coco", {"lite": "lite.json"}, "--lite is for mme_realworld, not for coco"),
        ("coco", {"split": "train"}, "--split is for rows, llava, sharegpt, mgpo, not for coco"),
        ("mme_realworld", {}, "mme_realworld needs --lite"),
        ("llava", {"split": "train"}, r"--split train \(data.split\) is for parquet and Hub"),
        ("llava", {}, "c.json: cannot be read: No such file"),
    ],
)
def test_what_makes_no_sense_is_refused(folder, format, options, message):
    with pytest.raises(HartError, match=message):
        convert(folder / "c.json", folder / "out", format, **options)
    assert not (folder / "out").exists()


def test_the_report_shows_the_first_dropped_rows(folder):
    source = write(folder / "c.json", [chat("What?", "it"), *[chat("What?", "it", image=f"{n}.png") for n in range(9)]])
    done = convert(source, folder / "out", "llava", image_dir=folder / "imgs")
    text = format_conversion(done)
    assert text.splitlines()[0] == f"{folder}/out/rows.jsonl: 1 rows, 1 images, from {source}"
    assert "9 dropped, all named in" in text
    assert text.count("no such image file") == 5
    assert text.endswith("... and 4 more")
    assert len((folder / "out/dropped.txt").read_text().splitlines()) == 9


def test_a_marker_flood_takes_linear_time(folder):
    record = chat("x<image>" * 200_000, "it")
    with pytest.raises(HartError, match=r"200000 times <image> for 1 images"):
        convert(write(folder / "c.json", [record]), folder / "out", "llava", image_dir=folder / "imgs")
