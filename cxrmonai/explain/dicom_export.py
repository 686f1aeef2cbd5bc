"""DICOM objects for all images of a mask file or a heatmap file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cxrmonai.data.files import list_radiographs
from cxrmonai.data.geometry import letterbox_geometry, map_to_original
from cxrmonai.data.mask_file import read_mask_file
from cxrmonai.data.sources.tables import read_csv, require_columns
from cxrmonai.data.table import name_list
from cxrmonai.errors import CxrError
from cxrmonai.explain.dicom_output import DicomOutput, need_highdicom
from cxrmonai.explain.heatmaps import Heatmaps
from cxrmonai.progress import progress_bar


@dataclass
class Export:
    """What was written.

    Attributes:
        segmentations: number of DICOM SEG files.
        captures: number of Secondary Captures.
        skipped: image ids and why nothing was made of them.
    """

    segmentations: int = 0
    captures: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


def export_dicom(
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    masks: str | os.PathLike[str] | None = None,
    heatmaps: str | os.PathLike[str] | None = None,
    segment: bool = False,
    capture: bool = False,
    findings: str | Sequence[str] | None = None,
    crosswalk: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Export:
    """Writes `IMAGE.seg.dcm`, all findings of an image in one, and `IMAGE_FINDING.sc.dcm`, one for each finding.

    A finding with an empty mask is left out; without a mask file each finding gets a capture.

    Args:
        root: folder of the DICOM files that the masks or maps were made from.
        out: folder to write to.
        masks: mask file in CheXlocalize's layout, at original size.
        heatmaps: heatmap file, for the captures.
        segment: whether to write segmentations; needs masks.
        capture: whether to write captures.
        findings: `A,B` or a list; all by default.
        crosswalk: CSV of `prepare --crosswalk`, where the ids of masks and maps are pseudonyms.
        progress: whether to show a bar.

    Raises:
        CxrError: nothing is asked for or given; highdicom is missing; an unknown finding; no image has a DICOM file.
    """
    if not (segment or capture):
        raise CxrError("nothing to write; give --seg for segmentations, --sc for secondary captures, or both")
    if masks is None and (segment or heatmaps is None):
        raise CxrError("--masks is missing: the mask file; only secondary captures can be made of --heatmaps alone")
    need_highdicom()
    drawn = None if masks is None else read_mask_file(masks)
    maps = Heatmaps(heatmaps) if capture and heatmaps is not None else None
    place_of = {} if maps is None else {image_id: place for place, image_id in enumerate(maps.image_ids)}
    image_ids = list(drawn) if drawn is not None else list(place_of)
    file_of = _files(Path(root), crosswalk)
    if not any(image_id in file_of for image_id in image_ids):
        hint = "" if crosswalk else "; where the ids are pseudonyms, give --crosswalk"
        raise CxrError(f"{root}: none of the {len(image_ids)} images has a file here{hint}")
    known = list(maps.class_names) if drawn is None else drawn.tasks(image_ids[0])
    chosen = [name for name in name_list(findings) or known if _known(name, known)]
    made, series = Export(), {}
    with progress_bar("dicom", len(image_ids), "img", progress) as bar:
        for number, image_id in enumerate(image_ids, 1):
            bar.update(1)
            if image_id not in file_of:
                made.skipped.append((image_id, "no file of this id"))
                continue
            try:
                output = DicomOutput(file_of[image_id], series)
                regions = {} if drawn is None else {name: drawn.mask(image_id, name) for name in chosen}
                if segment:
                    path = Path(out) / f"{image_id}.seg.dcm"
                    made.segmentations += bool(output.segmentation(regions, path, number))
                if capture:
                    heat = _heat(output, maps, place_of.get(image_id))
                    shown = chosen if drawn is None else [name for name, mask in regions.items() if mask.any()]
                    for place, name in enumerate(shown):
                        heatmap, probability = heat.get(name, (None, None))
                        caption = name if probability is None else f"{name} {probability:.2f}"
                        path = Path(out) / f"{image_id}_{re.sub('[^A-Za-z0-9]+', '_', name)}.sc.dcm"
                        output.capture(path, heatmap, regions.get(name), caption, len(known) * number + place)
                        made.captures += 1
            except CxrError as error:
                made.skipped.append((image_id, str(error)))
    return made


def _known(name: str, known: Sequence[str]) -> bool:
    if name not in known:
        raise CxrError(f"no finding '{name}'; there are {', '.join(known)}")
    return True


def _heat(output: DicomOutput, maps: Heatmaps | None, place: int | None) -> dict[str, tuple[np.ndarray, float]]:
    """Map at original size and probability of each finding of one image."""
    if maps is None or place is None:
        return {}
    geometry = letterbox_geometry(*output.shape, maps.size)
    each = zip(maps.class_names, maps.maps([place])[0], maps.probability[place], strict=True)
    return {name: (np.clip(map_to_original(one, geometry), 0, 1), float(chance)) for name, one, chance in each}


def _files(root: Path, crosswalk: str | os.PathLike[str] | None) -> dict[str, Path]:
    """The file of each image id."""
    if crosswalk is None:
        return {item["image_id"]: Path(item["image"]) for item in list_radiographs(root)}
    table = read_csv(Path(crosswalk))
    require_columns(table, ["image", "image_id"], Path(crosswalk))
    return {image_id: root / image for image_id, image in zip(table["image_id"], table["image"], strict=True)}
