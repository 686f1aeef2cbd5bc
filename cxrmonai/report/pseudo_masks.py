"""What pseudo-masks are worth, beside those that a classifier's maps give alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxrmonai import distributed
from cxrmonai.engines import MaskScorer
from cxrmonai.files import write_json
from cxrmonai.report.segmentation import write_segmentation


def write_pseudo_masks(
    output_dir: str | os.PathLike[str],
    scorer: MaskScorer,
    cam_scorer: MaskScorer,
    facts: Mapping[str, object],
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes both evaluations, each as `write_segmentation` does, that of the maps alone into the folder `cam`.

    Rank 0 does it, the others nothing.

    Args:
        output_dir: gets `metrics.json`, which also holds the other's under `cam`, `overlap.csv` and `report.html`.
        scorer: of IRNet's masks, after its run.
        cam_scorer: of the maps' own masks, after its run.
        facts: to be listed in the reports.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.

    Returns:
        What `metrics.json` holds.
    """
    if distributed.rank() != 0:
        return {}
    folder = Path(output_dir)
    maps = write_segmentation(folder / "cam", cam_scorer, facts, resamples, seed)
    both = {
        f"mean {name}, maps alone": f"{maps[f'mean_{measure}']:.3f}"
        for name, measure in (("Dice", "dice"), ("IoU", "miou"))
    }
    summary = write_segmentation(folder, scorer, {**facts, **both}, resamples, seed) | {"cam": maps}
    write_json(folder / "metrics.json", summary)
    return summary
