import pytest


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """What `datasets` reads of a table stays in the test's folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
