"""What the tests of data share."""

import pytest
from PIL import Image


@pytest.fixture
def picture(tmp_path, monkeypatch) -> str:
    """The name of an image in `tmp_path`; tables are cached there, too."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    return "a.png"
