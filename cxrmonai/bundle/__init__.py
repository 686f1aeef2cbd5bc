"""Checks that MONAI's bundle runner does not make: faults of a config in one line each, before anything is built."""

from cxrmonai.bundle.checking import check
from cxrmonai.bundle.recipe import Recipe, running_recipe
from cxrmonai.bundle.root import find_root
from cxrmonai.bundle.startup import install_excepthook, main_check, preflight

__all__ = ["Recipe", "check", "find_root", "install_excepthook", "main_check", "preflight", "running_recipe"]
