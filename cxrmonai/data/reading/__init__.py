"""From a file to grey pixels, rows first, as seen.

One reader per file type stands in `READERS`, keyed by suffix; a new type is a function that takes a path and returns a
`RawImage`, and one line there. Libraries that only some types need are imported when the first such file is read.
"""

from cxrmonai.data.reading.base import MAX_PIXELS, RawImage
from cxrmonai.data.reading.depth import to_full_range, to_store_pixels
from cxrmonai.data.reading.lookup import READERS, id_from_path, ids_from_paths, image_files, read_image

__all__ = [
    "MAX_PIXELS",
    "READERS",
    "RawImage",
    "id_from_path",
    "ids_from_paths",
    "image_files",
    "read_image",
    "to_full_range",
    "to_store_pixels",
]
