"""Markers of images, whoever wrote them, leave a question or name their image in it."""

import pytest

from hart_lite.data.markers import check_markers, count_markers, without_markers
from hart_lite.errors import DataError

MARKERS = ["<image>", "<Image>", "<|image|>", "<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>",
           "<img>photos/a.png</img>", "<img>", "<start_of_image>", "<image_placeholder>"]  # fmt: skip


@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_goes_at_the_ends_and_is_a_number_within(marker):
    assert without_markers(f"{marker}\nHow many?") == without_markers(f"How many?{marker}") == "How many?"
    assert without_markers(f"{marker}{marker} Is {marker} in it?", 1) == "Is image 4 in it?"
    assert count_markers(f"{marker} and {marker}") == 2


def test_a_marker_with_a_number_keeps_it():
    assert without_markers("Is <image_2> darker than <image 1>?") == "Is image 2 darker than image 1?"


@pytest.mark.parametrize("text", ["Is 3 < image size?", "What does <b> mean?", "a <- b", "[IMAGE"])
def test_other_signs_stay(text):
    assert without_markers(text) == text and count_markers(text) == 0


def test_markers_are_as_many_as_images_or_none():
    check_markers(0, 2)
    check_markers(2, 2)
    with pytest.raises(DataError, match="1 times <image> for 2 images"):
        check_markers(1, 2)
