"""Files that are damaged, incomplete or not there; images in TSVs; the Hub; choices run on in a text."""

import csv
import gc
import io
import subprocess
import sys
import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pytest
from benchmark_files import (
    E_CHOICE,
    b64,
    hrbench_rows,
    jpeg,
    mme_row,
    mme_table_row,
    mmstar_row,
    one,
    read,
    treebench_row,
    write_jsonl,
    write_mme,
    write_parquet,
    write_tsv,
    write_vstar,
)
from PIL import Image

from hart_lite.data.images import DECODED
from hart_lite.data.options import from_list, from_question, from_text
from hart_lite.errors import HartError
from hart_lite.eval.benchmarks.registry import BENCHMARKS

pytestmark = pytest.mark.usefixtures("own_cache")


# --- files that are not what they should be


@pytest.mark.parametrize(
    "name, write, row, column",
    [
        ("mme-realworld-lite", lambda path, rows: write_mme(path.parent, rows), mme_row(), "Subtask"),
        ("mme-realworld-lite", write_parquet, mme_table_row(), "category"),
        ("treebench", write_tsv, treebench_row(), "target_instances"),
        ("treebench", write_tsv, treebench_row(), "image"),
        ("hrbench4k", write_tsv, hrbench_rows(1)[0], "cycle_category"),
        ("hrbench8k", write_parquet, hrbench_rows(1)[0], "D"),
        ("mmstar", write_parquet, mmstar_row(), "answer"),
        ("mmstar", write_parquet, mmstar_row(), "image"),
        ("vstar", write_jsonl, {"text": "", "image": "", "label": "A", "category": "", "question_id": 0}, "text"),
    ],
)
def test_a_missing_column_is_named_with_what_was_found_and_what_is_needed(tmp_path, name, write, row, column):
    suffix = {write_parquet: "parquet", write_jsonl: "jsonl"}.get(write, "tsv")
    path = write(tmp_path / f"a.{suffix}", [{key: value for key, value in row.items() if key != column}])
    with pytest.raises(HartError) as error:
        list(BENCHMARKS[name].read(str(path)))
    missing, _, rest = str(error.value).partition("; found: ")
    found, _, needed = rest.partition("; needed: ")
    assert missing == f"{path.name}: no column {column}"
    assert column not in found.replace("'", "").split(", ") and column in needed.split(", ")


@pytest.mark.parametrize("name", [name for name, benchmark in BENCHMARKS.items() if benchmark.hub])
def test_sources_that_are_none(tmp_path, name):
    with pytest.raises(HartError, match="no such file or folder"):
        list(BENCHMARKS[name].read(str(tmp_path / "gone")))
    with pytest.raises(HartError, match="the folder holds none of"):
        list(BENCHMARKS[name].read(str(tmp_path)))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(HartError, match=r"a .txt file; readable are"):
        list(BENCHMARKS[name].read(str(tmp_path / "notes.txt")))


