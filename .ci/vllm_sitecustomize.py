"""Read by every Python that starts in the environment of vLLM for CPUs.

The registry's torchvision is built for cards: its operators are missing here, and its import fails on the first one
that it describes. Declared, though never defined, the two let the import through.
"""

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    DECLARED = torch.library.Library("torchvision", "DEF")  # kept: they go when nothing holds it
    for name in ("nms", "qnms"):
        DECLARED.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
except ImportError:
    pass
