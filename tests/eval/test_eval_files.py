"""The folder of an evaluation: one writer at a time, beginnings that were killed, rows that are none, a full disk."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from evaluations import questions, rows_of, sound, typed

from hart_lite.cli import main
from hart_lite.errors import HartError
from hart_lite.eval.prediction import Prediction
from hart_lite.eval.results import EvalFolder
from hart_lite.utils.jsonl import to_line, write_jsonl

SETTINGS = {"model": "m", "modes": ["crops"]}
ROWS = typed(rows_of(questions(4), sound))

HOLD = """
import sys, time
from pathlib import Path
from hart_lite.eval.results import EvalFolder
with EvalFolder(Path(sys.argv[1]), {"model": "m", "modes": ["crops"]}) as folder:
    print("held", flush=True)
    time.sleep(600)
"""
FULL_DISK = """
import resource, signal, sys, json
from pathlib import Path
from hart_lite.eval.prediction import read_prediction
from hart_lite.eval.results import EvalFolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails, as it does on a full disk
with EvalFolder(Path(sys.argv[1]), {"model": "m", "modes": ["crops"]}) as folder:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
    for row in json.loads(sys.stdin.read()):
        folder.append(read_prediction(row, "a row"))
"""


def begun(folder: Path, rows: Sequence[Prediction] = ()) -> Path:
    with EvalFolder(folder, SETTINGS) as held:
        for row in rows:
            held.append(row)
    return folder


def damaged(folder: Path, rows: Sequence[dict]) -> None:
    """Lines that no evaluation writes."""
    write_jsonl(begun(folder) / "predictions.jsonl", rows)


def test_a_second_process_is_refused_and_a_dead_one_blocks_nobody(tmp_path, capsys):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "eval"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(
        HartError, match=rf"eval: process {process.pid} on \S+ is evaluating there; wait for it, stop it, or"
    ):
        EvalFolder(tmp_path / "eval", SETTINGS)
    assert main.main(["eval", "toy", "--benchmark", "toy=scenes=1", "--out", str(tmp_path / "eval")]) == 1
    assert "is evaluating there" in capsys.readouterr().err
    assert json.loads((tmp_path / "eval" / "eval.json").read_text()) == SETTINGS
    process.send_signal(signal.SIGKILL)
    process.communicate()
    begun(tmp_path / "eval", ROWS)
    with EvalFolder(tmp_path / "eval", SETTINGS) as folder:
        assert folder.rows() == ROWS


def test_what_was_refused_is_not_held(tmp_path):
    begun(tmp_path / "eval")
    with pytest.raises(HartError, match="other settings"):
        EvalFolder(tmp_path / "eval", {"model": "n"})
    begun(tmp_path / "eval")


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def no_locks(file, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    begun(tmp_path / "eval", ROWS)
    assert "cannot be locked (Operation not supported): see that only one process writes there" in caplog.text


@pytest.mark.parametrize(
    "left", [(), ("eval.json.part",), ("predictions.jsonl",), ("eval.json.part", "predictions.jsonl")]
)
def test_killed_before_it_began_it_begins(tmp_path, left):
    (tmp_path / "eval").mkdir()
    for name in left:
        (tmp_path / "eval" / name).write_text('{"mod' if name.endswith("part") else "")
    assert json.loads((begun(tmp_path / "eval") / "eval.json").read_text()) == SETTINGS


@pytest.mark.parametrize("left", ["predictions.jsonl", "notes.txt"])
def test_what_is_no_evaluation_is_left_alone(tmp_path, left):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / left).write_text("{}\n")
    with pytest.raises(HartError, match="is not empty and holds no evaluation"):
        EvalFolder(tmp_path / "eval", SETTINGS)
    assert [path.name for path in (tmp_path / "eval").iterdir()] == [left]


@pytest.mark.parametrize(
    "change",
    [
        {"strict": None},
        {"text": None},
        {"answer": 3},
        {"choices": [1, 2]},
        {"turns": None},
        {"turns": ["x"]},
        {"turns": [{"text": "x", "response_tokens": "many"}]},
        {"turns": [{"text": "x", "response_tokens": 10**400}]},
        {"counts": {"rejected_boxes": "one"}},
        {"boxes": [[0, 0, 10**400, 1, 0]]},
        {"boxes": [[0, 0, float("nan"), 1, 0]]},
    ],
)
def test_a_damaged_row_is_named_before_anything_is_asked(tmp_path, change):
    first, second, third = (row.to_dict() for row in ROWS[:3])
    damaged(tmp_path / "eval", [first, second | change, third])
    (name,) = change
    with EvalFolder(tmp_path / "eval", SETTINGS) as folder, pytest.raises(HartError) as error:
        folder.rows()
    assert re.search(rf"predictions\.jsonl:2: {name}[ .].*\. Take the line out and run again", str(error.value))


def test_a_row_without_an_answer_is_named(tmp_path):
    damaged(tmp_path / "eval", [{key: value for key, value in ROWS[0].to_dict().items() if key != "answer"}])
    with (
        EvalFolder(tmp_path / "eval", SETTINGS) as folder,
        pytest.raises(HartError, match="answer is missing"),
    ):
        folder.rows()


def test_a_question_answered_twice_is_named(tmp_path):
    begun(tmp_path / "eval", [*ROWS, ROWS[1]])
    with (
        EvalFolder(tmp_path / "eval", SETTINGS) as folder,
        pytest.raises(HartError, match="jsonl:5: answers"),
    ):
        folder.rows()


@pytest.mark.parametrize("size", [0.5, 2.5])
def test_a_full_disk_loses_no_row_that_was_whole(tmp_path, size):
    """`size` in rows of the file, as far as the disk takes it."""
    lengths = [len(to_line(row.to_dict())) for row in ROWS]
    room = int(sum(lengths[: int(size)]) + lengths[int(size)] * (size % 1))
    words = [sys.executable, "-c", FULL_DISK, tmp_path / "eval", str(max(room, 1))]
    process = subprocess.run(words, input=json.dumps([row.to_dict() for row in ROWS]), capture_output=True, text=True)
    assert process.returncode == 1 and "File too large" in process.stderr
    with EvalFolder(tmp_path / "eval", SETTINGS) as folder:
        assert folder.rows() == ROWS[: int(size)]
        for row in ROWS[int(size) :]:
            folder.append(row)
        assert folder.rows() == ROWS
