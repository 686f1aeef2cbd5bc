"""The command line: `python -m cxrmonai COMMAND …`. A command is a function; its docstring is its help."""

from cxrmonai.cli.commands import COMMANDS, main
from cxrmonai.cli.exit_codes import SOME_SKIPPED

__all__ = ["COMMANDS", "SOME_SKIPPED", "main"]
