"""An app folder that MONAI Label's server starts from."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from cxrmonai.deploy.export import find_weights, write_bundle
from cxrmonai.deploy.serving.bundles import SegmentingBundle, open_bundle
from cxrmonai.errors import CxrError
from cxrmonai.files import write_json, write_text

APP_FILE = "app.json"
REQUIREMENTS = "requirements.txt"
TRAINING = ("configs/train.json",)
MAIN = '''"""What MONAI Label's server loads; made by `python -m cxrmonai label-app`."""

from cxrmonai.deploy.serving.app import RadiographApp

__all__ = ["RadiographApp"]
'''
README = """# An app for MONAI Label

Bundles: {names}. Research only, not for diagnosis.

MONAI Label wants an environment of its own. Once, from the folder of the cxrmonai repository, with this folder as APP:

```
python -m venv label-env
label-env/bin/pip install --no-deps -r APP/requirements.txt .
```

Then, with a folder of radiographs (PNG, JPEG, DICOM, NIfTI) or the address of a DICOMweb archive as STUDIES:

```
label-env/bin/python -m cxrmonai serve APP --studies STUDIES
```

3D Slicer takes the address http://127.0.0.1:8000; http://127.0.0.1:8000/ohif/ shows an archive in the browser. The
server is there for this machine only and asks for no password.
"""

Made = dict[str, tuple[dict[str, float], int, int]]


def make_app(
    out: str | os.PathLike[str],
    bundles: Sequence[str | os.PathLike[str]],
    ckpt_paths: Sequence[str | os.PathLike[str]] | None = None,
    images: str | os.PathLike[str] | None = None,
) -> Made:
    """Makes an app folder of trained bundles; it appears under its name when it is whole.

    Args:
        out: the folder to make.
        bundles: folders of bundles, or names of those below `bundles`.
        ckpt_paths: weights, one for each bundle in their order; by default those that each inference.json names.
        images: see `export.export_bundle`.

    Returns:
        What `export.write_bundle` returns, by name of the bundle.

    Raises:
        CxrError: a bundle or its weights are not there, two bundles have the same name, the number of weights is
            another, or `out` is there already; see also `open_bundle`.
    """
    out, chosen = Path(out), [_folder(bundle) for bundle in bundles]
    if not chosen:
        raise CxrError("--bundles is missing: names as A,B, such as supervised,deeplabv3plus,cam_localization")
    if ckpt_paths is not None and len(ckpt_paths) != len(chosen):
        raise CxrError(f"--ckpt_paths names {len(ckpt_paths)} files for {len(chosen)} bundles; give one for each")
    weights = [
        find_weights(bundle, path, "--ckpt_paths")
        for bundle, path in zip(chosen, ckpt_paths or [None] * len(chosen), strict=True)
    ]
    if out.exists():
        raise CxrError(f"{out}: is there already; give another --out, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        folder = Path(temporary) / out.name
        made = write_app(folder, list(zip(chosen, weights, strict=True)), images=images)
        os.replace(folder, out)
    return made


def write_app(
    folder: Path,
    bundles: Sequence[tuple[Path, Path]],
    torchscript: bool = False,
    onnx: bool = False,
    images: str | os.PathLike[str] | None = None,
    metrics: str | os.PathLike[str] | None = None,
) -> Made:
    """Fills a folder as MONAI Label wants it: `main.py`, `model/NAME` for each bundle, and how to start.

    Args:
        folder: to fill.
        bundles: folder and weights of each.
        torchscript: see `export.export_bundle`.
        onnx: likewise.
        images: likewise.
        metrics: likewise.

    Raises:
        CxrError: see `make_app`.
    """
    made: Made = {}
    models: dict[str, Any] = {}
    for bundle, weights in bundles:
        name, place = bundle.resolve().name, folder / "model" / bundle.resolve().name
        if name in made:
            raise CxrError(f"two bundles are called {name}; an app tells them by their folders' names")
        made[name] = write_bundle(place, bundle, weights, torchscript, onnx, images, metrics)
        served = open_bundle(place, device="cpu")
        if isinstance(served, SegmentingBundle):
            for file in TRAINING:
                shutil.copy(bundle / file, place / file)
        metadata = json.loads((place / "configs/metadata.json").read_text(encoding="utf-8"))
        models[name] = {
            "kind": served.kind,
            "labels": served.labels(),
            "class_names": served.class_names,
            "description": metadata["description"],
        }
    write_json(folder / APP_FILE, {"models": models})
    write_text(folder / "main.py", MAIN)
    write_text(folder / "README.md", README.format(names=", ".join(models)))
    write_text(folder / REQUIREMENTS, files("cxrmonai.deploy.serving").joinpath(REQUIREMENTS).read_text("utf-8"))
    return made


def _folder(bundle: str | os.PathLike[str]) -> Path:
    """A bundle by its folder, or by its name below `bundles`."""
    path = Path(bundle)
    below = Path("bundles") / path
    return below if not path.is_dir() and below.is_dir() else path
