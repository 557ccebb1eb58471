"""The check of a card, on the CPU: every stage at a size for tests, what it finds, and that nothing stops it."""

import base64
import csv
import hashlib
import importlib.util
import io
import json
import signal
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

from hart_lite.models.packing import pack
from hart_lite.perf.card import __main__ as command
from hart_lite.perf.card import stages, tree, watch
from hart_lite.perf.card.context import Card
from hart_lite.types import Tokens


def found_by(out: Path) -> dict[str, dict]:
    return {line["stage"]: line for line in watch.read(out)}


@pytest.mark.slow
def test_every_stage_runs_on_a_cpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["card", "--tiny", "--minutes", "8", "--out", str(tmp_path)])
    command.main()
    lines = found_by(tmp_path)
    assert list(lines) == [stage.name for stage in stages.STAGES]
    in_part = {name: line for name, line in lines.items() if line["status"] != "ok"}
    assert set(in_part) <= {"gate"}, in_part
    gate = lines["gate"]["found"]
    equal = gate["float32, packed - unpacked (log-probs, gradients)"]
    assert equal["log-probs"] <= 1e-5 and equal["gradients"] <= 1e-4
    alike = gate["float32, tokens alike with the library's generate"]
    assert alike["alike"] == alike["of"]
    assert all(row["sdpa"] < 0.01 and row["ours"] < 0.01 for row in gate["attend against SDPA, errors"])
    assert lines["rl"]["found"]["eager"]["logged"]["valid_box"] == 1
    assert lines["merge"]["found"]["difference"] < 0.1 * lines["merge"]["found"]["moved"]
    assert lines["sft"]["found"]["adapters"] == ["torch.float32"]
    printed = capsys.readouterr().out
    assert printed.strip() == (tmp_path / watch.TABLE).read_text().strip()
    assert all(f"== {stage.name}: " in printed for stage in stages.STAGES)
    assert sorted(path.name for path in tmp_path.iterdir()) == [stages.RESULTS, watch.TABLE]


# -- whatever happens --------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs stages that are made up of functions, after one that needs no card."""

    def run(seconds: float = 5.0, **functions) -> dict[str, dict]:
        module = ModuleType(f"{stages.__package__}.made_up")
        for name, function in functions.items():
            setattr(module, name, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        own = [stages.Stage(name, seconds, f"made_up:{name}", "") for name in functions]
        monkeypatch.setattr(stages, "STAGES", (stages.STAGES[0], *own))
        run.code = stages.run(list(functions), tmp_path, time.time() + 60, tiny=True)
        return found_by(tmp_path)

    return run


def fails(card, found):
    found["before"] = 1
    raise KeyError("what is not there")


def leaves(card, found):
    sys.exit(0)


def works(card, found):
    found["device"] = str(card.device)


def test_a_stage_that_fails_leaves_its_traceback_and_what_it_had_found(run):
    lines = run(fails=fails, leaves=leaves, works=works)
    assert [lines[name]["status"] for name in ("fails", "leaves", "works")] == ["failed", "failed", "ok"]
    assert lines["fails"]["found"] == {"before": 1}
    assert "what is not there" in lines["fails"]["error"] and "in fails" in lines["fails"]["error"]
    assert run.code == 0


def test_a_stage_is_ended_when_its_time_is_up_though_it_swallows_the_first_alarm(run, monkeypatch):
    monkeypatch.setattr(stages, "AGAIN", 0.2)
    monkeypatch.setattr(stages, "LEAST", 0.1)

    def sleeps(card, found):
        found["rounds"] = 0
        try:
            time.sleep(60)
        except BaseException:
            found["rounds"] += 1
        time.sleep(60)

    before = signal.getsignal(signal.SIGALRM)
    lines = run(0.3, sleeps=sleeps, works=works)
    assert signal.getsignal(signal.SIGALRM) == before
    assert lines["sleeps"]["status"] == "time is up" and lines["sleeps"]["found"] == {"rounds": 1}
    assert lines["works"]["status"] == "ok"


def test_a_part_that_fails_leaves_the_others(run):
    def halves(card, found):
        stages.part(found, "first", lambda: {}["nothing"])
        stages.part(found, "second", lambda: 2)

    line = run(halves=halves)["halves"]
    assert line["status"] == "in part" and line["found"]["second"] == 2
    assert "KeyError" in line["found"]["first"]["failed"]


def test_a_card_that_answers_no_more_ends_the_process_after_its_line(run):
    def breaks(card, found):
        def clear():
            raise RuntimeError("an illegal memory access was encountered")

        card.clear = clear

    lines = run(breaks=breaks, works=works)
    assert run.code == stages.BROKEN
    assert "answers no more" in lines["breaks"]["status"] and "illegal memory access" in lines["breaks"]["error"]
    assert "works" not in lines


def test_stages_that_no_time_is_left_for_say_so(tmp_path):
    assert stages.run(["ceilings"], tmp_path, time.time() + 2, tiny=True) == 0
    assert found_by(tmp_path)["ceilings"]["status"] == "no time left"


def test_what_takes_its_process_down_is_named_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    """The first process dies in the second of three stages, and one more ends with a card that answers no more."""
    asked = []

    def child(names, out, deadline, tiny):
        asked.append(list(names))
        if len(asked) == 1:
            stages.write(out, {"stage": "load", "status": "ok"})
            (out / stages.NOW).write_text(json.dumps({"stage": "gate", "until": 0}))
            return -11
        stages.write(out, {"stage": names[0], "status": "failed"})
        return stages.BROKEN if len(names) > 1 else 0

    monkeypatch.setattr(watch, "run_child", child)
    assert watch.watch(["load", "gate", "rl", "sft"], tmp_path, time.time() + 60, tiny=True) == 1
    assert asked == [["load", "gate", "rl", "sft"], ["rl", "sft"], ["sft"]]
    assert {name: line["status"] for name, line in found_by(tmp_path).items()} == {
        "load": "ok",
        "gate": "died",
        "rl": "failed",
        "sft": "failed",
    }
    assert "exit code -11" in capsys.readouterr().out


def test_an_unknown_stage_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["card", "--only", "load,cook", "--out", str(tmp_path)])
    assert command.main() == 2
    assert "no stage is called cook; --only takes some of imports, " in capsys.readouterr().err


