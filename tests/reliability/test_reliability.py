"""The reliability suite where it could pass in silence: what it calls the same run, and what it makes of a failure."""

import json
import sys
from types import SimpleNamespace

import pytest

from tests.reliability import __main__ as suite
from tests.reliability.check import Check
from tests.reliability.hostile_text import TEXT, moves_the_cursor
from tests.reliability.runs import STEPS, differences, durations

RECIPE = "stages: [{kind: rl, steps: 5}, {kind: sft, steps: 4}, {kind: sft, steps: 3}]\n"


def new_run(folder):
    rows = [{"stage": stage, "step": step, "loss": 0.5, "seconds_update": 2.0} for stage, step in STEPS]
    for name, content in {
        "recipe.yaml": RECIPE,
        "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "timing.jsonl": '{"evaluation": "before", "seconds": 2.0}\n',
        "adapter/adapter_model.safetensors": "weights",
        "stages/1-rl/checkpoint-5/optimizer.pt": "moments",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("adapter/adapter_model.safetensors", "weights", "weight5", ["adapter/adapter_model.safetensors"]),
        ("metrics.jsonl", '"loss": 0.5', '"loss": 0.25', ["metrics.jsonl", "report.html"]),
        ("metrics.jsonl", '"seconds_update": 2.0', '"seconds_update": 3.0', []),  # the machine was busy
        ("timing.jsonl", '"seconds": 2.0', '"seconds": 3.0', []),
        ("stages/1-rl/checkpoint-5/optimizer.pt", "moments", "others", []),  # a resumed run keeps other ones
    ],
)
def test_two_runs_differ_in_what_was_changed(tmp_path, file, old, new, expected):
    one, other = new_run(tmp_path / "a/run"), new_run(tmp_path / "b/run")
    assert differences(one, other) == []
    path = other / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert differences(one, other) == expected


def test_a_missing_file_and_a_missing_step_are_differences(tmp_path):
    one, other = new_run(tmp_path / "a/run"), new_run(tmp_path / "b/run")
    (other / "adapter/adapter_model.safetensors").unlink()
    assert differences(one, other) == ["adapter/adapter_model.safetensors only in one"]
    for run in (one, other):
        (run / "metrics.jsonl").write_text("".join((run / "metrics.jsonl").read_text().splitlines(True)[:-1]))
    assert "metrics.jsonl lacks a step or has one twice" in differences(one, other)


def test_a_run_that_logs_other_phases_is_an_error(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/log").write_text("rollout\t1.0\nupdate\t2.5\nend\t3.0\n")
    with pytest.raises(RuntimeError, match=r"the phases \['rollout', 'update'\]; \['SFT', 'adapter'"):
        durations(tmp_path)


def test_a_failed_check_fails_the_suite(monkeypatch, capsys):
    found = [Check("a", "1", True), Check("b", "2", False)]
    monkeypatch.setitem(sys.modules, "tests.reliability.kills", SimpleNamespace(checks=lambda folder, quick: found))
    monkeypatch.setattr(sys, "argv", ["reliability", "kills"])
    assert suite.main() == 1
    assert "| b | 2 | FAILED |" in capsys.readouterr().out
    found.pop()
    assert suite.main() == 0


def test_every_sign_that_moves_a_cursor_is_seen():
    assert len(moves_the_cursor(TEXT)) == 4 and not moves_the_cursor("\ufffd[2J")
