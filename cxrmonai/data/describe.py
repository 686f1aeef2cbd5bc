"""A store in words."""

from __future__ import annotations

import numpy as np

from cxrmonai.data.store import Store
from cxrmonai.data.table import SPLITS


def describe(store: Store) -> str:
    """Sums a store up: what it holds, splits by images and patients, findings, boxes, masks and skipped files.

    Args:
        store: an open store.

    Returns:
        Several lines of text without patient identifiers.
    """
    table = store.table
    kind = "SYNTHETIC radiographs" if store.synthetic else "radiographs"
    gib = store.path.stat().st_size / 2**30
    lines = [
        f"{store.path}: {len(store)} {kind} of {store.size}×{store.size} px {store.dtype}, {gib:.2f} GiB",
        f"source {store.source}, cxrmonai {store.tool_version}, {store.resize}",
        f"patients {table['patient_id'].nunique()}, {_counts(table['view'], 'views')}, {_counts(table['sex'], 'sex')}, "
        + _ages(table["age"].to_numpy(float)),
    ]
    if "source" in table:
        lines.append(_counts(table["source"], "images from"))
    for name in (*SPLITS, ""):
        rows = table[table["split"] == name]
        if len(rows):
            label = name or "no split"
            lines.append(f"{label:>8}: {len(rows)} images of {rows['patient_id'].nunique()} patients")
    if store.class_names:
        width = max(len(name) for name in store.class_names)
        lines.append(f"{'finding':<{width}}  present   absent  uncertain  unknown  boxes")
        boxes = store.boxes["finding"].value_counts()
        for name, values in zip(store.class_names, store.labels.T, strict=True):
            counts = [int((values == value).sum()) for value in (1, 0, -1)]
            lines.append(
                f"{name:<{width}}  {counts[0]:>7}  {counts[1]:>7}  {counts[2]:>9}  {int(np.isnan(values).sum()):>7}"
                f"  {int(boxes.get(name, 0)):>5}"
            )
    if store.mask_names:
        lines.append(f"masks of {', '.join(store.mask_names)} for {len(store.mask_rows())} images")
    lines += [f"skipped {image}: {reason}" for image, reason in store.skipped.head(10).itertuples(index=False)]
    if len(store.skipped) > 10:
        lines.append(f"… {len(store.skipped)} files skipped in all")
    return "\n".join(lines)


def _counts(values: np.ndarray, name: str) -> str:
    counts = values.replace("", "unknown").value_counts()
    return f"{name} " + ", ".join(f"{key} {count}" for key, count in counts.items())


def _ages(ages: np.ndarray) -> str:
    known = ages[np.isfinite(ages)]
    return f"age {np.median(known):.0f} ({known.min():.0f}–{known.max():.0f})" if len(known) else "age unknown"
