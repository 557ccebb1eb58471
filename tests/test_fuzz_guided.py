"""The coverage-guided fuzzer is guided: it finds what blind damage does not, and what it finds can be read again."""

import itertools
from pathlib import Path

import pytest

from hart_lite.errors import HartError
from tests.reliability.fuzz_bytes import damaged_of
from tests.reliability.fuzz_guided import guided, installed
from tests.reliability.fuzz_planted import PLANTED, PlantedError
from tests.reliability.fuzz_watch import HangError, Target, Watch

INPUTS = 150_000


def test_blind_damage_does_not_find_the_planted_fault(tmp_path):
    watch = Watch(tmp_path)
    for data in itertools.islice(damaged_of(0, PLANTED.seeds), INPUTS):
        watch.give(PLANTED, data)
    assert watch.inputs == INPUTS and not watch.faults


@pytest.mark.skipif(not installed(), reason="needs atheris: pip install -e '.[fuzz]'")
def test_the_guided_fuzzer_finds_it(tmp_path):
    found = guided("planted", seed=1, inputs=INPUTS, folder=tmp_path / "work")
    assert found.edges > 5 and found.kept > 3
    assert found.faults and "PlantedError" in found.faults[0]
    saved = Path(found.faults[0].partition(": ")[0])
    with pytest.raises(PlantedError):
        PLANTED.read(saved.read_bytes())


def _endless(data: bytes) -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("read", "fault"),
    [
        (lambda data: data[9], "UNTYPED IndexError at test_fuzz_guided.py"),
        (lambda data: sum(range(10**8)), "took "),
        (_endless, "UNTYPED HangError"),
    ],
)
def test_the_watch_notices(tmp_path, monkeypatch, read, fault):
    monkeypatch.setattr("tests.reliability.fuzz_watch.STOP_S", 2.0)
    monkeypatch.setattr("tests.reliability.fuzz_watch.LIMIT_S", 0.1)
    watch = Watch(tmp_path)
    watch.give(Target("x", read, ()), b"bytes")
    assert fault in watch.faults[0]
    assert Path(watch.faults[0].partition(": ")[0]).read_bytes() == b"bytes"


def test_a_typed_error_is_no_fault(tmp_path):
    def refuse(data: bytes) -> None:
        raise HartError("refused")

    watch = Watch(tmp_path)
    watch.give(Target("x", refuse, ()), b"")
    assert watch.outcomes == {"HartError": 1} and not watch.faults and issubclass(HangError, Exception)
