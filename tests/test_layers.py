"""Data flows one way: no package imports one to its right."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "cxrmonai"
LAYERS = (
    ("data",),
    ("transforms",),
    ("networks",),
    ("losses", "metrics"),
    ("engines",),
    ("explain", "segmentation"),
    ("report",),
    ("deploy", "pipelines"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
COMMON = {
    "_version",
    "caching",
    "distributed",
    "errors",
    "files",
    "processes",
    "progress",
}  # serve all layers and import none


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name.split(".")[1] for name in names if name.startswith("cxrmonai."))


def test_no_package_imports_one_to_its_right():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for folder, level in LEVEL.items()
        for path in (PACKAGE / folder).rglob("*.py")
        for name in imports(path)
        if LEVEL.get(name, level) > level or (name not in LEVEL and name not in COMMON)
    ]
    assert wrong == []


def test_the_common_modules_import_no_layer():
    wrong = [f"{name} imports {used}" for name in COMMON for used in imports(PACKAGE / f"{name}.py") if used in LEVEL]
    assert wrong == []
