"""Every way of answering that an evaluation knows, by its name on the command line."""

from __future__ import annotations

from hart_lite.data.fields import nearest
from hart_lite.errors import HartError
from hart_lite.inference.protocols import hart
from hart_lite.inference.protocols.base import Protocol
from hart_lite.inference.protocols.deepeyes import deepeyes
from hart_lite.inference.protocols.mgpo import mgpo
from hart_lite.inference.protocols.pixel_reasoner import pixel_reasoner
from hart_lite.utils.text import shown

OURS = ("full", "crops", "full+crops")
ARMS = ("crops-noise", "crops-control")  # which say what the crops of `crops` are worth
LOOPS: dict[str, Protocol] = {"hart": hart.crops, "mgpo": hart.keep_image, "direct": hart.full}
PROTOCOLS: dict[str, Protocol] = {
    "full": hart.full,
    "crops": hart.crops,
    "full+crops": hart.full_and_crops,
    "crops-noise": hart.noise,
    "crops-control": hart.control,
    "mgpo": mgpo,
    "deepeyes": deepeyes,
    "pixel-reasoner": pixel_reasoner,
}


def find(name: str) -> Protocol:
    """Raises `HartError` for a mode that is not there."""
    if name not in PROTOCOLS:
        raise HartError(f"unknown mode {shown(name)}{nearest(name, list(PROTOCOLS))}; allowed: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
