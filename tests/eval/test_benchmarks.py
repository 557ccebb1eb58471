"""The official layouts to examples: every field, every kind of bad row, and that nothing is decoded or guessed."""

import json
from collections import Counter

import pytest
from benchmark_files import (
    b64,
    hrbench_rows,
    jpeg,
    mme_row,
    mme_table_row,
    mmstar_row,
    one,
    problem,
    read,
    treebench_row,
    viscot_rows,
    write_image,
    write_jsonl,
    write_mme,
    write_parquet,
    write_tsv,
    write_viscot,
    write_vstar,
)

from hart_lite.data.images import content_key
from hart_lite.errors import HartError
from hart_lite.eval.benchmarks.listing import listing
from hart_lite.eval.benchmarks.registry import BENCHMARKS, find
from hart_lite.types import Box

pytestmark = pytest.mark.usefixtures("own_cache")


# --- the registry


def test_registry_and_listing():
    names = ["mme-realworld-lite", "treebench", "vstar", "hrbench4k", "hrbench8k", "mmstar", "visual-cot"]
    assert list(BENCHMARKS) == [*names, "mme-realworld", "toy", "rows", "held-out"]
    assert all(find(name).name == name for name in BENCHMARKS)
    sizes = {name: benchmark.questions for name, benchmark in BENCHMARKS.items()}
    assert sizes["mme-realworld-lite"] == 1919 and sizes["hrbench8k"] == 800 and sizes["vstar"] == 191
    with pytest.raises(
        HartError, match=r"unknown benchmark 'vstarr' \(did you mean 'vstar'\?\); allowed: mme-realworld-l"
    ):
        find("vstarr")
    text = listing()
    for benchmark in BENCHMARKS.values():
        assert f"{benchmark.name}  {benchmark.title}" in text
        assert f"{benchmark.questions:,}" in text if benchmark.questions else "as many as there are" in text
        assert f"huggingface.co/datasets/{benchmark.hub}" in text if benchmark.hub else "none to download" in text
    assert "no redistribution" in text and "likelihoods" in text and "1,919" in text
    assert max(map(len, text.splitlines())) <= 120


# --- MME-RealWorld


def test_mme_realworld_json(tmp_path):
    rows = [
        mme_row(0),
        mme_row(1, Task="Reasoning", Subtask="Monitoring", Image="monitoring_images/b.jpg", **{"Ground truth": "E"}),
        mme_row(2, Subtask="OCR with Complex Context"),
    ]
    path = write_mme(tmp_path, rows)
    (first, second, third), bad = read("mme-realworld-lite", path)
    assert not bad
    assert first.question == "What is to the left of the car?"
    assert first.choices == ("A bus", "A truck", "A tree", "Nothing", "The image does not feature the object.")
    assert (first.answer, first.category, first.id) == ("B", "Perception/AD", rows[0]["Question_id"])
    assert (second.answer, second.category, third.category) == ("E", "Reasoning/MO", "Perception/OCR")
    assert first.images[0].key == third.images[0].key != second.images[0].key
    assert first.images[0].size() == (120, 80)
    assert read("mme-realworld-lite", tmp_path)[0] == [first, second, third]  # by its folder
    prompt = find("mme-realworld-lite").prompt(first)
    assert prompt == (
        "What is to the left of the car? The choices are listed below:\n(A) A bus\n(B) A truck\n(C) A tree\n"
        "(D) Nothing\n(E) The image does not feature the object.\nSelect the best answer to the above multiple-choice "
        "question based on the image. Respond with only the letter (A, B, C, D, or E) of the correct option. \n"
        "The best answer is:"
    )


