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
from monailabel.interfaces.exception import ImageNotFoundException
from pydicom.dataset import Dataset

from cxrmonai.errors import CxrError

UID = re.compile(r"[0-9]+(\.[0-9]+)+")


class RadiographArchive(DICOMWebDatastore):
    """MONAI Label's own, for series of one radiograph: several modalities, and faults told as such.

    Viewers get the series as NIfTI, as from the original; bundles read the DICOM file itself, see `dicom_of`.
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
