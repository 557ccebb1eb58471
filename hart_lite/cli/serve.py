"""serve: vLLM for the rollouts of a recipe."""

from __future__ import annotations

import argparse
import inspect
import os
import shlex
import sys

from hart_lite.errors import ConfigError


def add(commands: argparse._SubParsersAction) -> None:
    about = {"description": inspect.cleandoc(serve.__doc__), "formatter_class": argparse.RawDescriptionHelpFormatter}
    command = commands.add_parser("serve", help="start a vLLM server for a recipe", **about)
    command.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="as `hart-lite train` takes them")
    command.add_argument("--server", type=int, default=1, metavar="N", help="start the N-th of rollout.servers")
    command.add_argument(
        "--run", dest="start", action="store_true", help="start it here, in the environment that has vLLM"
    )
    command.set_defaults(run=serve)


def serve(arguments: argparse.Namespace) -> int:
    """Print the command that starts a server for `rollout.engine=vllm`, or with --run start it.

    vLLM wants other versions of torch than hart-lite is tested with, so give it an environment of its own. The server
    has to see the run directory under the trainer's path: adapters are handed over there.
    """
    from importlib.util import find_spec

    from hart_lite.config.recipe import load_recipe
    from hart_lite.inference.serve_command import serve_command

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    servers = recipe.rollout.servers
    if not 1 <= arguments.server <= len(servers):
        raise ConfigError(f"--server {arguments.server}: rollout.servers has {len(servers)}; give 1 to {len(servers)}")
    environment, words = serve_command(recipe, servers[arguments.server - 1])
    variables = [f"{name}={value}" for name, value in environment.items()]
    if not arguments.start:
        print(shlex.join([*variables, "python", *words]))
        return 0
    if find_spec("vllm") is None:
        raise ConfigError("this environment has no vLLM; run the command that `hart-lite serve` prints in one that has")
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *words], os.environ | environment)