def test_mme_realworld_sub_tasks_are_the_papers(tmp_path):
    names = ("Autonomous_Driving", "Monitoring", "OCR with Complex Context", "Remote Sensing", "Diagram and Table")
    tasks = [(task, name) for task in ("Perception", "Reasoning") for name in names]
    tasks.remove(("Reasoning", "Remote Sensing"))
    rows = [mme_row(n, Task=task, Subtask=name) for n, (task, name) in enumerate(tasks)]
    examples, _ = read("mme-realworld-lite", write_mme(tmp_path, rows))
    assert [example.category for example in examples] == [
        *("Perception/AD", "Perception/MO", "Perception/OCR", "Perception/RS", "Perception/DT"),
        *("Reasoning/AD", "Reasoning/MO", "Reasoning/OCR", "Reasoning/DT"),
    ]
    path = write_mme(tmp_path, [mme_row(Task="Reasoning", Subtask="Remote Sensing")])
    assert "unknown category 'Reasoning/Remote Sensing'; known: " in problem("mme-realworld-lite", path)


def test_mme_realworld_numbers_repeated_ids_whatever_images_are_there(tmp_path):
    rows = [mme_row(0, Image="missing.jpg"), mme_row(0), mme_row(1), mme_row(0, Text="Another?")]
    examples, bad = read("mme-realworld", write_mme(tmp_path, rows, "MME_RealWorld.json"))
    id = rows[0]["Question_id"]
    assert [example.id for example in examples] == [f"{id}#2", rows[2]["Question_id"], f"{id}#3"]
    assert [row.where for row in bad] == ["MME_RealWorld.json[0]"]
    assert "no image 'missing.jpg' under" in bad[0].problem


def test_mme_realworld_keeps_the_wording_of_a_letter_given_twice(tmp_path):
    choices = ["(A) fast", "(B) right", "(C) straight", "(D) not moving", "(D) None of the above", "(E) All are wrong."]
    benchmark = find("mme-realworld-lite")
    example = one("mme-realworld-lite", write_mme(tmp_path, [mme_row(**{"Answer choices": choices})]))
    assert example.choices == ("fast", "right", "straight", "not moving", "All are wrong.")
    assert "\n(D) not moving\n(D) None of the above\n(E) All are wrong.\nSelect" in benchmark.prompt(example)
    example = one(
        "mme-realworld-lite", write_mme(tmp_path, [mme_row(**{"Answer choices": choices, "Ground truth": "D"})])
    )
    assert benchmark.official("none of the above", example)  # the official script sees all six


def test_mme_realworld_tables(tmp_path):
    table = [mme_table_row(3), mme_table_row(4, jpeg(2, (50, 40)), category="Reasoning/Autonomous_Driving")]
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", table[:1])
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", table[1:])
    (first, second), bad = read("mme-realworld-lite", tmp_path)
    assert not bad
    assert (first.id, first.question, first.answer) == ("3", "What is written on the sign?", "C")
    assert (first.category, second.category) == ("Perception/OCR", "Reasoning/AD")
    assert first.choices == ("STOP", "SLOW", "GO", "EXIT", "The image does not feature the object.")
    assert [example.images[0].size() for example in (first, second)] == [(120, 80), (50, 40)]
    assert first.images[0].key == content_key(jpeg(1))
    tsv = {**mme_table_row(3), "image": b64(jpeg(1))}
    del tsv["bytes"]
    options = "\n".join(tsv["multi-choice options"])
    as_list = str(tsv["multi-choice options"])  # as VLMEvalKit's table of Lite has them
    for text in (options, f"The choices are listed below:\n{options}", as_list):
        example = one("mme-realworld-lite", write_tsv(tmp_path / "lite.tsv", [tsv | {"multi-choice options": text}]))
        assert (example.choices, example.question, example.answer) == (first.choices, first.question, "C")
        assert find("mme-realworld-lite").prompt(example) == find("mme-realworld-lite").prompt(first)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"Ground truth": "F"}, "The answer 'F' is not one of the choices: A='A bus'"),
        ({"Ground truth": ""}, "Ground truth: '' given; text is needed"),
        ({"Text": "  "}, "Text: '  ' given; text is needed"),
        ({"Text": None}, "Text: None given"),
        ({"Subtask": "Cooking"}, "unknown category 'Perception/Cooking'"),
        ({"Image": "gone.jpg"}, "no image 'gone.jpg' under"),
        ({"Image": "x" * 5000}, "no image 'xxx"),
        ({"Image": "a\0b"}, "no image 'a\\x00b' under"),
        ({"Image": 7}, "image: 7 given; a path is needed"),
        ({"Answer choices": ["(A) a", "(C) c"]}, "labels found: 'A, C'; A, B, .. in order"),
        ({"Answer choices": ["(B) b", "(A) a"]}, "labels found: 'B, A'"),
        ({"Answer choices": ["(A) a", "b"]}, "choices: 'b' has no label such as (A)"),
        ({"Answer choices": ["(A) a", "(B) "]}, "choices: B has a label but no text"),
        ({"Answer choices": "A or B"}, "choices: 'A or B' given; a list"),
        ({"Answer choices": ["(A) a"]}, "labels found: 'A'"),
    ],
)
def test_mme_realworld_bad_rows(tmp_path, fields, message):
    path = write_mme(tmp_path, [mme_row(0), mme_row(1, **fields), mme_row(2)])
    examples, (bad,) = read("mme-realworld-lite", path)
    assert len(examples) == 2
    assert bad.where == "MME-RealWorld-Lite.json[1]" and message in bad.problem
    assert len(bad.problem) < 600


