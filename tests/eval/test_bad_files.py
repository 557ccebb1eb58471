"""Benchmark files made to lead astray: names that leave the folder, columns twice, null where a path should be."""

import pyarrow
import pyarrow.parquet
import pytest
from benchmark_files import (
    E_CHOICE,
    mme_row,
    mmstar_row,
    read,
    treebench_row,
    write_image,
    write_mme,
    write_tsv,
    write_vstar,
)
from evaluations import typed

from hart_lite.errors import HartError
from hart_lite.eval.benchmarks.registry import BENCHMARKS
from hart_lite.eval.benchmarks.scores import scores


@pytest.mark.parametrize("image", ["../photo.jpg", "imgs/../../photo.jpg", "{outside}"])
def test_a_name_that_leaves_the_folder_is_a_bad_row(tmp_path, image):
    """The image is there and whole: what is refused is that a questions file picks it."""
    outside = write_image(tmp_path / "photo.jpg")
    folder = tmp_path / "lite"
    path = write_mme(folder, [mme_row(0), mme_row(1, Image=image.format(outside=outside))])
    examples, (bad,) = read("mme-realworld-lite", path)
    assert [example.id[-4:] for example in examples] == ["0000"]
    assert "leads out of the folder of the images" in bad.problem


def test_a_name_may_go_up_and_come_back(tmp_path):
    path = write_mme(tmp_path, [mme_row(0, Image="AutonomousDriving/../AutonomousDriving/a.jpg")])
    assert len(read("mme-realworld-lite", path)[0]) == 1


def test_vstar_images_stay_in_their_folder(tmp_path):
    write_image(tmp_path / "photo.jpg")
    questions = write_vstar(tmp_path / "vstar") / "test_questions.jsonl"
    questions.write_text(questions.read_text().replace("direct_attributes/sa_4690.jpg", "../photo.jpg"))
    examples, (bad,) = read("vstar", questions)
    assert len(examples) == 1 and "leads out of the folder" in bad.problem


@pytest.mark.parametrize("image", [None, "", " ", [], {"bytes": "x"}, 0])
def test_what_is_no_path_is_a_bad_row(tmp_path, image):
    examples, (bad,) = read("mme-realworld-lite", write_mme(tmp_path, [mme_row(0, Image=image), mme_row(1)]))
    assert len(examples) == 1 and "a path is needed" in bad.problem


@pytest.mark.parametrize("name", ["data/TreeBench.tsv", "data/MME-RealWorld-Lite.json", "x/y.parquet", "x/y.jsonl"])
def test_a_mistyped_path_is_not_asked_for_on_the_hub(name):
    for benchmark in ("treebench", "mme-realworld-lite", "mmstar", "hrbench4k", "vstar"):
        with pytest.raises(HartError, match="no such file or folder"):
            list(BENCHMARKS[benchmark].read(name))


def test_a_path_too_long_for_any_disk():
    with pytest.raises(HartError, match="no such file or folder") as error:
        list(BENCHMARKS["treebench"].read("b" * 5000))
    assert len(str(error.value)) < 400


def test_a_column_twice_is_refused(tmp_path):
    """Else the last one would count: the question would be its category."""
    path = write_tsv(tmp_path / "TreeBench.tsv", [treebench_row()])
    path.write_text(path.read_text().replace("l2-category", "question", 1))
    with pytest.raises(HartError, match=r"TreeBench.tsv: two columns 'question'"):
        read("treebench", path)


def test_a_parquet_file_that_cannot_be_opened_is_named_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "mmstar.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([mmstar_row()]), path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(HartError) as error:
        read("mmstar", path)
    assert str(error.value).startswith(f"{path}: the data set cannot be opened: Parquet magic bytes")


def test_the_official_scorer_of_mme_realworld_takes_a_choice_of_two_lines_for_one(tmp_path):
    choices = ["(A) a bus\ny", "(B) a truck", "(C) a tree", "(D) nothing", E_CHOICE]
    (example,), bad = read("mme-realworld-lite", write_mme(tmp_path, [mme_row(**{"Answer choices": choices})]))
    assert not bad and example.choices[0] == "a bus\ny"
    benchmark = BENCHMARKS["mme-realworld-lite"]
    for response, letter in (("y", "A"), ("a bus\ny", "A"), ("truck", "B")):
        right = benchmark.official(response, example)
        assert right is (letter == example.answer), response
        row = {"benchmark": benchmark.name, "mode": "full", "id": "0", "category": example.category}
        row |= {"choices": list(example.choices), "truth": "B", "answer": None, "text": response, "boxes": []}
        row |= {"strict": False, "official": right, "cluster": "an image", "question": example.question}
        assert scores(typed([row]), benchmark)["official"]["chose_e"] == 0
