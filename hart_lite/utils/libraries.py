"""The libraries underneath, made quiet."""

from __future__ import annotations


def quiet_libraries() -> None:
    """The libraries' own bars and notices would bury the figures of the run."""
    import warnings

    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft|trl")