def test_mme_realworld_row_without_a_field(tmp_path):
    row = mme_row(1)
    del row["Ground truth"]
    assert problem("mme-realworld-lite", write_mme(tmp_path, [mme_row(0), row])).endswith("[1]: no Ground truth")
    assert "object with Question_id" in problem("mme-realworld-lite", write_mme(tmp_path, [mme_row(0), "x"]))


# --- TreeBench


def test_treebench(tmp_path):
    twelve = "\n".join(f"{letter}. thing {letter}" for letter in "ABCDEFGHIJKL")
    rows = [
        treebench_row(0),
        treebench_row(1, answer="L", category="Reasoning/Ordering", **{"multi-choice options": twelve}),
        treebench_row(2, target_instances="[[0, 0, 20.5, 30]]"),
        treebench_row(3, target_instances="[(1, 2, 3, 4)]"),
        treebench_row(4, target_instances="[1, 2, 3, 4]"),
        treebench_row(5, target_instances="[[-5, 90, 250, 130]]"),
    ]
    examples, bad = read("treebench", write_tsv(tmp_path / "TreeBench.tsv", rows))
    assert not bad
    first = examples[0]
    assert (first.id, first.answer, first.category) == ("0", "C", "Perception/Attributes")
    assert first.choices == ("red", "blue", "green", "white")
    assert first.boxes == (Box(10, 20, 50, 60), Box(100, 0, 199, 99))
    assert (examples[1].choices[11], examples[1].answer) == ("thing L", "L")
    assert examples[2].boxes == (Box(0, 0, 20.5, 30),)
    assert examples[3].boxes == examples[4].boxes == (Box(1, 2, 3, 4),)
    assert examples[5].boxes == (Box(0, 90, 200, 100),)  # clipped to 200 x 100
    assert find("treebench").prompt(first) == (
        "What is the colour of the kite? Options:\nA. red\nB. blue\nC. green\nD. white\nSelect the best answer to the "
        "above multiple-choice question based on the image. After the reasoning process, respond with only the letter "
        "of the correct option between <answer> and </answer>."
    )


OCR = "What is the number plate?\nA. AB 1\nB. CD 2\nC. EF 3\nD. none"


