"""`hart-lite` as a user runs it, with secrets in its environment; all that it prints is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LONGEST = 900  # seconds
SECRETS = {
    "HF_TOKEN": "hf_canaryCanaryCanaryCanaryCanary01",
    "OPENAI_API_KEY": "sk-canary-canary-canary-0123456789",
    "HUGGING_FACE_HUB_TOKEN": "hf_otherOtherOtherOtherOtherOth02",
}


class CommandLine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outputs: list[str] = []

    def __call__(self, *words: object, **environment: str) -> int:
        """Returns the exit code."""
        variables = {**os.environ, **SECRETS, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **environment}
        command = [sys.executable, "-m", "hart_lite.cli.main", *map(str, words)]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=variables, cwd=self.folder, timeout=LONGEST
        )
        self.outputs.append(done.stdout + done.stderr)
        return done.returncode
