"""Which base an adapter belongs to. A name alone does not tell: the files under it may have been replaced."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from transformers.utils import cached_file

from hart_lite.errors import HartError
from hart_lite.models.families.base import Family

PIECES = 64  # read of each file of weights, evenly spread: milliseconds, also for a base of 15 GB
PIECE_BYTES = 4096
KEY = "base"  # of the fingerprint in a JSON file


def fingerprint(family: Family) -> str:
    """SHA-256 over the config of the base, the names and sizes of its safetensors, and pieces of them.

    Only with pieces, since a base that was trained anew has files of the same names and sizes.
    """
    config = Path(cached_file(family.source, "config.json", revision=family.revision, local_files_only=True))
    digest = hashlib.sha256(config.read_bytes())
    for path in sorted(config.parent.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for n in range(PIECES):
                file.seek(size * n // PIECES)
                digest.update(file.read(PIECE_BYTES))
    return f"sha256:{digest.hexdigest()}"


def check_fingerprint(saved: Path, family: Family, made: str, way_out: str) -> None:
    """Refuse what was `made` on another base. What an earlier version saved has no fingerprint, and passes."""
    found = json.loads(saved.read_text(encoding="utf-8")).get(KEY) if saved.is_file() else None
    if found not in (None, fingerprint(family)):
        raise HartError(f"{made} another base: the files of {family.source} have been replaced since; {way_out}")