@pytest.mark.parametrize("text", [b"{oops", b'{"a": 1}', b"[" * 100_000, b"\xff\xfe", b"", b'["\\ud800"]'])
def test_json_that_is_none(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(HartError, match=r"not JSON|no column Question_id"):
        list(BENCHMARKS["mme-realworld"].read(str(tmp_path / "a.json")))


def test_json_with_a_byte_order_mark(tmp_path):
    path = write_mme(tmp_path, [mme_row()])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert one("mme-realworld-lite", path).answer == "B"


def test_the_hub_is_asked_for_a_name(monkeypatch, tmp_path):
    """Without a network the name is given up, as an error that says so, not as a traceback."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    for name in ("treebench", "vstar", "mmstar", "hrbench4k", "mme-realworld-lite"):
        with pytest.raises(HartError, match=r"nobody/nothing: .*(cannot be fetched|cannot be opened)"):
            list(BENCHMARKS[name].read("nobody/nothing"))
    with pytest.raises(HartError, match="the Hub has the images in parts and not the questions"):
        list(BENCHMARKS["visual-cot"].read("deepcs233/Visual-CoT"))


def test_a_hub_snapshot_is_read_like_a_folder(monkeypatch, tmp_path):
    """The Hub client's own cache layout, as a download leaves it."""
    snapshots = {"craigwu/vstar_bench": write_vstar, "HaochenWang/TreeBench": None}
    for name, write in snapshots.items():
        folder = tmp_path / "hub" / f"datasets--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        snapshot = folder / "snapshots" / ("0" * 40)
        if write:
            write(snapshot)
        else:
            write_tsv(snapshot / "TreeBench.tsv", [treebench_row()])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert len(read("vstar", "craigwu/vstar_bench")[0]) == 2
    assert one("treebench", "HaochenWang/TreeBench").answer == "C"


@pytest.mark.parametrize(
    "name, hub, wanted, rows",
    [
        ("hrbench4k", "DreamMr/HR-Bench", {"name": "hrbench_version_split", "split": "hrbench_4k"}, hrbench_rows(1)),
        ("hrbench8k", "DreamMr/HR-Bench", {"name": "hrbench_version_split", "split": "hrbench_8k"}, hrbench_rows(1)),
        ("mmstar", "Lin-Chen/MMStar", {"split": "val"}, [mmstar_row(n) for n in range(4)]),
        ("mme-realworld-lite", "yifanzhang114/MME-RealWorld-lite-lmms-eval", {"split": "train"}, [mme_table_row()] * 4),
    ],
)
def test_tables_of_the_hub(monkeypatch, name, hub, wanted, rows):
    """No network: `load_dataset` is replaced by one that returns what the Hub's would."""

    def load_dataset(path, **arguments):
        assert (path, arguments) == (hub, wanted)
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert BENCHMARKS[name].hub == hub
    examples, bad = read(name, hub)
    assert len(examples) == 4 and not bad
    assert examples[3].images[0].load().size == examples[3].images[0].size()


def test_listing_needs_no_torch():
    code = "import sys; from hart_lite.eval.benchmarks.listing import listing; listing()\n"
    code += "sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


# --- TSV


def test_tsv_images_are_read_again_where_they_stand(tmp_path):
    rows = hrbench_rows(2)
    path = write_tsv(tmp_path / "hr_bench_4k.tsv", rows)
    before = csv.field_size_limit(4_000)
    examples, bad = read("hrbench4k", path)
    assert not bad and csv.field_size_limit(before) == 4_000
    assert [example.images[0].size() for example in examples] == [(160, 90)] * 8
    assert len({example.images[0].key for example in examples}) == 2
    for example, row in ((examples[0], rows[0]), (examples[6], rows[6])):
        DECODED.get((example.images[0].key,), lambda: Image.new("RGB", (1, 1)))
        wanted = np.asarray(Image.open(io.BytesIO(jpeg(rows.index(row) // 4, (160, 90)))).convert("RGB"))
        DECODED._images.clear()
        assert (np.asarray(example.images[0].load()) == wanted).all()
    DECODED._images.clear()
    text = path.read_text()
    path.write_text(text.replace(rows[0]["image"], rows[4]["image"]))
    with pytest.raises(HartError, match=r"hr_bench_4k.tsv:2 image: the file has changed"):
        examples[0].images[0].load()
    path.unlink()
    with pytest.raises(HartError, match="cannot be read: No such file"):
        examples[0].images[0].load()


def test_a_tsv_is_not_kept_in_memory(tmp_path):
    big = b64(jpeg(0, (2000, 1500)))  # some 2.5 million characters
    rows = [treebench_row(n) | {"image": big} for n in range(12)]
    path = write_tsv(tmp_path / "TreeBench.tsv", rows)
    assert path.stat().st_size > 20e6
    gc.collect()
    tracemalloc.start()
    examples, bad = read("treebench", path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(examples) == 12 and not bad
    assert kept < 1e6 and peak < 8 * len(big)


def test_tsv_cells_with_tabs_newlines_and_quotes(tmp_path):
    question = 'What does the "STOP"\tsign\nsay?'
    rows = [treebench_row(0, question=question), treebench_row(1)]
    (first, second), bad = read("treebench", write_tsv(tmp_path / "TreeBench.tsv", rows))
    assert first.question == question and second.id == "1" and not bad
    DECODED._images.clear()
    assert first.images[0].load().size == second.images[0].load().size == (200, 100)


def test_tsv_rows_that_share_an_image_by_index(tmp_path):
    rows = [treebench_row(7), treebench_row(8, image=b"-") | {"image": "7"}, treebench_row(9) | {"image": "77"}]
    (first, second), (bad,) = read("treebench", write_tsv(tmp_path / "TreeBench.tsv", rows))
    assert first.images == second.images
    assert bad.where.startswith("TreeBench.tsv:") and "image: '77' is not base64" in bad.problem


def test_damaged_tsv_lines_are_named_and_the_rest_is_read(tmp_path):
    image = b64(jpeg(0, (200, 100)))
    half, odd = image[: len(image) // 8 * 4], image[: len(image) // 2 // 4 * 4 + 1]
    rows = [treebench_row(n) | {"image": image} for n in range(6)]
    rows[1]["image"], rows[2]["image"], rows[3]["image"] = half, odd, ""
    rows[4]["image"] = b64(b"no image at all")
    options = {"multi-choice options": "A. red B. blue"}  # one line, so that line numbers are rows
    path = write_tsv(tmp_path / "TreeBench.tsv", [row | options | {"answer": "A"} for row in rows])
    lines = path.read_bytes().splitlines()
    latin, good = (lines[1].replace(b"0\t", index, 1) for index in (b"20\t", b"21\t"))
    lines += [b"only\ttwo", latin.replace(b"red", b"r\xe9d"), b"", good]
    path.write_bytes(b"\n".join(lines))
    examples, bad = read("treebench", path)
    assert [example.id for example in examples] == ["0", "5", "21"]
    problems = {row.where: row.problem for row in bad}
    assert list(problems) == [f"TreeBench.tsv:{n}" for n in (3, 4, 5, 6, 8, 9)]
    assert "truncated" in problems["TreeBench.tsv:3"] or "cannot be decoded" in problems["TreeBench.tsv:3"]
    assert "is not base64" in problems["TreeBench.tsv:4"]
    assert problems["TreeBench.tsv:5"] == "image: the cell is empty"
    assert "not an image" in problems["TreeBench.tsv:6"]
    assert problems["TreeBench.tsv:8"] == "has 2 columns, the header 8"
    assert "cannot be read as a line of a TSV: 'utf-8' codec" in problems["TreeBench.tsv:9"]


def test_a_quote_that_is_not_closed_does_not_pass_in_silence(tmp_path):
    rows = [treebench_row(n) for n in range(3)]
    path = write_tsv(tmp_path / "TreeBench.tsv", rows)
    text = path.read_text().replace("\nWhat", "").replace("What is", '"What is', 1)
    path.write_text(text)
    examples, bad = read("treebench", path)
    assert bad and len(examples) < 3
    assert all(row.where.startswith("TreeBench.tsv:") for row in bad)
    path = write_tsv(path, rows)
    path.write_text(path.read_text().replace("What is", '"What" is', 1))  # would lose its quotes
    examples, bad = read("treebench", path)
    assert bad[0].where == "TreeBench.tsv:2" and "cannot be read as a line" in bad[0].problem
    assert [example.id for example in examples] == ["1", "2"]


# --- choices


@pytest.mark.parametrize(
    "text, question, choices",
    [
        ("Q?\nOptions: A: 1, B: 2", "Q?", ("1", "2")),
        ("Q? Options: A: $63,020, B: $58,410, C: none", "Q?", ("$63,020", "$58,410", "none")),
        ("Q?\nOptions:\nA. x\nB. y\nC. z", "Q?", ("x", "y", "z")),
        ("Q?\nChoices:\n(A) 1.\n(B) 2,", "Q?", ("1.", "2,")),
        ("Vitamin C is in it. Which?\nOptions: A: x, B: y", "Vitamin C is in it. Which?", ("x", "y")),
        ("Which Options: exist? Options: A: x, B: y", "Which Options: exist?", ("x", "y")),
        ("Of (A) or what? Options: A) x B) y", "Of (A) or what?", ("x", "y")),
        ("Q? (A) see figure A. now (B) y", "Q?", ("see figure A. now", "y")),
        ("Q? Options: A: John D. Rockefeller, B: none", "Q?", ("John D. Rockefeller", "none")),
        ("Q?\nA. vitamin D. too\nB. A: none", "Q?", ("vitamin D. too", "A: none")),
        ("Q?\nA. w B. x\nC. y D. z", "Q?", ("w", "x", "y", "z")),
    ],
)
def test_choices_in_a_question(text, question, choices):
    assert from_question(text) == (question, choices)


@pytest.mark.parametrize(
    "text",
    [
        "Q?",
        "Q? Options: red, blue",
        "Q? Options: A: x",
        "Q? Options: A: x, C: y",
        "Q? Options: B: x, A: y",
        "Q? Options: A: x, B: y, A: z",
        "Q? Options: A: is A: x, B: y",  # could be cut in two places
        "Q? Options: one of A: x, B: y",
        "Q? Options: A: x, B:",
        "Q? Options: A: x, B: y, C) z",
        " ".join(f"({letter})" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        "Q? Options: A: , B: y",
        "",
    ],
)
def test_choices_that_cannot_be_told_apart_are_refused(text):
    with pytest.raises(HartError, match="choices: "):
        from_question(text)


def test_choices_of_lists_and_texts():
    assert from_list(["(A)text", "(B) (B) twice"]) == ("text", "(B) twice")
    assert from_list(["A. x", "B) y", "C: z"]) == ("x", "y", "z")
    assert from_text("lead (A) x; (B) y") == ("lead", ("x", "y"))
    assert from_list([f"({letter}) x" for letter in "ABCD"] + [E_CHOICE])[4] == E_CHOICE[4:]