@pytest.mark.parametrize("options", ["A. AB 1\nB. CD 2\nC. EF 3\nD. none", ""])
def test_treebench_ocr_questions_carry_their_options(tmp_path, options):
    row = treebench_row(0, question=OCR, category="Perception/OCR", **{"multi-choice options": options})
    example = one("treebench", write_tsv(tmp_path / "TreeBench.tsv", [row]))
    assert example.question == "What is the number plate?"  # what a turn without choices shows
    assert example.choices == ("AB 1", "CD 2", "EF 3", "none")
    prompt = find("treebench").prompt(example)
    assert prompt.startswith(OCR + (f" Options:\n{options}\nSelect" if options else "\nSelect"))


def test_treebench_options_in_columns(tmp_path):
    row = treebench_row(0, A="red", B="blue", C="green", D="", E="") | {"multi-choice options": ""}
    example = one("treebench", write_tsv(tmp_path / "TreeBench.tsv", [row]))
    assert example.choices == ("red", "blue", "green") and example.answer == "C"


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"answer": "E"}, "The answer 'E' is not one of the choices"),
        ({"category": "OCR"}, "unknown category 'OCR'; known: Perception/Attributes"),
        ({"question": ""}, "question: '' given"),
        ({"target_instances": "__import__('os').system('touch /tmp/x')"}, 'target_instances: "__import__'),
        ({"target_instances": "[" * 50_000}, "target_instances: '[[["),
        ({"target_instances": "[[1, 2, 3]]"}, "boxes: [1, 2, 3] given; [x1, y1, x2, y2] is needed"),
        ({"target_instances": "[[50, 2, 30, 40]]"}, "boxes: [50, 2, 30, 40] holds nothing of its image of 200 x 100"),
        ({"target_instances": "[[300, 2, 330, 40]]"}, "holds nothing of its image"),
        ({"target_instances": "[[1, 2, NaN, 4]]"}, "boxes: [1, 2, nan, 4] given"),
        ({"target_instances": '{"a": 1}'}, "boxes: {'a': 1} given; a list"),
        ({"target_instances": ""}, "target_instances: '' given"),
        ({"multi-choice options": ""}, "choices: none in multi-choice options"),
        ({"multi-choice options": "red or blue"}, "choices: labels found: 'none'"),
        ({"multi-choice options": "A. red\nC. blue"}, "choices: labels found: 'A, C'"),
        ({"multi-choice options": "A. red\nB. "}, "choices: B has a label but no text"),
        ({"multi-choice options": "Pick: A. red\nB. blue"}, "'Pick:' stands before the choices"),
        ({"index": ""}, "index: '' given"),
        ({"index": 0}, "id '0' is taken by a row before"),
    ],
)
def test_treebench_bad_rows(tmp_path, fields, message):
    rows = [treebench_row(0), treebench_row(1) | fields, treebench_row(2)]
    examples, (bad,) = read("treebench", write_tsv(tmp_path / "TreeBench.tsv", rows))
    assert [example.id for example in examples] == ["0", "2"]
    assert bad.where == "TreeBench.tsv:6" and message in bad.problem  # four lines a row


# --- V*


def test_vstar(tmp_path):
    (first, second), bad = read("vstar", write_vstar(tmp_path))
    assert not bad
    assert (first.id, first.question, first.answer) == ("0", "What is the material of the glove?", "C")
    assert first.choices == ("rubber", "cotton", "kevlar", "leather")
    assert (first.category, second.category) == ("direct_attributes", "relative_position")
    assert first.boxes == (Box(20, 10, 50, 50),)  # x, y, width, height in the file
    assert second.boxes == (Box(0, 0, 10, 10), Box(100, 60, 120, 80))  # clipped to 120 x 80
    assert (second.choices, second.answer) == (("right", "left"), "A")
    assert (
        find("vstar").prompt(first)
        == json.loads((tmp_path / "test_questions.jsonl").read_text().split("\n")[0])["text"]
    )
    assert read("vstar", tmp_path / "test_questions.jsonl")[0] == [first, second]


