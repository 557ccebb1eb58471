"""check-base: is a base sound on this machine with these settings, before anything is trained?"""

from __future__ import annotations

import argparse
import inspect

from hart_lite.utils.libraries import quiet_libraries
from hart_lite.utils.text import printable

EXAMPLES = """examples:
  hart-lite check-base toy
  hart-lite check-base Qwen/Qwen2.5-VL-7B-Instruct model.quant=nf4
  hart-lite check-base my/base model.dtype=float16 model.device=cpu pixels.full=200704
"""


def add(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "check-base",
        help="is a base sound on this machine?",
        description=inspect.cleandoc(check_base.__doc__),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("model", metavar="MODEL", help="`toy`, a Hub id, or a folder with config.json")
    command.add_argument("overrides", nargs="*", metavar="key=value",
                         help="model.quant, .dtype, .device, .attention, .revision, .box_format, .lora.*, pixels.full, "
                         "pixels.min, as in a recipe")  # fmt: skip
    command.set_defaults(run=check_base)


def check_base(arguments: argparse.Namespace) -> int:
    """Load a base as training would, ask it about pictures that are drawn here, and judge what is seen.

    How large numbers become in each layer and what float16 makes of that; whether tokens are drawn with the log-probs
    that the update and the library find for them; whether a fresh adapter changes nothing; which box format the base
    writes; memory against the plan; speed. The exit code is 1 when a check failed.
    """
    quiet_libraries()
    from hart_lite.perf.check_base.report import text
    from hart_lite.perf.check_base.run import check_base as check

    report = check(arguments.model, arguments.overrides)
    print(printable(text(report)))
    return 0 if report.sound else 1
