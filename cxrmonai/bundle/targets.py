"""Finding what a dotted path names, and whether it takes the arguments given."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any

from cxrmonai.bundle.wording import listed, one_line, suggestion
from cxrmonai.errors import CxrError


class MissingPackageError(CxrError):
    """A package that is not installed."""


_PIP_NAMES = {
    "PIL": "pillow",
    "SimpleITK": "simpleitk",
    "cv2": "opencv-python-headless",
    "ignite": "pytorch-ignite",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def load_module(name: str, needed_by: str) -> ModuleType | None:
    """Imports a module; returns None when its parent is there but has no such part.

    Raises:
        CxrError: the package, or one that it needs, is not installed, or its import fails.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if "." in name and (name == missing or name.startswith(f"{missing}.")) and "." in missing:
            return None
        raise _not_installed(missing, needed_by) from error
    except Exception as error:
        raise CxrError(f"importing '{name}' fails with {type(error).__name__}: {one_line(error)}") from error


def locate(path: str) -> Any:
    """Returns the object at a dotted path, or at a bare name that MONAI or Python itself knows.

    Raises:
        CxrError: a package is not installed, or a module has no such name.
    """
    parts = path.split(".")
    if len(parts) == 1:
        return _locate_bare(path)
    found: Any = load_module(parts[0], f"'{path}'")
    for end, name in enumerate(parts[1:], start=2):
        found = attribute(found, name, ".".join(parts[: end - 1]), f"'{path}'")
    return found


def attribute(owner: Any, name: str, owner_name: str, needed_by: str) -> Any:
    """Returns a part of a module or class by name, importing it where it is a module not yet loaded.

    Raises:
        CxrError: there is no such part, or a package that it needs is not installed.
    """
    if hasattr(owner, name):
        return getattr(owner, name)
    module = load_module(f"{owner_name}.{name}", needed_by) if hasattr(owner, "__path__") else None
    if module is not None:
        return module
    kind = "module" if isinstance(owner, ModuleType) else "class"
    raise CxrError(f"{kind} '{owner_name}' has no '{name}'{suggestion(name, dir(owner))}")


def argument_faults(
    target: Any, name: str, keywords: Collection[str], positional: int = 0, partial: bool = False
) -> list[str]:
    """Returns what is wrong with calling `target` with these arguments; nothing when it has no readable signature."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError, ImportError, AttributeError):
        return []
    parameters = signature.parameters
    named = [key for key, item in parameters.items() if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
    open_ended = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
    named += _passed_on(target) if open_ended else []
    unknown = [key for key in keywords if key not in named and (not open_ended or _is_slip(key, named))]
    faults = [f"{name} takes no argument '{key}'{suggestion(key, named)}" for key in unknown]
    if not faults:
        faults = _binding_faults(signature, name, keywords, positional, partial)
    return faults


def component_faults(id: str, config: Mapping[str, Any]) -> list[str]:
    """Returns the faults of one component of a config: its target, its arguments and its mode."""
    target = config["_target_"]
    if not isinstance(target, str) or target[:1] in ("$", "@") or is_disabled(config):
        return []
    mode = config.get("_mode_", "default")
    literal_mode = not (isinstance(mode, str) and mode[:1] in ("$", "@"))
    if literal_mode and mode not in ("default", "callable", "debug"):
        return [f"{id}: _mode_ must be {listed(('default', 'callable', 'debug'))}, not {mode!r}"]
    try:
        found = locate(target)
    except CxrError as error:
        optional = isinstance(config.get("_disabled_"), str) and isinstance(error, MissingPackageError)
        return [] if optional else [f"{id}: {error}"]
    partial = mode == "callable" or not literal_mode
    return [f"{id}: {fault}" for fault in argument_faults(found, target, list(_arguments(config)), partial=partial)]


def is_disabled(config: Any) -> bool:
    """Whether a component is switched off by a literal `_disabled_`."""
    flag = config.get("_disabled_", False) if isinstance(config, Mapping) and "_target_" in config else False
    return flag.lower().strip() == "true" if isinstance(flag, str) else bool(flag)


def _arguments(config: Mapping[str, Any]) -> Iterator[str]:
    from monai.bundle import ConfigComponent

    reserved = ConfigComponent.non_arg_keys | {"_debug_"}
    return (key for key, value in config.items() if key not in reserved and not is_disabled(value))


def _passed_on(target: Any) -> list[str]:
    """The arguments that a class with open keywords may hand to a parent whose own keywords are closed."""
    parents = inspect.getmro(target)[1:] if inspect.isclass(target) else ()
    makers = [vars(parent)["__init__"] for parent in parents if inspect.isfunction(vars(parent).get("__init__"))]
    return [key for maker in makers for key in list(inspect.signature(maker).parameters)[1:]]


def _is_slip(key: str, named: Collection[str]) -> bool:
    """Whether a keyword that might be taken is so close to a named one that it must be a slip of typing."""
    return len(key) > 4 and bool(difflib.get_close_matches(key, named, n=1, cutoff=0.85))


def _binding_faults(
    signature: inspect.Signature, name: str, keywords: Collection[str], positional: int, partial: bool
) -> list[str]:
    bind = signature.bind_partial if partial else signature.bind
    try:
        bind(*[None] * positional, **dict.fromkeys(keywords))
    except TypeError as error:
        text = str(error)
        if text.startswith("missing a required"):
            return [f"{name} needs the argument {text.rpartition(':')[2].strip()}; add it"]
        return [f"{name}: {text}"]
    return []


def _locate_bare(name: str) -> Any:
    import builtins

    found = _locator().get_component_module_name(name)
    if found:
        module = found if isinstance(found, str) else found[0]
        return getattr(importlib.import_module(module), name)
    if hasattr(builtins, name):
        return getattr(builtins, name)
    table = _locator()._components_table or {}
    raise CxrError(f"MONAI has no class or function '{name}'{suggestion(name, table)}")


@lru_cache(maxsize=1)
def _locator() -> Any:
    from monai.bundle import ComponentLocator

    return ComponentLocator()


def _not_installed(module: str, needed_by: str) -> CxrError:
    package = module.partition(".")[0]
    if package != module and importlib.util.find_spec(package) is not None:
        return CxrError(f"{needed_by} needs the module '{module}', which the package '{package}' does not have")
    pip_name = _PIP_NAMES.get(package, package)
    return MissingPackageError(
        f"{needed_by} needs the package '{package}', which is not installed: pip install {pip_name}"
    )