def test_vstar_without_its_questions_never_shows_the_right_option_first_as_a_rule(tmp_path):
    for n in range(40):
        write_image(tmp_path / "direct_attributes" / f"sa_{n}.jpg", n)
        beside = {
            "question": "Of what?",
            "options": ["right", "b", "c", "d"],
            "bbox": [[1, 1, 5, 5]],
            "target_object": [],
        }
        (tmp_path / "direct_attributes" / f"sa_{n}.json").write_text(json.dumps(beside))
    examples, bad = read("vstar", tmp_path)
    assert not bad and len(examples) == 40
    assert all(example.choices["ABCD".index(example.answer)] == "right" for example in examples)
    assert all(sorted(example.choices) == ["b", "c", "d", "right"] for example in examples)
    letters = Counter(example.answer for example in examples)
    assert set(letters) == set("ABCD") and max(letters.values()) < 20
    assert all(example.id.startswith("shuffled/direct_attributes/sa_") for example in examples)  # the record of it
    assert read("vstar", tmp_path)[0] == examples
    (tmp_path / "direct_attributes" / "sa_0.json").unlink()  # each question's order is its own
    assert read("vstar", tmp_path)[0] == examples[1:]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"options": ["red"]}, "options: 1 given; 2 to 26 are allowed"),
        ({"options": ["x"] * 27}, "options: 27 given"),
        ({"options": ["red", 2]}, "options: ['red', 2] given; a list of texts is needed"),
        ({"question": " "}, "question: ' ' given"),
    ],
)
def test_vstar_bad_rows_without_its_questions(tmp_path, fields, message):
    write_vstar(tmp_path, questions=False)
    path = tmp_path / "direct_attributes" / "sa_4690.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    assert message in problem("vstar", tmp_path)
    path.with_suffix(".jpg").unlink()
    assert "direct_attributes/sa_4690.json: " in problem("vstar", tmp_path)
    assert "no such image file" in problem("vstar", tmp_path)


def test_vstar_on_one_line_and_without_boxes(tmp_path):
    write_vstar(tmp_path, questions=False)
    (tmp_path / "direct_attributes" / "sa_4690.json").unlink()
    row = {"image": "direct_attributes/sa_4690.jpg", "text": "Of what? (A) wood (old) (B) metal", "question_id": 5}
    row |= {"category": "direct_attributes", "label": "B"}
    example = one("vstar", write_jsonl(tmp_path / "test_questions.jsonl", [row]))
    assert (example.id, example.choices, example.boxes) == ("5", ("wood (old)", "metal"), ())
    suffix = "\nAnswer with the option's letter from the given choices directly."
    assert find("vstar").prompt(example) == row["text"] + suffix


def test_vstar_parquet(tmp_path):
    row = {"text": "Of what?\n(A) wood\n(B) metal", "category": "direct_attributes", "label": "B", "question_id": "5"}
    row["image"] = {"bytes": jpeg(3), "path": "a.jpg"}
    example = one("vstar", write_parquet(tmp_path / "data" / "test-00000.parquet", [row]).parent.parent)
    assert (example.answer, example.images[0].size()) == ("B", (120, 80))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"label": "E"}, "The answer 'E' is not one of the choices"),
        ({"category": "GPT4V-hard"}, "unknown category 'GPT4V-hard'"),
        ({"text": "(A) red (B) blue"}, "holds choices but no question"),
        ({"text": "Of what?"}, "choices: labels found: 'none'"),
        ({"text": "Of what? (A) red (A) blue"}, "choices: labels found: 'A, A'"),
        ({"image": "direct_attributes/gone.jpg"}, "no image 'direct_attributes/gone.jpg'"),
        ({"question_id": None}, "question_id: None given"),
    ],
)
def test_vstar_bad_rows(tmp_path, fields, message):
    write_vstar(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "test_questions.jsonl").read_text().splitlines()]
    write_jsonl(tmp_path / "test_questions.jsonl", ["{oops", rows[0] | fields, rows[1]])
    examples, (broken, bad) = read("vstar", tmp_path)
    assert [example.id for example in examples] == ["1"]
    assert broken.where == "test_questions.jsonl:1" and "not JSON" in broken.problem
    assert bad.where == "test_questions.jsonl:2" and message in bad.problem


