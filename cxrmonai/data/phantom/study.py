"""What a phantom study is: numbers only, no pixels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

FINDINGS: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Fracture",
    "Mass",
    "Nodule",
    "Pleural Effusion",
    "Pneumothorax",
    "Support Devices",
)
MASK_NAMES: tuple[str, ...] = (*FINDINGS, "Lungs")


@dataclass(frozen=True)
class Body:
    """What stays the same over a patient's studies; lengths in cm.

    Attributes:
        seed: seeds the patient's own textures (vessel tree, marrow).
        sex: `F` or `M`.
        build: habitus, about -1.5 (slim) to 2 (heavy).
        half_width: half of the inner width of the chest at its widest.
        lung_length: apex to the right dome at full inspiration.
        heart_ratio: cardiothoracic ratio without disease.
        rib_tilt: fall of a middle rib from spine to sternum.
        breast: thickness of the breast; 0 to about 1 in men.
        breast_radius: half width of the breast.
        breast_level: place of the breast's centre along the lung, 0 apex to 1 dome.
        scoliosis: largest sideways bend of the spine.
        bone: bone density at age 30, 1 is usual.
        aorta: size of the aortic arch, 1 is usual.
        shoulder: height of the shoulder girdle relative to usual.
    """

    seed: int
    sex: str
    build: float
    half_width: float
    lung_length: float
    heart_ratio: float
    rib_tilt: float
    breast: float
    breast_radius: float
    breast_level: float
    scoliosis: float
    bone: float
    aorta: float
    shoulder: float


@dataclass(frozen=True)
class Lesion:
    """One lesion of one finding.

    Attributes:
        finding: one of `FINDINGS`.
        side: -1 for the patient's right (left of the picture), 1 for the left; 0 where it has no side.
        across: place from the medial (0) to the lateral (1) border of the lung.
        down: place from the apex (0) to the dome (1) of the lung.
        extent: size; cm of diameter for Mass and Nodule, otherwise 0 (small) to 1 (large).
        severity: opacity or displacement, 0 (subtle) to 1 (obvious).
        kind: variant within the finding.
        seed: seeds the lesion's own texture and outline.
    """

    finding: str
    side: int
    across: float
    down: float
    extent: float
    severity: float
    kind: str
    seed: int


@dataclass(frozen=True)
class Study:
    """Everything that determines one radiograph, no pixels.

    Attributes:
        patient: number of the patient, from 0.
        study: number of the study of that patient, from 0.
        age: age at the study in years.
        view: `PA` or `AP`.
        body: what the patient brings to each study.
        inspiration: lowering of the diaphragm relative to full inspiration, cm, at most 0.
        tilt: rotation within the picture, degrees.
        turn: sideways displacement of the front of the chest by rotation about the long axis, cm.
        shift: displacement of the patient in the picture, cm right and down.
        field: side of the field of view, cm.
        arms: angle of the upper arms, 0 (hanging) to 1 (raised away).
        exposure: centre of the display window, shift in log exposure.
        contrast: width of the display window, 1 is usual.
        noise: standard deviation of quantum noise in lung, relative.
        scatter: fraction of scattered light.
        collimation: width of the four dark borders (left, right, top, bottom), as fractions of the side.
        marker: side letter drawn in a corner, or an empty string.
        seed: seeds noise.
        lesions: the lesions shown.
    """

    patient: int
    study: int
    age: float
    view: str
    body: Body
    inspiration: float
    tilt: float
    turn: float
    shift: tuple[float, float]
    field: float
    arms: float
    exposure: float
    contrast: float
    noise: float
    scatter: float
    collimation: tuple[float, float, float, float]
    marker: str
    seed: int
    lesions: tuple[Lesion, ...] = ()

    @property
    def sex(self) -> str:
        """`F` or `M`."""
        return self.body.sex

    @property
    def patient_id(self) -> str:
        """As `P0001`."""
        return f"P{self.patient + 1:04d}"

    @property
    def study_id(self) -> str:
        """As `P0001-S2`; also the id of the study's one image."""
        return f"{self.patient_id}-S{self.study + 1}"

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of the findings present, in the order of `FINDINGS`."""
        present = {lesion.finding for lesion in self.lesions}
        return tuple(name for name in FINDINGS if name in present)

    def of(self, finding: str) -> list[Lesion]:
        """Returns the lesions of one finding."""
        return [lesion for lesion in self.lesions if lesion.finding == finding]

    def without(self, *findings: str) -> Study:
        """Returns the same study less the lesions of the named findings, or less all lesions if none is named."""
        kept = tuple(lesion for lesion in self.lesions if findings and lesion.finding not in findings)
        return dataclasses.replace(self, lesions=kept)


@dataclass
class Radiograph:
    """A rendered study of side S.

    Attributes:
        image: (S, S) uint8, rows first, as seen: the patient's right is on the left of the picture; air black.
        masks: (S, S) bool per finding present, the union of its lesions, and `Lungs`.
        boxes: one per lesion: finding, x, y, w, h in pixels, the tight bounding box of the lesion's mask.
        lesions: (S, S) bool, the mask of each lesion, in the order of `boxes`.
    """

    image: np.ndarray
    masks: dict[str, np.ndarray]
    boxes: list[tuple[str, float, float, float, float]]
    lesions: list[np.ndarray]
