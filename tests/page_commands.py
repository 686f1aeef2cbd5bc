"""Commands of the documentation, taken out of a page and run as its reader would run them."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from cxrmonai.errors import user_error


def commands(page, language="bash"):
    """The commands of a page's blocks in a language, as a shell would take them apart.

    A block says what language it is in behind its opening fence; the task pages mark what a reader runs as `bash`.
    """
    found = []
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", Path(page).read_text(encoding="utf-8"), re.M | re.S)
    for block in (text for marked, text in blocks if marked == language):
        lines = block.replace("\\\n", " ").splitlines()
        found += [words for words in (shlex.split(line, comments=True) for line in lines) if words]
    return found


def name_of(words):
    """What is run: the command of `cxrmonai`, or `BUNDLE/CONFIG` of a bundle's run."""
    if words[:4] == ["python", "-m", "monai.bundle", "run"]:
        return re.search(r"bundles/(\w+)/configs/(\w+)\.json", words[words.index("--config_file") + 1]).expand(r"\1/\2")
    assert words[:3] == ["python", "-m", "cxrmonai"], f"not a command that a page may hold: {shlex.join(words)}"
    return words[3]


@dataclass
class Finished:
    """What a command left: its exit code and what it printed; an error is the line that a user sees."""

    code: int
    out: str
    err: str


def run_command(words, folder):
    """Runs `python -m MODULE …` in this process, in a folder: starting Python and PyTorch anew would take seconds."""
    assert words[:2] == ["python", "-m"], shlex.join(words)
    out, err = io.StringIO(), io.StringIO()
    before, argv, hook, code = os.getcwd(), sys.argv, sys.excepthook, 0
    try:
        os.chdir(folder)
        sys.argv = words[2:]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except Exception as error:
        told = user_error(error)
        if told is None:
            raise
        code = 1
        err.write(f"error: {told}\n")
    finally:
        os.chdir(before)
        sys.argv, sys.excepthook = argv, hook
    return Finished(code, out.getvalue(), err.getvalue())