@pytest.mark.parametrize(
    "beside, message",
    [
        ("{oops", "sa_4690.json: not JSON"),
        ("[]", "sa_4690.json: an object with question, options, bbox"),
        ('{"question": "?", "options": []}', "sa_4690.json: no column bbox"),
        ('{"question": "?", "options": [], "bbox": [[1, 2, 3]]}', "bbox: [[1, 2, 3]] given; a list of [x, y, width"),
        ('{"question": "?", "options": [], "bbox": [["1", 2, 3, 4]]}', "bbox: [['1'"),
        ('{"question": "?", "options": [], "bbox": [[1, 2, 0, 4]]}', "holds nothing of its image"),
        ('{"question": "?", "options": [], "bbox": [[1, 2, NaN, 4]]}', "given; a list of [x, y, width"),
    ],
)
def test_vstar_boxes_that_are_none(tmp_path, beside, message):
    write_vstar(tmp_path)
    (tmp_path / "direct_attributes" / "sa_4690.json").write_text(beside)
    assert message in problem("vstar", tmp_path)


# --- HR-Bench


@pytest.mark.parametrize("size", ["4k", "8k"])
@pytest.mark.parametrize("layout", ["tsv", "parquet"])
def test_hrbench(tmp_path, size, layout):
    write = write_tsv if layout == "tsv" else write_parquet
    path = write(tmp_path / f"hr_bench_{size}.{layout}", hrbench_rows(3))
    examples, bad = read(f"hrbench{size}", path)
    assert not bad and len(examples) == 12 and len({example.id for example in examples}) == 12
    assert Counter(example.category for example in examples) == {"single": 8, "cross": 4}
    assert all(example.choices["ABCD".index(example.answer)].startswith("red") for example in examples)
    assert Counter(example.answer for example in examples) == {letter: 3 for letter in "ABCD"}
    assert len({example.images[0].key for example in examples}) == 3  # one cluster a question
    assert read(f"hrbench{size}", tmp_path)[0] == examples
    assert examples[1].images[0].load().size == (160, 90)
    assert find(f"hrbench{size}").prompt(examples[1]) == (
        "Question: What is the colour of car 0?\nOptions:\nA. blue 0\nB. green 0\nC. white 0\nD. red 0\n"
        "Please select the correct answer from the options above. \n"
    )


def test_hrbench_ids_differ_between_rotations_that_share_an_index(tmp_path):
    rows = [row | {"index": row["index"] // 4} for row in hrbench_rows(2)]
    examples, bad = read("hrbench4k", write_tsv(tmp_path / "a.tsv", rows))
    assert [example.id for example in examples] == [f"{n}@{turn}" for n in range(2) for turn in range(4)] and not bad
    (tmp_path / "a.tsv").unlink()
    examples, bad = read("hrbench4k", write_tsv(tmp_path / "a4k.tsv", [*rows, rows[0]]))
    assert len(examples) == 8 and "id '0@0' is taken" in bad[0].problem


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"answer": "E"}, "The answer 'E' is not one of the choices"),
        ({"category": "both"}, "unknown category 'both'; known: single, cross"),
        ({"D": ""}, "D: '' given; text is needed"),
        ({"question": " "}, "question: ' ' given"),
        ({"cycle_category": ""}, "cycle_category: '' given"),
    ],
)
def test_hrbench_bad_rows(tmp_path, fields, message):
    rows = hrbench_rows(1)
    rows[2] |= fields
    examples, (bad,) = read("hrbench4k", write_tsv(tmp_path / "hr_bench_4k.tsv", rows))
    assert len(examples) == 3 and bad.where == "hr_bench_4k.tsv:4" and message in bad.problem


