"""Every way of answering that an evaluation knows, by its name on the command line."""

from __future__ import annotations

from hart_lite.data.rows import nearest
from hart_lite.protocols import ours
from hart_lite.protocols.base import Protocol
from hart_lite.protocols.deepeyes import deepeyes
from hart_lite.protocols.mgpo import mgpo
from hart_lite.protocols.pixel_reasoner import pixel_reasoner
from hart_lite.types import HartError, shown

OURS = ("full", "crops", "full+crops")
PROTOCOLS: dict[str, Protocol] = {
    "full": ours.full,
    "crops": ours.crops,
    "full+crops": ours.full_and_crops,
    "mgpo": mgpo,
    "deepeyes": deepeyes,
    "pixel-reasoner": pixel_reasoner,
}


def find(name: str) -> Protocol:
    """Raises `HartError` for a mode that is not there."""
    if name not in PROTOCOLS:
        raise HartError(f"unknown mode {shown(name)}{nearest(name, list(PROTOCOLS))}; allowed: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
