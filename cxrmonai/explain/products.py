"""What is made of heatmaps: boxes, masks, and the files that CheXlocalize's scripts read."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cxrmonai.data.geometry import HEIGHT, WIDTH, content_window
from cxrmonai.data.mask_file import MaskFileWriter
from cxrmonai.data.store import Store
from cxrmonai.data.vocabulary import canonical
from cxrmonai.errors import CxrError
from cxrmonai.explain.boxes import Rule, check_rule, find_boxes, find_mask
from cxrmonai.explain.heatmaps import Heatmaps
from cxrmonai.explain.truth import StoreTruth
from cxrmonai.files import atomic_path
from cxrmonai.progress import progress_bar

BOX_FILE_COLUMNS = ("image_id", "finding", "x", "y", "w", "h", "score", "probability")
EXPORTS = ("none", "chexlocalize")
OTHER_NAMES = {"Lung Opacity": "Airspace Opacity"}  # as CheXlocalize calls it
CHEXLOCALIZE_TASKS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Airspace Opacity",
    "Edema",
    "Consolidation",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Support Devices",
)


def write_boxes(
    path: str | os.PathLike[str], heatmaps: Heatmaps, store: Store, rule: Rule = "wang", min_probability: float = 0.0
) -> pd.DataFrame:
    """Writes a CSV file with a row for each box.

    Columns: `image_id`, `finding`, `x`, `y`, `w`, `h` in original pixels, `score` (the probability times the highest
    value of the map inside), `probability` of the finding in that image.

    Args:
        path: of the file.
        heatmaps: of images of the store.
        store: whose geometry leads back to original pixels.
        rule: see `boxes.thresholds`.
        min_probability: findings below it get no boxes.

    Returns:
        The table.

    Raises:
        CxrError: an unknown rule.
    """
    check_rule(rule)
    rows: list[tuple[object, ...]] = []
    for n, maps in _each(heatmaps, "boxes"):
        geometry = store.geometry[heatmaps.rows[n]]
        for k, name in enumerate(heatmaps.class_names):
            probability = float(heatmaps.probability[n, k])
            if probability < min_probability:
                continue
            found = find_boxes(maps[k], geometry, rule)
            for box, heat in zip(found.boxes, found.heat, strict=True):
                rows.append((heatmaps.image_ids[n], name, *box, probability * heat, probability))
    table = pd.DataFrame(rows, columns=list(BOX_FILE_COLUMNS))
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")
    return table


def write_masks(
    path: str | os.PathLike[str], heatmaps: Heatmaps, store: Store, rule: Rule = "otsu", min_probability: float = 0.0
) -> None:
    """Writes a mask file (`data.mask_file`) with every class of every image, at original size.

    Args:
        path: of the JSON file.
        heatmaps: of images of the store.
        store: whose geometry leads back to original pixels.
        rule: see `boxes.find_mask`.
        min_probability: findings below it get an empty mask.

    Raises:
        CxrError: an unknown rule.
    """
    check_rule(rule)
    with MaskFileWriter(path) as writer:
        for n, maps in _each(heatmaps, "masks"):
            writer.add(heatmaps.image_ids[n], _masks(heatmaps, store, n, maps, rule, min_probability))


def _masks(
    heatmaps: Heatmaps, store: Store, n: int, maps: np.ndarray, rule: Rule, min_probability: float
) -> dict[str, np.ndarray]:
    geometry = store.geometry[heatmaps.rows[n]]
    empty = np.zeros((int(geometry[HEIGHT]), int(geometry[WIDTH])), bool)
    return {
        name: find_mask(maps[k], geometry, rule) if heatmaps.probability[n, k] >= min_probability else empty
        for k, name in enumerate(heatmaps.class_names)
    }


def export(
    kind: str,
    folder: str | os.PathLike[str],
    heatmaps: Heatmaps,
    store: Store,
    rule: Rule = "otsu",
    min_probability: float = 0.0,
) -> Path | None:
    """Writes what the scripts of CheXlocalize (Saporta et al., 2022) read as it is.

    `maps/IMAGE_TASK_map.pkl`, a pickle of plain tensors and numbers for each image and each of its ten tasks that the
    classifier knows: `map` (1, 1, h, w) float32 without the padding of the store, `prob`, `task`, `gt`, `cxr_img` (3,
    h, w) 0–1, `cxr_dims` (width, height) of the original. `segmentations.json`, masks for all ten tasks, empty where
    the classifier does not know one. `truth.json`, the true masks in the same layout, of the images whose place is
    known for each of the classifier's tasks.

    Args:
        kind: `none` or `chexlocalize`.
        folder: gets a folder of that name.
        heatmaps: of images of the store.
        store: with the images.
        rule: see `boxes.find_mask`.
        min_probability: findings below it get an empty mask.

    Returns:
        The folder; `None` for `none`.

    Raises:
        CxrError: an unknown kind, or the classifier knows none of the tasks.
    """
    if kind not in EXPORTS:
        raise CxrError(f"export '{kind}': known are {', '.join(EXPORTS)}")
    if kind == "none":
        return None
    tasks = {k: task for k, name in enumerate(heatmaps.class_names) if (task := task_name(name)) in CHEXLOCALIZE_TASKS}
    if not tasks:
        raise CxrError(f"export chexlocalize: the classes are none of its tasks, {', '.join(CHEXLOCALIZE_TASKS)}")
    folder, truth = Path(folder) / "chexlocalize", StoreTruth(store, heatmaps.class_names)
    with (
        MaskFileWriter(folder / "segmentations.json") as segmentations,
        MaskFileWriter(folder / "truth.json") as true_masks,
    ):
        for n, maps in _each(heatmaps, "export"):
            image_id, row = heatmaps.image_ids[n], int(heatmaps.rows[n])
            masks = _masks(heatmaps, store, n, maps, rule, min_probability)
            segmentations.add(image_id, _all_tasks({tasks[k]: masks[heatmaps.class_names[k]] for k in tasks}))
            known = {task: truth.mask(row, k) for k, task in tasks.items()}
            if all(mask is not None for mask in known.values()):
                true_masks.add(image_id, _all_tasks(known))
            for k, task in tasks.items():
                content = _pickled(store, row, maps[k], float(heatmaps.probability[n, k]), task, truth.present(row, k))
                with atomic_path(folder / "maps" / f"{image_id}_{task}_map.pkl") as temporary:
                    temporary.write_bytes(pickle.dumps(content))
    return folder


def task_name(name: str) -> str:
    """What CheXlocalize calls a finding."""
    return OTHER_NAMES.get(canonical(name), canonical(name))


def _all_tasks(masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    empty = np.zeros_like(next(iter(masks.values())))
    return {task: masks.get(task, empty) for task in CHEXLOCALIZE_TASKS}


def _pickled(
    store: Store, row: int, heat: np.ndarray, probability: float, task: str, present: bool
) -> dict[str, object]:
    geometry = store.geometry[row]
    window = content_window(geometry)
    image = np.asarray(store.images[row][window], np.float32) / np.iinfo(store.dtype).max
    return {
        "map": torch.from_numpy(np.array(heat[window], np.float32))[None, None],
        "prob": probability,
        "task": task,
        "gt": int(present),
        "cxr_img": torch.from_numpy(image).repeat(3, 1, 1),
        "cxr_dims": (int(geometry[WIDTH]), int(geometry[HEIGHT])),
    }


def _each(heatmaps: Heatmaps, label: str) -> Iterator[tuple[int, np.ndarray]]:
    """Place and maps (K, S, S) of each image, with a progress bar."""
    with progress_bar(label, len(heatmaps), "img") as bar:
        for n in range(len(heatmaps)):
            yield n, heatmaps.maps([n])[0]
            bar.update(1)
