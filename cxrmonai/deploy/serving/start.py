"""Starting MONAI Label's server on an app folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from cxrmonai.deploy.label_app import APP_FILE
from cxrmonai.deploy.serving import environment
from cxrmonai.errors import CxrError

FILES = ["*.dcm", "*.png", "*.jpg", "*.jpeg", "*.nii.gz", "*.nii", "*.nrrd"]
MODALITIES = {"Modality": "CR,DX"}
LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(app: str, studies: str, port: int = 8000, host: str = "127.0.0.1") -> None:
    """Starts MONAI Label's server and stays until it is interrupted.

    MONAI Label's own settings (`MONAI_LABEL_…` in the environment) go before what is set here.

    Args:
        app: folder that `label-app` made.
        studies: folder of radiographs, or address of a DICOMweb archive.
        port: to serve at.
        host: address to serve at.

    Raises:
        CxrError: no app folder, no such folder of radiographs, or MONAI Label is not installed.
    """
    folder = Path(app)
    if not (folder / APP_FILE).is_file():
        raise CxrError(f"{app}: no app folder; make one with `python -m cxrmonai label-app`")
    remote = studies.startswith(("http://", "https://"))
    if not remote and not Path(studies).is_dir():
        raise CxrError(f"{studies}: no such folder; name the radiographs' folder, or an http address, with --studies")
    if host not in LOCAL:
        print(f"note: {host}: whoever reaches this address can read every image; the server asks for no password")
    defaults = {
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps(FILES),
        "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": json.dumps(MODALITIES),
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder.resolve() / "cache"),
        "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "60",
        "MONAI_LABEL_SESSION_PATH": str(folder.resolve() / "cache/sessions"),
        "MONAI_LABEL_TRACKING_ENABLED": "false",
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)
    environment.prepare()
    from monailabel.main import Main

    sys.argv = [
        "monailabel", "start_server", "--app", str(folder), "--studies", studies, "--host", host, "--port", str(port),
        "--uvicorn_app", "cxrmonai.deploy.serving.server:app",
    ]  # fmt: skip
    Main().run()
