import pytest
from merging import make_adapter, make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "qwen", shards=4)


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    make_adapter(base, folder)
    return folder
