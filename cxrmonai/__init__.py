"""Shared parts of the cxrmonai bundles for chest radiographs."""

from cxrmonai._version import __version__

__all__ = ["__version__"]