# -- attention of a pack -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed():
    """A header that two questions share, samples of different length below them, and a sequence of its own."""

    def tokens(*ids: int, said: int) -> Tokens:
        return Tokens(ids) + Tokens.response(tuple(range(100, 100 + said)))

    sequences = [tokens(1, 2, 3, 4, 5, said=3), tokens(1, 2, 3, 4, 5, said=2), tokens(1, 2, 6, 7, said=4)]
    sequences += [tokens(1, 2, 6, 7, said=1), tokens(9, 8, said=2)]
    [one] = pack(sequences, lambda t: torch.arange(len(t))[None], 1000)
    return one


def test_the_mask_that_attention_is_held_against_has_the_pairs_that_are_computed(packed):
    mask = tree.mask_of(packed)
    assert packed.tree(torch.device("cpu")).pairs == int(mask.sum())
    assert mask.diagonal().all() and not mask.triu(1).any()
    header, others = slice(0, 2), slice(2, len(packed))
    alone = packed.runs[-1]  # of the last sequence, which shares nothing
    assert mask[others, header].any(1).tolist() == [True] * (len(packed) - 2 - alone) + [False] * alone


def test_photos_are_read_anew_for_every_step():
    card = Card(tiny=True)
    first = card.photos()[0].images[0].load()
    assert card.photos(fresh=False)[0].images[0].load() is first
    time.sleep(0.01)
    again = card.photos()[0].images[0].load()
    assert again is not first and again.tobytes() == first.tobytes()


# -- wheels ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def card_wheels():
    path = Path(__file__).parents[2] / ".ci" / "card_wheels.py"
    spec = importlib.util.spec_from_file_location("card_wheels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "bitsandbytes-1.0-py3-none-any.whl"
    names = ["bitsandbytes/__init__.py", "bitsandbytes-1.0.dist-info/METADATA", "bitsandbytes-1.0.dist-info/RECORD"]
    names += [f"bitsandbytes/libbitsandbytes_{kind}.so" for kind in ("cpu", "cuda118", "cuda130", "rocm70", "xpu2025")]
    with zipfile.ZipFile(path, "w") as out:
        for name in names:
            out.writestr(name, f"of {name}")
    return path


def test_a_slim_wheel_has_one_library_and_a_record_of_what_it_holds(card_wheels, wheel, tmp_path):
    card_wheels.slim(wheel, tmp_path / "slim.whl", "libbitsandbytes_cuda130.so")
    with zipfile.ZipFile(tmp_path / "slim.whl") as slim:
        libraries = {name.rpartition("_")[2] for name in slim.namelist() if name.endswith(".so")}
        assert libraries == {"cpu.so", "cuda130.so"}
        rows = list(csv.reader(io.StringIO(slim.read("bitsandbytes-1.0.dist-info/RECORD").decode())))
        assert [row[0] for row in rows] == slim.namelist()
        for name, digest, size in rows[:-1]:
            data = slim.read(name)
            expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            assert (digest, int(size)) == (f"sha256={expected}", len(data))


def test_a_wheel_without_the_library_says_which_it_has(card_wheels, wheel, tmp_path):
    with pytest.raises(SystemExit, match=r"no libbitsandbytes_cuda999\.so; --cuda may be one of: 118, 130"):
        card_wheels.slim(wheel, tmp_path / "slim.whl", "libbitsandbytes_cuda999.so")


def test_every_package_of_the_wheels_has_a_tested_version(card_wheels):
    pins = (card_wheels.ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in pins}
    assert {name.lower().replace("_", "-") for name in card_wheels.PACKAGES} <= pinned
