"""The libraries underneath, made quiet."""

from __future__ import annotations


def quiet_libraries() -> None:
    """The libraries' own bars and notices would bury the figures of the run."""
    import os
    import warnings

    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler writes lines of levels 0 to 5; read at its start
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft|trl")