def test_damaged_images_in_parquet(tmp_path):
    rows = hrbench_rows(1)
    image = rows[0]["image"]
    rows[1]["image"], rows[2]["image"] = image[: len(image) // 8 * 4], image[:-3]
    rows[3]["image"] = None
    examples, bad = read("hrbench4k", write_parquet(tmp_path / "hr_bench_4k.parquet", rows))
    assert [example.id for example in examples] == ["0@0"]
    assert [row.where for row in bad] == [f"hr_bench_4k.parquet[{n}]" for n in (1, 2, 3)]
    assert "image: '" in bad[1].problem and "is not base64" in bad[1].problem
    assert bad[2].problem == "image: the cell is empty"


# --- MMStar


def test_mmstar(tmp_path):
    math = "Hint: answer with the letter, e.g., A, B, C, D, at the end.\nQuestion: Which?\nChoices:\n(A) 40.7\n(B) 74"
    rows = [
        mmstar_row(0),
        mmstar_row(1, question=math, category="math"),
        mmstar_row(2, question="Options: A: x, B: y", category="math"),
        mmstar_row(3, question="What is it?", category="math"),
    ]
    (first, second), bad = read("mmstar", write_parquet(tmp_path / "mmstar.parquet", rows))
    assert (first.question, first.answer, first.category) == ("What is shown?", "B", "coarse perception")
    assert first.choices == ("A cat, sitting", "A dog.", "3", "none")
    assert second.choices == ("40.7", "74") and second.question.endswith("Question: Which?")
    suffix = "\nAnswer with the option's letter from the given choices directly"
    assert [find("mmstar").prompt(example) for example in (first, second)] == [
        rows[0]["question"] + suffix,
        math + suffix,
    ]
    assert [row.where for row in bad] == ["mmstar.parquet[2]", "mmstar.parquet[3]"]
    assert "holds options but no question" in bad[0].problem and "labels found: 'none'" in bad[1].problem
    tsv = [{**row, "image": b64(jpeg(n))} for n, row in enumerate(rows[:2])]
    (from_tsv, _), _ = read("mmstar", write_tsv(tmp_path / "MMStar.tsv", tsv))
    assert (from_tsv.choices, from_tsv.images[0].key) == (first.choices, first.images[0].key)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"answer": "E"}, "The answer 'E' is not one of the choices"),
        ({"category": "perception"}, "unknown category 'perception'; known: coarse perception"),
        ({"image": {"bytes": jpeg(0)[:500], "path": None}}, "mmstar.parquet[1] image"),
        ({"image": {"bytes": None, "path": "a.jpg"}}, "image: the cell is empty"),
    ],
)
def test_mmstar_bad_rows(tmp_path, fields, message):
    path = write_parquet(tmp_path / "mmstar.parquet", [mmstar_row(0), mmstar_row(1, **fields)])
    examples, (bad,) = read("mmstar", path)
    assert len(examples) == 1 and bad.where == "mmstar.parquet[1]" and message in bad.problem


# --- Visual-CoT


def test_visual_cot(tmp_path):
    gqa = [
        viscot_rows("gqa", 7, "What are the branches in front of?", "window", [21, 34, 42, 79]),
        viscot_rows("gqa", 8, "Is it red?", "Yes", [0, 0, 20, 20]),
        viscot_rows("gqa", 9, "Is it blue?", "no.", [0, 0, 20, 20]),
        viscot_rows("gqa", 10, "What is far out?", "a cat", [100, -3, 150, 90]),
        viscot_rows("gqa", 11, "What is nothing?", "a dog", [50, 60, 50, 70]),
        viscot_rows("gqa", 12, "How many?", "No one", [50, 60, 60, 70]),
    ]
    write_viscot(tmp_path, "gqa", gqa)
    write_viscot(tmp_path, "sroie", [viscot_rows("sroie", 7, "What is the total?", "18.70", [1.0, 2.0, 30.0, 40.5])])
    examples, (bad,) = read("visual-cot", tmp_path)
    assert [example.id for example in examples] == ["gqa/7", "gqa/10", "gqa/12", "sroie/7"]
    first = examples[0]
    assert (first.question, first.answer, first.choices) == ("What are the branches in front of?", "window", ())
    assert (first.boxes, first.category) == ((Box(21, 34, 42, 79),), "gqa")
    assert examples[1].boxes == (Box(100, 0, 120, 80),)  # clipped
    assert examples[3].boxes == (Box(1, 2, 30, 40.5),)
    assert bad.where == "gqa.jsonl:5" and "holds nothing of its image" in bad.problem
    assert find("visual-cot").prompt(first) == first.question
    assert [example.id for example in read("visual-cot", tmp_path / "benchmark_det" / "sroie.jsonl")[0]] == ["sroie/7"]


