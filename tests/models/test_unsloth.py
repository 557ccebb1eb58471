"""The optional backend against a stand-in: unsloth needs a CUDA card, so it cannot run here."""

import subprocess
import sys
from types import ModuleType

import pytest
import torch
from pictures import photo_view
from transformers import Qwen2_5_VLForConditionalGeneration

from hart_lite.config.environment import check_machine
from hart_lite.config.recipe import load_recipe
from hart_lite.config.sections import ModelSection
from hart_lite.errors import HartError
from hart_lite.models.generation import Sampling, generate
from hart_lite.models.loading import UNSLOTH_TOKENS, load_policy


@pytest.fixture
def calls(monkeypatch):
    """A module `unsloth` whose FastVisionModel loads the plain model and notes how it was asked to."""
    noted = []

    class FastVisionModel:
        @staticmethod
        def from_pretrained(source, **how):
            noted.append((source, how))
            return Qwen2_5_VLForConditionalGeneration.from_pretrained(source, dtype=how["dtype"]), None

    module = ModuleType("unsloth")
    module.FastVisionModel = FastVisionModel
    monkeypatch.setitem(sys.modules, "unsloth", module)
    return noted


def test_the_base_comes_from_unsloth_and_works_as_any_other(calls, tiny_base):
    section = ModelSection(base=str(tiny_base), device="cpu")
    theirs, ours = load_policy(section.model_copy(update={"backend": "unsloth"})), load_policy(section)
    [(source, how)] = calls
    assert source == str(tiny_base)
    assert how == {
        "revision": None,
        "max_seq_length": UNSLOTH_TOKENS,
        "dtype": torch.float32,
        "load_in_4bit": False,
        "use_gradient_checkpointing": False,
        "fast_inference": False,
    }
    prompts = [ours.family.chat((photo_view(56, 56), "Which?"))] * 3
    assert generate(theirs, prompts, Sampling(4)) == generate(ours, prompts, Sampling(4))
    assert theirs.adapter_parameters


def test_four_bits_are_asked_for(calls, tiny_base):
    load_policy(ModelSection(base=str(tiny_base), device="cpu", backend="unsloth", quant="nf4", dtype="float32"))
    assert calls[0][1]["load_in_4bit"] is True


def test_without_it_the_error_says_how_to_install_it():
    with pytest.raises(
        HartError, match=r"venv .*/bin/pip install -e '\.\[unsloth\]'`, or use model\.backend=transformers"
    ):
        check_machine(load_recipe("tiny_cpu", ["model.backend=unsloth"]))


def test_it_is_imported_before_what_it_patches(tmp_path):
    (tmp_path / "unsloth.py").write_text(
        "import sys\nsys.exit(3 if {'transformers', 'peft', 'trl'} & set(sys.modules) else 4)\n"
    )
    code = (
        "import sys, torch; torch.cuda.is_available = lambda: True; torch.cuda.get_device_capability = lambda: (8, 0)\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from hart_lite.cli.main import main; main(['train', 'tiny_cpu', 'model.backend=unsloth', 'model.device=auto'])"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 4
