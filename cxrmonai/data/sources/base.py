"""What a source returns: a collection, not yet read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from cxrmonai.data.table import BOX_COLUMNS, MASK_COLUMNS


@dataclass
class Collection:
    """Images of one origin with all that is known of them.

    Attributes:
        name: of the source.
        root: folder that `image` and mask paths are relative to.
        table: as in `cxrmonai.data.table`. Optional further columns: `original_height`, `original_width` (frame of
            boxes and masks, where it is not the file's own) and `spacing_y`, `spacing_x` (mm per pixel of that frame).
        class_names: the findings among the columns.
        boxes: columns `image_id`, `finding`, `x`, `y`, `w`, `h`, in original pixels.
        masks: columns `image_id`, `finding`, `path`; pixels above 0 belong to the finding.
        notes: sentences the user should read (rows left out, splits drawn).
    """

    name: str
    root: Path
    table: pd.DataFrame
    class_names: list[str]
    boxes: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(BOX_COLUMNS)))
    masks: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(MASK_COLUMNS)))
    notes: list[str] = field(default_factory=list)