def test_visual_cot_in_the_layout_of_its_repository(tmp_path):
    write_viscot(tmp_path / "viscot_benchmark", "gqa", [viscot_rows("gqa", 1, "What?", "a cat", [0, 0, 9, 9])])
    (tmp_path / "playground" / "data").mkdir(parents=True)
    (tmp_path / "viscot_benchmark" / "cot").rename(tmp_path / "playground" / "data" / "cot")
    assert one("visual-cot", tmp_path).id == "gqa/1"


def test_visual_cot_takes_the_image_name_of_either_file(tmp_path):
    det, told = viscot_rows("visual7w", 1, "Where?", "In a field.", [0, 0, 9, 9])
    write_viscot(tmp_path, "visual7w", [(det, told | {"image": ["cot/v7w/1.jpg", "cot/v7w/1.jpg###[0, 0, 9, 9]"]})])
    (tmp_path / "cot" / "visual7w").rename(tmp_path / "cot" / "v7w")
    assert one("visual-cot", tmp_path).images[0].path.parent.name == "v7w"


def test_visual_cot_bad_rows(tmp_path):
    good = viscot_rows("gqa", 0, "What?", "a cat", [0, 0, 9, 9])
    pairs = {
        n: viscot_rows("gqa", n, "What?", "a cat", [0, 0, 9, 9]) for n in range(1, 8)
    }  # one fault each, in either file
    pairs[1][0]["width"] = 999
    pairs[2][0]["expression"] = "Who?"
    pairs[3][1]["question_id"] = 333
    pairs[4][1]["conversations"][-1]["value"] = " "
    pairs[5][1]["conversations"] = "none"
    pairs[6][0]["bbox"] = None
    pairs[7][0]["expression"] = ""
    write_viscot(tmp_path, "gqa", [good, *pairs.values()])
    write_viscot(tmp_path, "cooking", [viscot_rows("cooking", 1, "What?", "soup", [0, 0, 9, 9])])
    examples, bad = read("visual-cot", tmp_path)
    assert [example.id for example in examples] == ["gqa/0"]
    problems = {row.where: row.problem for row in bad}
    assert list(problems) == ["cooking.jsonl", *(f"gqa.jsonl:{n}" for n in range(2, 9))]
    wanted = [
        "unknown sub-task; known: cub",
        "the image has 120 x 80 pixels, the row says 999 x 80",
        "question_id: 2 asks 'Who?' here and 'What?' in gqa.json",
        "question_id: 3 is not in benchmark/gqa.json, which has the answers",
        "gqa.json[4]: conversations: ",
        "gqa.json[5]: conversations: 'none' given",
        "boxes: None given",
        "expression: '' given",
    ]
    assert all(part in text for part, text in zip(wanted, problems.values(), strict=True))
    (tmp_path / "benchmark" / "gqa.json").unlink()
    with pytest.raises(HartError, match=r"gqa\.json: cannot be read"):
        list(BENCHMARKS["visual-cot"].read(str(tmp_path / "benchmark_det" / "gqa.jsonl")))
