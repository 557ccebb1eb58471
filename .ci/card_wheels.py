"""Collects what a machine with a card, torch and transformers lacks for hart-lite: `make card-wheels` fills .whl/.

For machines that reach no registry: the folder is carried there and installed beside what they have,

    python3 -m pip install --no-index --no-deps --target SITE .whl/*.whl && export PYTHONPATH=SITE

The versions are those of constraints.txt, for Python 3.12 on x86-64 Linux. bitsandbytes is packed anew with the library
of one CUDA version: as published it holds those of twelve, and has three times the size of everything together.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
# peft: torch images have it in any version. typing_extensions: pydantic wants a new one.
PACKAGES = (
    "annotated-types",
    "bitsandbytes",
    "datasets",
    "dill",
    "multiprocess",
    "peft",
    "pydantic",
    "pydantic_core",
    "trl",
    "typing_extensions",
    "typing-inspection",
    "xxhash",
)
# pip takes wheels of exactly the platforms that are named.
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (28, 27, 24, 17, 12, 5)] + ["manylinux2014_x86_64", "linux_x86_64"]
MOST_BYTES = 40 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / ".whl", help="folder for the wheels; others in it go")
    parser.add_argument("--python", default="3.12", help="version of the machine's Python")
    parser.add_argument("--cuda", default="130", help="the machine's torch.version.cuda, without the dot")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for old in arguments.out.glob("*.whl"):
        old.unlink()
    with TemporaryDirectory() as name:
        download(Path(name), arguments.python)
        for wheel in sorted(Path(name).glob("*.whl")):
            target = arguments.out / wheel.name
            if wheel.name.startswith("bitsandbytes-"):
                slim(wheel, target, f"libbitsandbytes_cuda{arguments.cuda}.so")
            else:
                target.write_bytes(wheel.read_bytes())
    total = 0
    for wheel in sorted(arguments.out.glob("*.whl")):
        total += wheel.stat().st_size
        print(f"{wheel.stat().st_size / 2**20:6.2f} MiB  {wheel.name}")
    print(f"{total / 2**20:6.2f} MiB in {arguments.out}")
    if total > MOST_BYTES:
        raise SystemExit(f"card-wheels: {total:,} bytes are more than the {MOST_BYTES:,} that are to be carried")


def download(folder: Path, python: str) -> None:
    """The pinned wheels without what they depend on: the machine has the rest."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation", "cp", *platforms]
    command += ["--constraint", str(ROOT / "constraints.txt"), "--dest", str(folder), *PACKAGES]
    subprocess.run(command, check=True)


def slim(wheel: Path, target: Path, kept: str) -> None:
    """Copy a bitsandbytes wheel with only one of its GPU libraries, and the record of its files to match.

    Raises `SystemExit` where the wheel has no library of that name.
    """
    record, lines = None, []
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        libraries = {Path(name).name for name in source.namelist() if name.endswith(".so")}
        if kept not in libraries:
            raise SystemExit(f"card-wheels: {wheel.name} has no {kept}; --cuda may be one of: {_cudas(libraries)}")
        dropped = libraries - {kept, "libbitsandbytes_cpu.so"}
        for info in source.infolist():
            if info.filename.endswith(".dist-info/RECORD"):
                record = info.filename
            elif Path(info.filename).name not in dropped:
                data = source.read(info)
                out.writestr(info, data, compress_type=zipfile.ZIP_DEFLATED)
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                lines.append(f"{info.filename},sha256={digest},{len(data)}")
        if record is None:
            raise SystemExit(f"card-wheels: {wheel.name} has no RECORD; it is no wheel")
        out.writestr(record, "\n".join([*lines, f"{record},,"]) + "\n")


def _cudas(libraries: set[str]) -> str:
    stem = "libbitsandbytes_cuda"
    return ", ".join(sorted(Path(name).stem.removeprefix(stem) for name in libraries if name.startswith(stem)))


if __name__ == "__main__":
    main()
