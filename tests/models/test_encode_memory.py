"""Where memory runs out in the vision tower, fewer images are encoded at one time, to the same features."""

from __future__ import annotations

import pytest
import torch
from pictures import photo_view

from hart_lite.errors import ModelError
from hart_lite.models.oom import ran_out


@pytest.fixture
def narrow(policy, monkeypatch):
    """A tower that takes 20 image tokens at one time."""
    inner, sizes = policy.family.features, []

    def features(model, images):
        tokens = sum(policy.family.image_tokens(image.size) for image in images)
        if tokens > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(tokens)
        return inner(model, images)

    monkeypatch.setattr(policy.family, "features", features)
    monkeypatch.setattr(policy.encoded, "value", 64)
    policy.forget_images()
    return policy, sizes


VIEWS = [photo_view(112, 84, n) for n in range(6)]  # 12 tokens each


def test_what_did_not_fit_is_encoded_in_smaller_batches(policy, narrow, caplog):
    _, sizes = narrow
    found = policy.encode(VIEWS)
    assert sizes == [12] * 6
    assert policy.encoded.value == 16
    assert "memory ran out in the vision tower with image tokens=64: again with 32" in caplog.text
    assert "in the recipe" not in caplog.text
    assert list(found) == VIEWS and all(len(tokens) == 12 for tokens in found.values())


def test_an_image_that_does_not_fit_alone_is_named(narrow):
    policy, _ = narrow
    with pytest.raises(ModelError, match=r"an image of 168 x 168 pixels does not fit .* Lower pixels\.full"):
        policy.encode([photo_view(168, 168, 1)])


def test_what_is_raised_in_the_wake_of_it_is_it():
    """As the end of a recording does, with out of memory in flight."""

    def recording() -> None:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    with pytest.raises(RuntimeError) as raised:
        recording()
    assert ran_out(raised.value)
    assert not ran_out(RuntimeError("operation failed due to a previous error during capture"))
