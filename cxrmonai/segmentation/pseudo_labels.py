"""From maps to masks: thresholds, which masks may be there at all, and draws of some of them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_fill_holes
from skimage.filters import threshold_otsu

from cxrmonai.data.geometry import letterbox, mask_to_original
from cxrmonai.data.mask_file import MaskFileWriter, read_mask_file
from cxrmonai.data.mask_store import MaskStore, MaskStoreWriter
from cxrmonai.data.store import Store
from cxrmonai.data.targets import match_classes
from cxrmonai.errors import CxrError
from cxrmonai.progress import progress_bar

Rule = str | float | Sequence[float]
GATES = ("label", "probability", "none")


def masks_of_maps(maps: np.ndarray, rule: Rule = "otsu", fill: bool = False) -> np.ndarray:
    """Thresholds maps; one that is constant, such as that of zeros, gives an empty mask.

    Args:
        maps: (B, K, H, W), 0–1.
        rule: `otsu` for each map by itself (Otsu, 1979, on 256 levels); or a share of 1 above which a pixel belongs to
            the mask, one for all classes or K.
        fill: whether what an outline encloses belongs to the mask, as in CheXseg.

    Returns:
        (B, K, H, W) bool.

    Raises:
        CxrError: an unknown rule, or another number of thresholds.
    """
    flat = maps.max(axis=(2, 3)) > maps.min(axis=(2, 3))
    if isinstance(rule, str):
        if rule != "otsu":
            raise CxrError(f"rule '{rule}': give otsu, or a threshold between 0 and 1")
        masks = np.zeros(maps.shape, bool)
        for n, k in zip(*np.nonzero(flat), strict=True):
            levels = np.round(maps[n, k] * 255).astype(np.uint8)
            masks[n, k] = levels > threshold_otsu(levels) if levels.max() > levels.min() else False
    else:
        limits = np.broadcast_to(np.asarray(rule, np.float32), maps.shape[1:2]) if np.ndim(rule) == 0 else rule
        if len(limits) != maps.shape[1]:
            raise CxrError(f"{len(limits)} thresholds for {maps.shape[1]} classes; give one, or one for each")
        masks = (maps > np.asarray(limits, np.float32)[:, None, None]) & flat[:, :, None, None]
    if fill:
        for n, k in zip(*np.nonzero(masks.any(axis=(2, 3))), strict=True):
            masks[n, k] = binary_fill_holes(masks[n, k])
    return masks


def present(
    gate: str, labels: np.ndarray, probability: np.ndarray, cutoff: float | Sequence[float] = 0.5
) -> np.ndarray:
    """Which findings an image may have a mask of.

    Args:
        gate: `label`, those that the image's label says are there (for training); `probability`, those that the
            classifier finds (for test); `none`, all.
        labels: (N, K) 1, 0, −1 (uncertain) or NaN (unknown).
        probability: (N, K).
        cutoff: of the probability, one or K.

    Returns:
        (N, K) bool.

    Raises:
        CxrError: an unknown gate.
    """
    if gate not in GATES:
        raise CxrError(f"gate '{gate}': known are {', '.join(GATES)}")
    if gate == "label":
        return labels == 1
    return probability >= np.asarray(cutoff) if gate == "probability" else np.ones(labels.shape, bool)


def draw_subset(present: np.ndarray, count: int | None, seed: int = 0, per: str = "image") -> np.ndarray:
    """Draws some of the images that have a finding.

    Args:
        present: (N, K) bool.
        count: how many to draw; `None` or more than there are takes all.
        seed: of the draw.
        per: `image`, so many images in all, as in CheXseg; `finding`, so many images of each finding.

    Returns:
        Their places, in order.

    Raises:
        CxrError: an unknown word, or a number below 1.
    """
    if per not in ("image", "finding"):
        raise CxrError(f"per '{per}': known are image, finding")
    if count is not None and count < 1:
        raise CxrError(f"subset {count}: must be at least 1, or left out for all images")
    random = np.random.default_rng(seed)
    columns = present.any(axis=1)[:, None] if per == "image" else present
    return np.unique(np.concatenate([random.permutation(np.flatnonzero(column))[:count] for column in columns.T]))


def write_mask_file(path: str | os.PathLike[str], masks: MaskStore, store: Store) -> None:
    """Writes the masks of a mask store as a mask file, at original size; undecided pixels are outside.

    Args:
        path: of the JSON file.
        masks: made of images of the store.
        store: whose geometry leads back to original pixels.

    Raises:
        CxrError: the masks are of another store.
    """
    masks.check_ids(masks.rows, store.column("image_id")[masks.rows])
    bar = progress_bar("mask file", len(masks), "img")
    with bar, MaskFileWriter(path) as writer:
        for place, row in enumerate(masks.rows):
            values = masks.get([place])[0] == 1
            each = [mask_to_original(value, store.geometry[row]) for value in values]
            writer.add(masks.image_ids[place], dict(zip(masks.names, each, strict=True)))
            bar.update(1)


def read_into_store(
    path: str | os.PathLike[str], mask_file: str | os.PathLike[str], store: Store, names: Sequence[str]
) -> int:
    """Makes a mask store of a mask file, such as masks that another program made.

    Args:
        path: of the mask store.
        mask_file: of images of the store, at original size.
        store: whose geometry the masks are brought to.
        names: tasks, in any spelling.

    Returns:
        Number of images.

    Raises:
        CxrError: a task is not there, a mask is of another size than its image, or no image is of the store.
    """
    content = read_mask_file(mask_file)
    row_of = {image_id: row for row, image_id in enumerate(store.column("image_id"))}
    wanted = [image_id for image_id in content if image_id in row_of]
    if not wanted:
        raise CxrError(f"{mask_file}: none of its images is in {store.path}")
    with MaskStoreWriter(path, names, store.size) as writer:
        for image_id in wanted:
            tasks = content.tasks(image_id)
            try:
                places = match_classes(names, tasks)
            except CxrError as error:
                raise CxrError(f"{mask_file}: {image_id}: {error}") from error
            row, values = row_of[image_id], []
            expected = tuple(int(edge) for edge in store.geometry[row][:2])
            for place in places:
                mask = content.mask(image_id, tasks[place])
                if mask.shape != expected:
                    raise CxrError(
                        f"{mask_file}: {image_id}: a mask of {mask.shape[1]}×{mask.shape[0]} for an image of "
                        f"{expected[1]}×{expected[0]}"
                    )
                values.append(letterbox(mask.astype(np.uint8) * 255, store.size) >= 128)
            writer.add([row], [image_id], np.stack(values)[None].astype(np.uint8))
    return len(wanted)


__all__ = [
    "draw_subset",
    "masks_of_maps",
    "present",
    "read_into_store",
    "write_mask_file",
]
