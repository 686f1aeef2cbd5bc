"""The config that a workflow is running, to be asked for a part only when it is wanted, or to be run anew."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from cxrmonai.bundle.root import running_workflow
from cxrmonai.errors import CxrError

if TYPE_CHECKING:
    from monai.bundle import ConfigParser


class Recipe:
    """A config with its overrides.

    MONAI builds all that an expression refers to before it evaluates it. A recipe builds an item when it is asked for
    it, so that an expression may choose between parts that are costly.

    Args:
        parser: of the config.
    """

    def __init__(self, parser: ConfigParser) -> None:
        self._parser = parser

    def get(self, key: str) -> Any:
        """Builds an item of the config with all that it refers to; what was built already is kept.

        Args:
            key: such as `train::trainer`.
        """
        return self._parser.get_parsed_content(key)

    def anew(self, **overrides: Any) -> Recipe:
        """The same config with other values for some of its top-level keys, of which nothing is built yet."""
        from monai.bundle import ConfigParser

        config = copy.deepcopy(self._parser.get())
        parser = ConfigParser({**config, **overrides})
        parser.parse(reset=True)
        return Recipe(parser)


def running_recipe() -> Recipe:
    """The recipe of the workflow that is evaluating this call, started in Python or from the command line.

    Raises:
        CxrError: no workflow is.
    """
    workflow = running_workflow()
    if workflow is None:
        raise CxrError("this config runs as a workflow only: with python -m monai.bundle run, or create_workflow")
    return Recipe(workflow.parser)
