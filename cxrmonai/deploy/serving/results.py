"""Label maps and heatmaps as files in the geometry of the radiograph that they belong to, by SimpleITK."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as its users call it

from cxrmonai.data.reading.lookup import suffix_of
from cxrmonai.errors import CxrError

PICTURES = (".png",)
VOLUMES = (".nii.gz", ".nii", ".nrrd", ".mha")
RASTER = (".png", ".jpg", ".jpeg", ".gif")


def usual_extension(image: str | os.PathLike[str]) -> str:
    """What the mask of a file is written as: PNG for pictures, compressed NIfTI for all others."""
    return ".png" if suffix_of(os.fspath(image)) in RASTER else ".nii.gz"


def write_result(array: np.ndarray, image: str | os.PathLike[str], extension: str) -> str:
    """Writes a map to a temporary file.

    Args:
        array: (H, W) uint8, or float32 of 0–1, which a PNG holds as 0–255.
        image: file that it belongs to, H × W pixels; spacing, origin and direction are taken from there.
        extension: of the file.

    Returns:
        Its path.

    Raises:
        CxrError: an unknown extension, or the image is of another shape.
    """
    if extension not in (*PICTURES, *VOLUMES):
        raise CxrError(f"result_extension '{extension}': known are {', '.join((*PICTURES, *VOLUMES))}")
    handle, path = tempfile.mkstemp(suffix=extension)
    os.close(handle)
    if extension in PICTURES:
        pixels = np.rint(array * 255).astype(np.uint8) if array.dtype.kind == "f" else array
        sitk.WriteImage(sitk.GetImageFromArray(pixels), path)
        return path
    made = _placed(array, image)
    sitk.WriteImage(made, path, useCompression=extension != ".nrrd")  # OHIF's reader takes raw NRRD only
    return path


def _placed(array: np.ndarray, image: str | os.PathLike[str]) -> sitk.Image:
    if suffix_of(os.fspath(image)) in (*RASTER, ".npy"):
        return sitk.GetImageFromArray(array[None])
    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(image))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise CxrError(f"{image}: its geometry cannot be read; ask for the result as .png") from error
    size, dimension = reader.GetSize(), min(reader.GetDimension(), 3)
    if size[:2] != array.shape[::-1]:
        raise CxrError(f"{image}: {size[0]}×{size[1]} pixels by its header, {array.shape[1]}×{array.shape[0]} as read")
    made = sitk.GetImageFromArray(array if dimension == 2 else array[None])
    count = reader.GetDimension()
    made.SetSpacing(reader.GetSpacing()[:dimension])
    made.SetOrigin(reader.GetOrigin()[:dimension])
    direction = np.array(reader.GetDirection()).reshape(count, count)[:dimension, :dimension]
    made.SetDirection(direction.ravel().tolist())
    return made


def read_label_map(path: str | os.PathLike[str]) -> np.ndarray:
    """(H, W) whole numbers of a label map of one plane, rows first.

    Raises:
        CxrError: the file is none.
    """
    try:
        array = sitk.GetArrayFromImage(sitk.ReadImage(os.fspath(path)))
    except RuntimeError as error:
        raise CxrError(f"{Path(path).name}: cannot be read as a label map") from error
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2:
        raise CxrError(f"{Path(path).name}: a label map of shape {array.shape}; it must be one plane")
    return np.rint(array).astype(np.int64)
