"""The classifier that a run starts from where none is given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cxrmonai import distributed
from cxrmonai.caching import is_made, note_made, stamp
from cxrmonai.errors import CxrError
from cxrmonai.networks import load_classifier

SMALL = {"max_epochs": 12}


def find_classifier(
    classifier: str | None,
    bundle_root: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    data_file: str,
    device: str,
    seed: int = 0,
    needed: bool = True,
) -> str | None:
    """A classifier's weights: those that are given, or those that the bundle `supervised` made, or a small one.

    Args:
        classifier: path of weights, or `None`.
        bundle_root: of the bundle that asks; `supervised` lies beside it.
        output_dir: where the small one goes, `classifier/model.pt`.
        data_file: the store that it is trained on.
        device: where it is trained.
        seed: of its training.
        needed: `False` gives `None` where none is given.

    Returns:
        The path.

    Raises:
        CxrError: the file named is not there; or there is none, and none can be trained here.
    """
    if classifier is not None:
        load_classifier(classifier)
        return str(classifier)
    if not needed:
        return None
    beside = Path(bundle_root).parent / "supervised"
    if (beside / "models/model.pt").is_file():
        print(f"note: no --classifier given: maps are those of {beside / 'models/model.pt'}")
        return str(beside / "models/model.pt")
    config, made = beside / "configs/train.json", Path(output_dir) / "classifier"
    inputs = {"data": [str(data_file), stamp(data_file)], "seed": seed, **SMALL}
    if is_made(made / "made.json", inputs):
        return str(made / "model.pt")
    if not config.is_file() or distributed.world_size() > 1:
        raise CxrError(
            "no classifier to take maps from; train one with `python -m monai.bundle run --config_file "
            "bundles/supervised/configs/train.json`, and name it with --classifier models/model.pt"
        )
    print(f"note: no --classifier given and none in {beside / 'models'}: training a small one", flush=True)
    options = {
        "config_file": config,
        "bundle_root": beside,
        "data_file": data_file,
        "ckpt_dir": made,
        "output_dir": made / "eval",
        "device": device,
        "seed": seed,
        **SMALL,
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    if subprocess.run([sys.executable, "-m", "monai.bundle", "run", *words]).returncode:
        raise CxrError(f"the classifier could not be trained on {data_file}; see above")
    note_made(made / "made.json", inputs, [made / "model.pt"])
    return str(made / "model.pt")


__all__ = ["find_classifier"]
