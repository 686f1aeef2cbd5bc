"""Reading a checkpoint without running anything that is in it."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cxrmonai.errors import CxrError

# what a Lightning file holds beside plain data, where its settings are an OmegaConf object as GLoRIA's are
INERT = (
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.StringNode",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "typing.Any",
    "builtins.bool",
    "builtins.dict",
    "builtins.float",
    "builtins.int",
    "builtins.list",
    "builtins.str",
)


class Placeholder:
    """Stands where a checkpoint holds an object of one of the classes in `INERT`, and keeps nothing of it."""

    def __new__(cls, *_: Any) -> Placeholder:
        """Takes and drops what the object was made from."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        """Drops what the object held."""


def _empty_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _stand_ins() -> list[Callable[..., Any]]:
    """Callables that carry the names of the classes they stand for, by which the unpickler looks them up."""
    classes = []
    for path in INERT:
        module, name = path.rsplit(".", 1)
        classes.append(type(name, (Placeholder,), {"__module__": module, "__qualname__": name}))
    _empty_dict.__module__, _empty_dict.__qualname__ = "collections", "defaultdict"
    return [*classes, _empty_dict]


STAND_INS = _stand_ins()


def read_checkpoint(path: str | os.PathLike[str]) -> Any:
    """Reads a file of `torch.save`, new or from before PyTorch 1.6, without running code.

    PyTorch's restricted unpickler (`weights_only=True`) builds tensors and plain containers only. Objects of the few
    classes in `INERT` become placeholders that keep nothing: the classes themselves are never looked up, imported or
    called. Any other class or function that the file names is a refusal.

    Args:
        path: the file.

    Returns:
        What it holds, tensors on the CPU.

    Raises:
        CxrError: the file is missing, no checkpoint, damaged, or names a class or function that could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CxrError(f"{path}: no such file; give the weights' file")
    try:
        with torch.serialization.safe_globals(STAND_INS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CxrError(f"{path}: not plain weights ({_reason(str(error))})") from error
    except Exception as error:  # damaged files raise almost anything
        text = str(error)
        if "TorchScript" in text:
            raise CxrError(f"{path}: not weights but a TorchScript program; save its state_dict() instead") from error
        if ".tar" in text:
            raise CxrError(
                f"{path}: not readable safely (a tar file of PyTorch before 0.1.10); load and save it anew there"
            ) from error
        raise CxrError(f"{path}: not a readable checkpoint; is the file whole?") from error


def _reason(text: str) -> str:
    named = re.search(r"GLOBAL (\S+) (?:was not|whose module)", text)
    if named:
        return f"it names {named[1]}, which could run code"
    return "a pickle that could run code, or no checkpoint"
