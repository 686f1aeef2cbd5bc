"""Findings back into the archive: DICOM segmentations and secondary captures that refer to the source study.

Patient and study are copied from the source file by highdicom (Bridge et al., 2022), the extra `dicom` of this package.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from cxrmonai._version import __version__
from cxrmonai.data.reading import read_image
from cxrmonai.data.reading.base import quietly
from cxrmonai.data.reading.depth import to_full_range
from cxrmonai.errors import CxrError
from cxrmonai.files import atomic_path

if TYPE_CHECKING:
    from pydicom import Dataset

MAKER = "cxrmonai"
SEGMENTATION_SERIES, CAPTURE_SERIES = 9701, 9702
CAPTION = "cxrmonai {version}, for research, not for diagnosis"
# Findings with a code that pydicom's own copy of the standard's context groups names.
SNOMED = {
    "Pleural Effusion": ("60046008", "Pleural effusion"),
    "Effusion": ("60046008", "Pleural effusion"),
    "Pneumothorax": ("36118008", "Pneumothorax"),
    "Edema": ("19242006", "Pulmonary edema"),
    "Mass": ("4147007", "Mass"),
    "Nodule": ("27925004", "Nodule"),
}
OWN_SCHEME = "99CXRMONAI"
REFERRED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Rows", "Columns")
EMPTY_WHERE_ABSENT = (
    "AccessionNumber", "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "ReferringPhysicianName",
    "StudyDate", "StudyID", "StudyTime",
)  # fmt: skip


def need_highdicom() -> Any:
    """The package that writes DICOM objects.

    Raises:
        CxrError: it is not installed.
    """
    try:
        import highdicom
    except ImportError as error:
        raise CxrError("DICOM output needs highdicom: pip install 'cxrmonai[dicom]'") from error
    return highdicom


class DicomOutput:
    """Writes objects about one radiograph, beside its study.

    Args:
        source: the radiograph's file.
        series: UIDs of the new series by (study, kind), shared by the radiographs of a run so that those of a study
            come to lie in one series; changed in place.

    Raises:
        CxrError: highdicom is missing, or the file lacks the UIDs that an object could refer to.
    """

    def __init__(self, source: str | os.PathLike[str], series: dict[tuple[str, str], str] | None = None) -> None:
        self._highdicom = need_highdicom()
        self.source = Path(source)
        self.series = {} if series is None else series
        self.header = _header(self.source)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the radiograph."""
        return int(self.header.Rows), int(self.header.Columns)

    def segmentation(self, masks: Mapping[str, np.ndarray], path: str | os.PathLike[str], number: int = 1) -> list[str]:
        """Writes a binary DICOM SEG, one segment for each mask that is not empty.

        Args:
            masks: finding → (H, W) bool at the radiograph's size.
            path: of the file; it is not written where all masks are empty.
            number: of the instance in its series.

        Returns:
            The findings of the segments, in their order.

        Raises:
            CxrError: a mask of another size.
        """
        filled = {name: np.asarray(mask, bool) for name, mask in masks.items() if np.any(mask)}
        for name, mask in filled.items():
            self._fit(name, mask)
        if not filled:
            return []
        hd = self._highdicom
        with quietly("highdicom"):  # whose warnings tell the patient's name
            made = hd.seg.Segmentation(
                source_images=[self._without_spacing()],
                pixel_array=np.stack(list(filled.values()), axis=-1)[None].astype(np.uint8),
                segmentation_type="BINARY",
                segment_descriptions=[self._described(place, name) for place, name in enumerate(filled, 1)],
                content_label="FINDINGS",
                content_description="Regions of findings by a classifier's maps",
                **self._identity("seg", SEGMENTATION_SERIES, number),
                manufacturer_model_name=MAKER,
                software_versions=__version__,
                device_serial_number="0",
            )
        made.SeriesDescription = f"{MAKER} segmentation"
        made.PatientOrientation = self.header.get("PatientOrientation") or ""
        _save(made, path)
        return list(filled)

    def capture(
        self,
        path: str | os.PathLike[str],
        heatmap: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        caption: str = "",
        number: int = 1,
    ) -> None:
        """Writes a colour Secondary Capture: the radiograph with a map, an outline and a caption burnt in.

        Args:
            path: of the file.
            heatmap: (H, W), 0–1, at the radiograph's size.
            mask: (H, W) bool, whose outline is drawn.
            caption: such as the finding and its probability.
            number: of the instance in its series.

        Raises:
            CxrError: a map or mask of another size.
        """
        for name, array in (("the map", heatmap), ("the mask", mask)):
            if array is not None:
                self._fit(name, array)
        picture = overlay(grey_bytes(read_image(self.source).pixels), heatmap, mask, caption)
        with quietly("highdicom"):
            made = self._highdicom.sc.SCImage.from_ref_dataset(
                self.header,
                pixel_array=picture,
                photometric_interpretation="RGB",
                bits_allocated=8,
                coordinate_system="PATIENT",
                **self._identity("sc", CAPTURE_SERIES, number),
                patient_orientation=("L", "F"),
                transfer_syntax_uid="1.2.840.10008.1.2.1",
            )
        made.PatientOrientation = self.header.get("PatientOrientation") or ""
        made.SeriesDescription = f"{MAKER} overlay"
        made.ImageComments = caption or f"{MAKER} overlay"
        made.SourceImageSequence = [self._reference()]
        for keyword in ("BodyPartExamined", "ViewPosition", "BurnedInAnnotation"):
            if keyword in self.header:
                setattr(made, keyword, self.header.get(keyword))
        _save(made, path)

    def _without_spacing(self) -> Dataset:
        """The header for a SEG: its pixels lie on the source's; a spacing there asks for a slice thickness as well."""
        header = copy.copy(self.header)
        if "PixelSpacing" in header:
            del header.PixelSpacing
        return header

    def _fit(self, name: str, array: np.ndarray) -> None:
        if array.shape != self.shape:
            sizes = "{1}×{0}, the radiograph {3}×{2}".format(*array.shape, *self.shape)
            raise CxrError(f"{self.source}: {name} is {sizes}; give it at the radiograph's own size")

    def _identity(self, kind: str, series_number: int, number: int) -> dict[str, Any]:
        uid = self._highdicom.UID
        series = self.series.setdefault((str(self.header.StudyInstanceUID), kind), str(uid()))
        return {
            "series_instance_uid": series,
            "series_number": series_number,
            "sop_instance_uid": str(uid()),
            "instance_number": number,
            "manufacturer": MAKER,
        }

    def _described(self, number: int, name: str) -> Any:
        from pydicom.sr.codedict import codes

        hd = self._highdicom
        algorithm = hd.AlgorithmIdentificationSequence(
            name=MAKER, family=codes.DCM.ArtificialIntelligence, version=__version__
        )
        return hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=_code(hd, name),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )

    def _reference(self) -> Dataset:
        from pydicom import Dataset
        from pydicom.sr.codedict import codes

        reference = Dataset()
        reference.ReferencedSOPClassUID = self.header.SOPClassUID
        reference.ReferencedSOPInstanceUID = self.header.SOPInstanceUID
        purpose = codes.DCM.SourceImageForImageProcessingOperation
        reference.PurposeOfReferenceCodeSequence = [self._highdicom.sr.CodedConcept.from_code(purpose)]
        return reference


