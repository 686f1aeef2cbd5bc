"""A DICOMweb archive as MONAI Label's datastore."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import requests
from dicomweb_client.session_utils import create_session_from_user_pass
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX, DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.convert import binary_to_image
from monailabel.interfaces.exception import ImageNotFoundException
from pydicom.dataset import Dataset

from cxrmonai.errors import CxrError

UID = re.compile(r"[0-9]+(\.[0-9]+)+")


class RadiographArchive(DICOMWebDatastore):
    """MONAI Label's own, for series of one radiograph: several modalities, and faults told as such.

    Viewers get the series as NIfTI, as from the original; bundles read the DICOM file itself, see `dicom_of`. Labels
    that viewers submit stay in `folder`: the original makes DICOM SEG of them by a program that it downloads.
    """

    @property
    def folder(self) -> Path:
        """Where what was fetched is kept."""
        return Path(self._datastore_path)

    def list_images(self) -> list[str]:
        """Series of the modalities in the search filter, which may name several as `CR,DX`.

        Raises:
            CxrError: the archive cannot be reached.
        """
        modalities = str(self._search_filter.get("Modality", "")).split(",")
        found: list[str] = []
        for modality in modalities:
            wanted = {**self._search_filter, "Modality": modality.strip()}
            wanted = {key: value for key, value in wanted.items() if value}
            for entry in _asked(self._client.search_for_series, search_filters=wanted):
                found.append(str(Dataset.from_json(entry)["SeriesInstanceUID"].value))
        return sorted(set(found))

    def get_image_uri(self, image_id: str) -> str:
        """NIfTI file of a series, fetched when it is asked for first.

        Raises:
            ImageNotFoundException: there is no such series.
            CxrError: the archive cannot be reached, or the series is not one radiograph.
        """
        if not UID.fullmatch(image_id):
            raise ImageNotFoundException(f"'{image_id}' is no series of the archive")
        try:
            return _asked(super().get_image_uri, image_id)
        except IndexError:  # of the empty answer of the archive
            raise ImageNotFoundException(f"the archive has no series {image_id}") from None
        except RuntimeError as error:  # ITK's
            raise CxrError(f"series {image_id}: cannot be read as one radiograph") from error

    def dicom_of(self, path: str) -> str:
        """The DICOM file that a NIfTI file of `get_image_uri` was made of.

        Raises:
            CxrError: the series holds several images.
        """
        folder = Path(path.removesuffix(".nii.gz"))
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        if len(files) > 1:
            raise CxrError(f"series {folder.name}: holds {len(files)} images; a series of one radiograph is needed")
        return str(files[0]) if files else path

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Keeps a label map that a viewer submits, and returns its id, that of the image."""
        image = self.get_image_uri(image_id)
        if label_filename.endswith(".bin"):
            label_filename = binary_to_image(image, label_filename)
        return LocalDatastore.save_label(self, image_id, label_filename, label_tag, label_info)

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """File of a label that was kept."""
        return LocalDatastore.get_label_uri(self, label_id, label_tag)

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Series with a final label."""
        return LocalDatastore.get_labeled_images(self)

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Series without one."""
        return sorted(set(self.list_images()) - set(self.get_labeled_images()))

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Files of images with final labels, to train on."""
        return LocalDatastore.datalist(self, full_path)


def open_archive(address: str) -> RadiographArchive:
    """Opens the archive at an address, by MONAI Label's settings (`MONAI_LABEL_DICOMWEB_…`)."""
    user, word = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    client = DICOMwebClientX(
        url=address,
        session=create_session_from_user_pass(user, word) if user and word else None,
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
    )
    return RadiographArchive(
        client=client,
        search_filter=settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER,
        cache_path=os.fspath(settings.MONAI_LABEL_DICOMWEB_CACHE_PATH) or None,
        fetch_by_frame=settings.MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME,
        convert_to_nifti=True,
    )


def _asked(call: Any, *arguments: Any, **options: Any) -> Any:
    try:
        return call(*arguments, **options)
    except requests.RequestException as error:
        raise CxrError(f"the DICOMweb archive does not answer as it should ({type(error).__name__})") from error
