"""The install cell keeps the torch that a platform has: pip is asked what it would do to a machine that has one."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from notebook_cells import ON_A_CARD, ROOT, as_python, cells, source

# From what Colab says it has installed (googlecolab/backend-info, mid 2026): torch's family, and what hart-lite needs.
PREINSTALLED = """
    torchvision==0.26.0+cu128 torchaudio==2.11.0+cu128 transformers==5.9.0 peft==0.19.1 accelerate==1.13.0
    datasets==4.0.0 huggingface_hub==1.17.0 tokenizers==0.22.2 safetensors==0.7.0 numpy==2.0.2 pandas==2.2.2
    pyarrow==18.1.0 pillow==11.3.0 matplotlib==3.10.0 pydantic==2.12.3 PyYAML==6.0.3 tqdm==4.67.3 tensorboard==2.20.0
    packaging==26.2 filelock==3.29.0 fsspec==2025.3.0 psutil==5.9.5 Jinja2==3.1.6 regex==2025.11.3 requests==2.32.4
"""
BUILT_FOR = "2.11.0+cu128"  # its torch


def machine(folder: Path, torch: str) -> Path:
    """The Python of an environment in which pip finds these packages; there is nothing behind their names."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    for name, _, number in (package.partition("==") for package in (f"torch=={torch}", *PREINSTALLED.split())):
        about = packages / f"{name}-{number}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
        (about / "INSTALLER").write_text("pip\n")
    return folder / "bin/python"


def pip(python: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--dry-run", "--retries=0", "--timeout=9"]
    return subprocess.run([*command, *words], cwd=cwd, capture_output=True, text=True, timeout=120)


def install_line(name: str, python: Path, cwd: Path) -> list[str]:
    """What the install cell asks of pip on that machine, hart-lite's own needs in the place of its address."""
    [cell] = [cell for cell in cells(name) if "%pip" in source(cell)]
    code = f"SOURCE = 'HERE'\ndef magic(line):\n    print(line)\n{as_python(source(cell))}"
    done = subprocess.run([python, "-c", code], cwd=cwd, capture_output=True, text=True, check=True)
    first, verb, *words = shlex.split(done.stdout)
    assert (first, verb) == ("pip", "install") and words[-1] == "HERE"
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    return [*words[:-1], *needs]


@pytest.fixture(scope="module")
def colab(tmp_path_factory) -> Path:
    python = machine(tmp_path_factory.mktemp("colab"), BUILT_FOR)
    if pip(python, "--no-deps", "hatchling", cwd=python.parent).returncode:
        pytest.skip("no package index can be reached")
    return python


@pytest.mark.parametrize("name", ON_A_CARD)
def test_the_install_cell_keeps_what_is_there(name, tmp_path):
    python = machine(tmp_path / "machine", BUILT_FOR)
    words = install_line(name, python, tmp_path)
    assert words[:3] == ["-q", "-c", "keep.txt"] and "-U" not in words and "--upgrade" not in words
    assert (tmp_path / "keep.txt").read_text() == f"torch=={BUILT_FOR}\n"


@pytest.mark.slow
def test_pip_would_not_touch_torch(colab, tmp_path):
    words = install_line("colab_t4", colab, tmp_path)
    done = pip(colab, *words, "--report", "report.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    there = {item["metadata"]["name"].lower() for item in json.loads((tmp_path / "report.json").read_text())["install"]}
    assert {"transformers", "trl", "bitsandbytes", "datasets"} <= there
    assert not {"torch", "torchvision", "torchaudio", "triton", "numpy", "pillow"} & there
    assert not [name for name in there if name.startswith("nvidia")]


@pytest.mark.slow
def test_the_source_may_be_a_clone_or_a_wheel(colab, tmp_path):
    """An address needs a server; pip takes all three in the place of {SOURCE}."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", tmp_path, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    [wheel] = tmp_path.glob("hart_lite-*.whl")
    for place in (ROOT, wheel):
        done = pip(colab, "--no-deps", "--report", "report.json", str(place), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        [item] = json.loads((tmp_path / "report.json").read_text())["install"]
        assert item["metadata"]["name"] == "hart-lite"


def test_a_torch_that_is_too_old_is_an_error_and_not_replaced(colab, tmp_path):
    old = machine(tmp_path / "machine", "2.5.1+cu121")
    words = install_line("colab_t4", old, tmp_path)
    done = pip(old, *words, "--report", "report.json", cwd=tmp_path)
    assert done.returncode and not (tmp_path / "report.json").exists()
    assert re.search(r"Cannot install torch>=2\.\d+", done.stderr)
