"""What our own commands left behind, after a disk or a person changed it: runs, checkpoints, the record of a model."""

import io
import json
import shutil

import pytest
from damage import as_json, check_reader
from PIL import Image

from hart_lite.report.reader import read_run
from hart_lite.runs import checkpoints
from hart_lite.runs.metrics_file import rewind_metrics
from hart_lite.runs.record import RunRecord, record_of

NESTED = "[" * 100_000
ROLLOUT = {"picture": "step-00001-0.jpg", "id": "1", "question": "Q?", "boxes": [[0, 0, 9, 9, 0]], "reward": 1.0}
PREDICTION = {"benchmark": "held-out", "mode": "full", "id": "1", "category": "", "cluster": "i", "question": "Q?"}
PREDICTION |= {
    "choices": [],
    "truth": "A",
    "text": "A",
    "answer": "A",
    "strict": True,
    "official": True,
    "boxes": [[1, 2, 3, 4, 0]],
}
METRIC = {"stage": "1-rl", "step": 1, "reward": 0.5, "kl": 0.01}
RUN_FILES = {
    "metrics.jsonl": METRIC,
    "evaluation/before/eval.json": {"model": "toy", "benchmarks": {"held-out": "run"}, "modes": ["full"]},
    "evaluation/before/predictions.jsonl": PREDICTION,
    "evaluation/before/summary.json": {"benchmarks": {}},
    "tracked/before.jsonl": PREDICTION,
    "tracked/questions.json": {"questions": [{"id": "1", "picture": "0.jpg", "size": [9, 9]}], "held_out": True},
    "versions.json": {"torch": "2.13", "python": "3.11"},
    "stages/1-rl/rollouts/step-00001.jsonl": ROLLOUT,
}
RECORD = {
    "base": "Qwen/Qwen2.5-VL-7B-Instruct",
    "family": "qwen2_5_vl",
    "licence": {"license": "apache-2.0"},
    "recipe": None,
    "libraries": {"torch": "2"},
    "evaluations": {"before": {"n": 1}},
    "merged": None,
    "pictures": [{"file": "a.jpg", "stage": "1-rl", "step": 1, "question": "Q", "right": 1, "samples": 2}],
}


@pytest.fixture
def run(tmp_path):
    """A finished run with one file of each kind."""
    for name, content in RUN_FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"".join(as_json(content)))
    (tmp_path / "adapter").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "stages/1-rl/rollouts/step-00001-0.jpg")
    (tmp_path / "recipe.yaml").write_text("stages: [{kind: rl, steps: 4}]\n")
    return tmp_path


@pytest.mark.parametrize("name", RUN_FILES)
def test_a_damaged_run_is_read_or_refused(run, name):
    """For its report, and for the card of its model."""

    def read(data: bytes) -> None:
        (run / name).write_bytes(data)
        assert all(stage.done >= 0 for stage in read_run(run).stages)
        record_of(run / "adapter", "toy")

    check_reader(read, *as_json(RUN_FILES[name]))


def test_a_damaged_record_is_read_or_refused(tmp_path):
    def read(data: bytes) -> None:
        (tmp_path / "training.json").write_bytes(data)
        found = RunRecord.load(tmp_path)
        assert found.text() and not found.load_pictures(tmp_path)

    check_reader(read, *as_json(RECORD))


def test_a_damaged_seal_seals_nothing(tmp_path):
    def read(data: bytes) -> None:
        (tmp_path / "checkpoint-2").mkdir(exist_ok=True)
        (tmp_path / "checkpoint-2" / checkpoints.SEAL).write_bytes(data)
        assert checkpoints.newest_checkpoint(tmp_path) is None

    check_reader(read, *as_json({"a.bin": "00"}))  # a file that is not there


def test_damaged_metrics_are_rewound(tmp_path):
    path = tmp_path / "metrics.jsonl"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        rewind_metrics(path, "1-rl", 1)
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert all(row["stage"] != "1-rl" or row["step"] <= 1 for row in rows)

    check_reader(read, b"\n".join(as_json(METRIC, METRIC | {"step": 2})), *as_json(METRIC))


@pytest.mark.parametrize("line", ["[1]", "{}", '{"stage": "1-rl", "step": []}', "\udcff", NESTED, '{"stage": "1-rl"}'])
def test_metrics_are_rewound_past_lines_that_are_no_rows(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    row = {"stage": "1-rl", "step": 1}
    path.write_bytes(f"{json.dumps(row)}\n{line}\n".encode(errors="surrogateescape"))
    rewind_metrics(path, "1-rl", 1)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [row]


STATE = as_json({"global_step": 2, "max_steps": 4})[0]


def checkpoint_with_state(folder, data: bytes):
    """A checkpoint whose trainer state became `data` after it was sealed."""
    checkpoint = folder / "checkpoint-2"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_bytes(STATE)
    checkpoints.seal(checkpoint)
    (checkpoint / "trainer_state.json").write_bytes(data)
    return checkpoint


def test_a_checkpoint_with_a_damaged_trainer_state_is_passed_by(tmp_path):
    """The Trainer reads that file, and only what was sealed with it."""

    def read(data: bytes) -> None:
        checkpoint = checkpoint_with_state(tmp_path, data)
        assert checkpoints.newest_checkpoint(tmp_path) == (checkpoint if data == STATE else None)
        shutil.rmtree(checkpoint, ignore_errors=True)

    check_reader(read, STATE)


@pytest.mark.parametrize("text", ["[1]", "{}", '{"global_step": [], "max_steps": 1}', NESTED, "\udcff"])
def test_what_is_no_trainer_state_is_named(tmp_path, text, caplog):
    checkpoint = checkpoint_with_state(tmp_path, text.encode(errors="surrogateescape"))
    assert checkpoints.newest_checkpoint(tmp_path) is None
    assert f"{checkpoint} is passed by: trainer_state.json is damaged" in caplog.text
    assert not checkpoint.exists()


def test_what_is_no_rollout_is_left_out_of_a_record(run):
    bad = [[1], {}, *(ROLLOUT | change for change in ({"picture": []}, {"picture": ".."}, {"reward": []}))]
    bad.append(ROLLOUT | {"question": 5})
    lines = [b"\xff", NESTED.encode(), *as_json(*bad, ROLLOUT)]
    (run / "stages/1-rl/rollouts/step-00001.jsonl").write_bytes(b"\n".join(lines))
    record, pictures = record_of(run / "adapter", "toy")
    (picture,) = record.pictures
    assert (picture.question, picture.right, picture.samples) == ("Q?", 1, 1)
    assert Image.open(io.BytesIO(pictures[picture.file])).size == (9, 9)
