"""What a source returns: a collection, not yet read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from cxrmonai.data.table import BOX_COLUMNS, MASK_COLUMNS

SKIPPED_COLUMNS = ("image", "reason")


def _empty(columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(columns=list(columns))


@dataclass
class Collection:
    """Images of one origin, or of several, with all that is known of them.

    Attributes:
        name: of the source.
        root: folder that `image` and mask paths are relative to; of a joined collection, the folder of each source by
            its name, which is then the first part of a path.
        table: as in `cxrmonai.data.table`. Optional further columns: `original_height`, `original_width` (frame of
            boxes and masks, where it is not the file's own), `spacing_y`, `spacing_x` (mm per pixel of that frame; NaN
            takes the file's own word, 0 says that this is wrong and the spacing unknown), and whatever else is worth
            keeping.
        class_names: the findings among the columns.
        boxes: columns `image_id`, `finding`, `x`, `y`, `w`, `h`, in original pixels, and whatever else is worth
            keeping of a box (who drew it).
        masks: columns `image_id`, `finding`, `path`, `rle`, one of the last two filled: a file whose pixels above 0
            belong to the finding, or COCO's run lengths as JSON (`cxrmonai.data.masks`). Several rows of one image and
            finding are united.
        notes: sentences the user should read (rows left out, splits drawn).
        skipped: columns `image`, `reason`: files that were found and are no radiograph.
        private: whether ids and file names may tell who a patient is; the store then holds pseudonyms.
    """

    name: str
    root: Path | dict[str, Path]
    table: pd.DataFrame
    class_names: list[str]
    boxes: pd.DataFrame = field(default_factory=lambda: _empty(BOX_COLUMNS))
    masks: pd.DataFrame = field(default_factory=lambda: _empty(MASK_COLUMNS))
    notes: list[str] = field(default_factory=list)
    skipped: pd.DataFrame = field(default_factory=lambda: _empty(SKIPPED_COLUMNS))
    private: bool = False
