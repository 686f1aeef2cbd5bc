"""The `$` texts of a config, read but never evaluated."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from cxrmonai.bundle.targets import argument_faults, attribute, load_module
from cxrmonai.bundle.wording import one_line, suggestion
from cxrmonai.errors import CxrError

_ALWAYS_THERE = {"monai": "monai", "torch": "torch", "np": "numpy", "numpy": "numpy"}


def import_faults(texts: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Runs the import statements among the `$` texts (by id) and returns the names they bind, and their faults.

    A name whose import failed is bound to None, so that it is told once.
    """
    names: dict[str, Any] = {name: load_module(module, name) for name, module in _ALWAYS_THERE.items()}
    faults = []
    for id, text in texts.items():
        statement = _import_statement(text)
        if statement is None:
            continue
        if len(statement.names) > 1:
            faults.append(f"{id}: MONAI keeps only the first name of '{text}'; write one statement for each name")
        alias = statement.names[0]
        bound = alias.asname or alias.name
        try:
            names[bound] = _imported(statement, text)
        except CxrError as error:
            names[bound] = None
            faults.append(f"{id}: {error}")
    return names, faults


def expression_faults(id: str, text: str, names: Mapping[str, Any]) -> list[str]:
    """Returns the faults of one `$` text: its syntax, names that nothing binds, and parts its modules do not have."""
    source = _with_references(text)
    if source is None or _import_statement(text) is not None:
        return []
    try:
        ast.parse(source)
        tree = ast.parse(source, mode="eval")
        compile(tree, "<config>", "eval")
    except SyntaxError as error:
        return [f"{id}: '{one_line(text)}' is not a Python expression: {error.msg}"]
    if "import" in text and not _parses(text[1:]):
        return [f"{id}: MONAI takes '{one_line(text)}' for an import statement; avoid the letters 'import' in it"]
    return [f"{id}: {fault}" for fault in (*_name_faults(tree, names), *_module_faults(tree, names))]


def _import_statement(text: str) -> ast.Import | ast.ImportFrom | None:
    try:
        body = ast.parse(text[1:]).body
    except SyntaxError:
        return None
    return body[0] if body and isinstance(body[0], (ast.Import, ast.ImportFrom)) else None


def _imported(statement: ast.Import | ast.ImportFrom, text: str) -> Any:
    name = statement.names[0].name
    module_name = statement.module or "" if isinstance(statement, ast.ImportFrom) else name
    module = load_module(module_name, f"'{text}'")
    if module is None:
        raise CxrError(f"'{text}': there is no module '{module_name}'")
    if isinstance(statement, ast.Import):
        return module
    if not hasattr(module, name):
        # MONAI looks the name up on the package and never imports a submodule for it.
        if _is_module(f"{module_name}.{name}"):
            raise CxrError(f"MONAI cannot import a module by '{text}'; write '$import {module_name}.{name} as {name}'")
        raise CxrError(f"'{text}': '{module_name}' has no '{name}'{suggestion(name, dir(module))}")
    return getattr(module, name)


def _is_module(name: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _with_references(text: str) -> str | None:
    """Returns the Python source that MONAI makes of a `$` text; None for an '@' without a name, told elsewhere."""
    from monai.bundle import ReferenceResolver

    references = ReferenceResolver.match_refs_pattern(text)
    return None if "" in references else ReferenceResolver.update_refs_pattern(text, references)[1:]


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def _bound(tree: ast.AST) -> set[str]:
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return arguments | {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}


def _name_faults(tree: ast.AST, names: Mapping[str, Any]) -> Iterator[str]:
    known = {*names, *_bound(tree), *dir(builtins), "__local_refs"}
    used = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    for name in dict.fromkeys(used):
        if name in known:
            continue
        if any(bound.startswith(f"{name}.") for bound in names):
            yield f"'{name}' is not bound: MONAI binds '$import a.b' as 'a.b' only; add '$import {name}' to the imports"
        else:
            yield f"'{name}' is not defined; add '$import {name}' to the imports, or write '@{name}' for a key"


def _module_faults(tree: ast.AST, names: Mapping[str, Any]) -> Iterator[str]:
    bound = _bound(tree)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Attribute, ast.Name)) or id(node) in inner:
            continue
        path = _dotted(node)
        if not path or path[0] in bound or names.get(path[0]) is None:
            continue
        try:
            found, rest = _follow(names[path[0]], path)
        except CxrError as error:
            yield str(error)
            continue
        if not rest and id(node) in calls:
            yield from _call_faults(found, ".".join(path), calls[id(node)])


def _dotted(node: ast.expr) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        head = _dotted(node.value)
        return [*head, node.attr] if head else []
    return []


def _follow(found: Any, path: list[str]) -> tuple[Any, list[str]]:
    """Goes along a dotted path as long as it leads through modules, and returns the rest of the path as well."""
    rest = path[1:]
    while rest and isinstance(found, ModuleType):
        found = attribute(found, rest[0], found.__name__, f"'{'.'.join(path)}'")
        rest = rest[1:]
    return found, rest


def _call_faults(target: Any, name: str, call: ast.Call) -> list[str]:
    starred = any(isinstance(item, ast.Starred) for item in call.args) or any(k.arg is None for k in call.keywords)
    if starred or not callable(target):
        return []
    return argument_faults(target, name, [k.arg for k in call.keywords if k.arg], positional=len(call.args))
