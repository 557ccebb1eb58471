"""The toy data on disk is the one in memory."""

import numpy as np
import pytest

from hart_lite.data.dataset import load_examples, split_by_image
from hart_lite.errors import HartError
from hart_lite.toy.export import write_toy_data
from hart_lite.toy.scenes import World, examples


def test_what_is_written_is_what_is_in_memory(tmp_path):
    path = write_toy_data(tmp_path / "toy", 4, seed=3)
    assert path == tmp_path / "toy/rows.jsonl"
    found, expected = load_examples(path), examples(World(seed=3), range(4))
    assert len(found) == len(expected) == 8
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("id", "question", "answer", "choices", "boxes", "category"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert np.array_equal(np.asarray(ours.images[0].load()), np.asarray(theirs.images[0].load()))
    assert len(list((tmp_path / "toy/images").iterdir())) == 4
    assert len(split_by_image(found, 4, seed=0)[0]) == 4  # two questions share an image, and stay together


def test_seed_and_questions_are_those_given(tmp_path):
    one = load_examples(write_toy_data(tmp_path / "one", 2, questions_per_scene=1))
    other = load_examples(write_toy_data(tmp_path / "other", 2, seed=1, questions_per_scene=1))
    assert [e.id for e in one] == ["toy-0-0-0", "toy-0-1-0"]
    assert [e.id for e in other] == ["toy-1-0-0", "toy-1-1-0"]
    assert one[0].images[0].load().tobytes() != other[0].images[0].load().tobytes()


@pytest.mark.parametrize("counts", [(0, 2), (-1, 2), (2, 0)])
def test_nothing_to_draw_is_refused(tmp_path, counts):
    with pytest.raises(HartError, match="at least 1 is needed"):
        write_toy_data(tmp_path / "toy", counts[0], questions_per_scene=counts[1])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_kept(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/mine").write_text("mine")
    with pytest.raises(HartError, match="already there"):
        write_toy_data(tmp_path / "toy", 1)
    assert (tmp_path / "toy/mine").read_text() == "mine"
