"""The app that MONAI Label's server starts: the bundles of an app folder."""

from __future__ import annotations

import json
from pathlib import Path

from cxrmonai.deploy.serving import environment

environment.prepare()

from monailabel.interfaces.app import MONAILabelApp  # noqa: E402
from monailabel.interfaces.datastore import Datastore  # noqa: E402

from cxrmonai._version import __version__  # noqa: E402
from cxrmonai.deploy.label_app import APP_FILE  # noqa: E402
from cxrmonai.deploy.serving.archive import RadiographArchive, open_archive  # noqa: E402
from cxrmonai.deploy.serving.bundles import SegmentingBundle  # noqa: E402
from cxrmonai.deploy.serving.tasks import BundleTask, SegmenterTraining  # noqa: E402

TITLE = "cxrmonai"


class RadiographApp(MONAILabelApp):
    """Serves what `python -m cxrmonai label-app` put into a folder.

    Args:
        app_dir: the folder.
        studies: folder of radiographs, or address of a DICOMweb archive.
        conf: MONAI Label's `--conf`; nothing of it is needed.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self._entries = json.loads((Path(app_dir) / APP_FILE).read_text(encoding="utf-8"))["models"]
        super().__init__(
            app_dir, studies, conf, TITLE, "Chest radiographs: research only, not for diagnosis", __version__
        )

    def init_infers(self) -> dict[str, BundleTask]:
        """A task for each bundle."""
        return {name: BundleTask(self._folder(name), entry, self._source) for name, entry in self._entries.items()}

    def init_trainers(self) -> dict[str, SegmenterTraining]:
        """A task for each bundle that segments."""
        return {
            name: SegmenterTraining(self._folder(name), entry, self._source)
            for name, entry in self._entries.items()
            if entry["kind"] == SegmentingBundle.kind
        }

    def init_remote_datastore(self) -> Datastore:
        """The archive; MONAI Label's own start would download a program for DICOM SEG."""
        return open_archive(self.studies)

    def _folder(self, name: str) -> Path:
        return Path(self.app_dir) / "model" / name

    def _source(self, path: str) -> str:
        store = self.datastore()
        inside = isinstance(store, RadiographArchive) and Path(path).is_relative_to(store.folder)
        return store.dicom_of(path) if inside else path


__all__ = ["RadiographApp"]
