"""From stored values to grey: the steps of the DICOM standard (PS3.3 C.11.1, C.11.2 and C.7.6.3.1.2), in its order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FULL = 65535


@dataclass(frozen=True)
class LookUpTable:
    """A modality LUT or VOI LUT.

    Attributes:
        first: the value that the first entry belongs to.
        highest: the end of the range of the entries, which begins at 0.
        entries: (N,) float64; values below and above those of the table get its first and last entry.
    """

    first: int
    highest: float
    entries: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The entries of values of any shape."""
        return self.entries.take(np.rint(values - self.first).astype(np.int64), mode="clip")


@dataclass(frozen=True)
class Window:
    """A window as PS3.3 C.11.2.1.2 and C.11.2.1.3 define it.

    Attributes:
        center: of the values that are shown.
        width: of their range; at least 1 for `LINEAR` and above 0 otherwise.
        function: `LINEAR`, `LINEAR_EXACT` or `SIGMOID`.
    """

    center: float
    width: float
    function: str = "LINEAR"

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Values of any shape → 0 to 1."""
        if self.function == "SIGMOID":
            with np.errstate(over="ignore"):
                return 1 / (1 + np.exp(-4 * (values - self.center) / self.width))
        one = 1.0 if self.function == "LINEAR" else 0.0
        center, width = self.center - one / 2, self.width - one
        if width == 0:
            return (values > center).astype(np.float64)
        return np.clip((values - center) / width + 0.5, 0, 1)


@dataclass(frozen=True)
class GreyRules:
    """How the grey of an image is made of its stored values.

    Attributes:
        stored: bits of a stored value.
        signed: whether it is in two's complement.
        modality: table, or slope and intercept.
        interest: table or window of the values that are shown; the first, where the header has several.
        inverted: whether low values are the bright ones (MONOCHROME1).
    """

    stored: int
    signed: bool
    modality: LookUpTable | tuple[float, float] | None = None
    interest: LookUpTable | Window | None = None
    inverted: bool = False

    @property
    def range(self) -> tuple[int, int]:
        """Lowest and highest value that can be stored."""
        return (-(2 ** (self.stored - 1)), 2 ** (self.stored - 1) - 1) if self.signed else (0, 2**self.stored - 1)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Applies modality LUT, VOI LUT or window, and inversion.

        With a VOI LUT or window its whole output range is mapped to the whole range of uint16. Without, values stay
        what they are after the modality LUT. Inversion mirrors the range of the output: that of the window, that of
        the modality LUT, or that of the stored bits; never the image's own minimum and maximum, on which a bright
        marker would have a say. 8-bit images that come out as they went in stay uint8.

        Args:
            values: (H, W) stored values, integers.

        Returns:
            (H, W) uint8, uint16, int16 or float32.
        """
        if self.stored > 16:
            return self._levels(values.astype(np.float64))
        if self.modality is None and self.interest is None and not self.inverted:
            return values.astype(self._plain_type, copy=False)
        low, high = self.range
        table = self._levels(np.arange(low, high + 1, dtype=np.float64))
        if self._plain_type == np.uint8 and table.dtype == np.uint16 and not (table % 257).any():
            table = (table // 257).astype(np.uint8)
        return table.take(values if low == 0 else values.astype(np.int32) - low, mode="clip")

    @property
    def _plain_type(self) -> type[np.generic]:
        if self.signed:
            return np.int16
        return np.uint8 if self.stored == 8 else np.uint16

    def _levels(self, values: np.ndarray) -> np.ndarray:
        ends = np.array(self.range, dtype=np.float64)
        kind: type[np.generic] = self._plain_type if self.stored <= 16 else np.float32
        if isinstance(self.modality, LookUpTable):
            values, ends, kind = self.modality(values), np.array([0, self.modality.highest]), np.float32
        elif self.modality is not None:
            slope, intercept = self.modality
            values, ends, kind = values * slope + intercept, np.sort(ends * slope + intercept), np.float32
        if self.interest is not None:
            shown = self.interest(values)
            top = self.interest.highest if isinstance(self.interest, LookUpTable) else 1.0
            values, ends, kind = np.rint(shown * (FULL / top)), np.array([0, FULL]), np.uint16
        if self.inverted:
            values = ends.sum() - values
        return values.astype(kind)


def darken(grey: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Gives pixels that are no image the darkest grey that the others have.

    Args:
        grey: (H, W).
        where: (H, W) bool.

    Returns:
        (H, W), same type.
    """
    if where.any() and not where.all():
        grey = grey.copy()
        grey[where] = grey[~where].min()
    return grey