def grey_bytes(pixels: np.ndarray) -> np.ndarray:
    """(H, W) of any depth → uint8, stretched as a store of 8 bits would be."""
    return pixels if pixels.dtype == np.uint8 else (to_full_range(pixels) // 257).astype(np.uint8)


def overlay(
    grey: np.ndarray, heatmap: np.ndarray | None = None, mask: np.ndarray | None = None, caption: str = ""
) -> np.ndarray:
    """A radiograph with a map in colour, an outline, and two lines of text.

    Args:
        grey: (H, W) uint8.
        heatmap: (H, W), 0–1; the higher, the less is seen through it, up to one half.
        mask: (H, W) bool.
        caption: the upper line; the lower one says that this is for research.

    Returns:
        (H, W, 3) uint8, red first.
    """
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    if heatmap is not None:
        colours = cv2.applyColorMap(np.round(255 * np.clip(heatmap, 0, 1)).astype(np.uint8), cv2.COLORMAP_TURBO)
        share = 0.5 * np.clip(heatmap, 0, 1)[:, :, None]
        picture = np.round((1 - share) * picture + share * colours[:, :, ::-1]).astype(np.uint8)
    unit = max(1, round(min(grey.shape) / 400))
    if mask is not None:
        edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, edges, -1, (0, 255, 255), unit)
    scale = min(grey.shape) / 900
    for line, text in enumerate((caption, CAPTION.format(version=__version__))):
        place = (4 * unit, round((26 + 30 * line) * scale) + 2)
        for colour, width in (((0, 0, 0), 3 * unit), ((255, 255, 255), unit)):
            cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, width, cv2.LINE_AA)
    return picture


def _code(hd: Any, name: str) -> Any:
    if name in SNOMED:
        value, meaning = SNOMED[name]
        return hd.sr.CodedConcept(value=value, scheme_designator="SCT", meaning=meaning)
    value = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")[:16] or "FINDING"
    return hd.sr.CodedConcept(value=value, scheme_designator=OWN_SCHEME, meaning=name[:64])


def _header(path: Path) -> Dataset:
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
    except FileNotFoundError as error:
        raise CxrError(f"{path}: no such file") from error
    except (InvalidDicomError, OSError, EOFError) as error:
        raise CxrError(f"{path}: not a readable DICOM file; only from such a file can DICOM be made") from error
    for keyword in REFERRED:
        if not header.get(keyword):
            raise CxrError(f"{path}: has no {keyword}, so that nothing can refer to it")
    for keyword in EMPTY_WHERE_ABSENT:  # the standard wants them, if empty
        if keyword not in header:
            setattr(header, keyword, "")
    return header


def _save(made: Dataset, path: str | os.PathLike[str]) -> None:
    with atomic_path(path) as temporary:
        made.save_as(temporary, enforce_file_format=True)
