"""Run a notebook on this machine and store it with its outputs: `python notebooks/store.py notebooks/tour.ipynb ..`

It runs from the beginning, in an empty folder, and is written only if every cell went well. Of a progress bar the last
state is kept.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def store(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, resources={"metadata": {"path": folder}}, record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = kept(cell.outputs)
    notebook.metadata.language_info = {"name": "python"}  # the version is the machine's
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def kept(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Pictures, and what was printed, neighbouring pieces as one. Not what libraries warn of in the kernel: it speaks
    of this machine. (What a command warns of arrives as printed.)"""
    whole: list[NotebookNode] = []
    for output in outputs:
        if output.output_type != "stream":
            whole.append(output)
        elif output.name == "stdout" and whole and whole[-1].output_type == "stream":
            whole[-1].text += output.text
        elif output.name == "stdout":
            whole.append(output)
    for output in whole:
        if output.output_type == "stream":
            output.text = in_the_end(output.text)
    return whole


def in_the_end(text: str) -> str:
    """What a terminal would show: of a line that was written over, the last. Exits at a command that failed: a notebook
    goes on after one, and must not be stored so."""
    lines = []
    for line in ANSI.sub("", text).replace("\r\n", "\n").split("\n"):
        written = [part.rstrip() for part in line.split("\r") if part.strip()]
        lines += written[-1:] or [""]
        if lines[-1].startswith("hart-lite: ") or "command not found" in lines[-1]:
            raise SystemExit(lines[-1])
    return "\n".join(lines)


if __name__ == "__main__":
    # The commands of the environment that this Python belongs to.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for name in sys.argv[1:]:
        store(Path(name))
