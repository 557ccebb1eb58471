"""What a training run is doing: one DEBUG line of the logger `hart_lite.phase` as each phase begins.

A listener learns from it in which phase a run is, since every phase lasts until the next one begins: what the processor
was spent on, or where a run was when it was killed (`tests/reliability` kills runs in each of PHASES).
"""

from __future__ import annotations

import logging

PHASES = (
    *("evaluation", "tracking", "rollout", "update", "rollout log", "SFT", "metrics", "checkpoint"),
    *("adapter", "locate", "summary", "report"),
)
log = logging.getLogger("hart_lite.phase")


def begin_phase(name: str) -> None:
    """`name` is one of PHASES."""
    log.debug(name)
