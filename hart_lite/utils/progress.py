"""Progress bars that a program which does not want to hear from us does not see."""

from __future__ import annotations

import logging
from typing import Any

from tqdm import tqdm


def progress(*args: Any, **options: Any) -> tqdm:
    """A `tqdm` bar where messages of this package are switched on, as on the command line; else one that hides."""
    wanted = logging.getLogger("hart_lite").isEnabledFor(logging.INFO)
    return tqdm(*args, **options | ({} if wanted else {"disable": True}))
