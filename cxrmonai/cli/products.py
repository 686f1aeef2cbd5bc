"""Commands that hand results on: exports, servers, DICOM."""

from __future__ import annotations

import sys

from cxrmonai.cli.exit_codes import SOME_SKIPPED
from cxrmonai.errors import CxrError


def export(
    bundle: str,
    out: str | None = None,
    ckpt_path: str | None = None,
    torchscript: bool = False,
    onnx: bool = False,
    zip: bool = False,
    target: str = "folder",
    images: str | None = None,
    metrics: str | None = None,
) -> int:
    """Makes a folder of a trained bundle that stands alone, and proves that its formats agree (docs/deploying.md).

    Args:
        bundle: folder of the bundle, such as bundles/supervised.
        out: the folder to make.
        ckpt_path: the weights; those that the bundle's inference.json names by default, models/model.pt.
        torchscript: also write models/model.ts.
        onnx: also write models/model.onnx, with a batch of any size.
        zip: write OUT.zip in place of the folder.
        target: folder; hf, with a model card for the Hugging Face hub; or monailabel, an app folder for MONAI Label.
        images: radiographs to compare the formats on; synthetic ones by default.
        metrics: metrics.json of an evaluation of these weights, for the model card.
    """
    from cxrmonai.deploy import export_bundle

    if out is None:
        raise CxrError("--out is missing: the folder to make")
    given = None if ckpt_path is None else str(ckpt_path)
    made = export_bundle(str(bundle), str(out), given, torchscript, onnx, zip, target, images and str(images), metrics)
    for name, difference in made.formats.items():
        print(f"{name}: {'the weights' if name.endswith('.pt') else f'differs by {difference:.1e} at most'}")
    kind = "synthetic radiographs" if made.synthetic else "radiographs"
    print(f"docs/model_card.md: {made.to_fill} places marked TO FILL are left to you")
    print(f"{made.path}: made; outputs compared on {made.images} {kind}")
    return 0


def label_app(
    out: str | None = None,
    bundles: str | None = None,
    ckpt_paths: str | None = None,
    images: str | None = None,
) -> int:
    """Makes an app folder for MONAI Label out of trained bundles (docs/serving.md).

    Args:
        out: the folder to make.
        bundles: names or folders of bundles that give scores, masks or heatmaps, as A,B.
        ckpt_paths: weights, one for each bundle, as A,B; those that each bundle's inference.json names by default.
        images: radiographs to try the bundles on; synthetic ones by default.
    """
    from cxrmonai.data.table import name_list
    from cxrmonai.deploy.label_app import make_app

    if out is None:
        raise CxrError("--out is missing: the folder to make")
    given = ckpt_paths.split(",") if isinstance(ckpt_paths, str) else ckpt_paths  # Fire makes a tuple of A,B
    weights = None if given is None else [str(path).strip() for path in given]
    made = make_app(str(out), name_list(bundles), weights, images and str(images))
    print(f"{out}: app with {', '.join(made)}; its README.md tells how to start it")
    return 0


def serve(app: str, studies: str | None = None, port: int = 8000, host: str = "127.0.0.1") -> int:
    """Serves an app folder by MONAI Label until interrupted; run in MONAI Label's environment (docs/serving.md).

    Args:
        app: folder that label-app made.
        studies: folder of radiographs, or address of a DICOMweb archive.
        port: to serve at.
        host: address to serve at; the server asks for no password.
    """
    from cxrmonai.deploy.serving.start import serve as run

    if studies is None:
        raise CxrError("--studies is missing: the folder of radiographs, or the address of a DICOMweb archive")
    run(str(app), str(studies), int(port), str(host))
    return 0


def board(*folders: str, port: int = 6006) -> int:
    """Shows the runs below some folders in TensorBoard, at 127.0.0.1, until interrupted.

    Args:
        *folders: that hold runs; bundles and runs by default.
        port: to serve at; 0 for any that is free.
    """
    from cxrmonai.deploy.board import serve

    serve([str(folder) for folder in folders], int(port))
    return 0


def dicom_out(
    root: str,
    out: str,
    masks: str | None = None,
    heatmaps: str | None = None,
    seg: bool = False,
    sc: bool = False,
    findings: str | None = None,
    crosswalk: str | None = None,
) -> int:
    """Writes masks and heatmaps as DICOM that refers to the radiographs' studies: segmentations, overlays, or both.

    The exit code is 3 where nothing could be made of some images.

    Args:
        root: folder of the DICOM files that the masks or maps were made from.
        out: folder to write to.
        masks: mask file in CheXlocalize's layout, masks.json.
        heatmaps: heatmaps.h5 of the bundle cam_localization; only overlays use it.
        seg: write a DICOM SEG for each image, IMAGE.seg.dcm.
        sc: write a Secondary Capture for each image and finding, IMAGE_FINDING.sc.dcm, with the overlay burnt in.
        findings: as A,B; all by default.
        crosswalk: the CSV of `prepare --crosswalk`, where the ids are pseudonyms.
    """
    from cxrmonai.explain.dicom_export import export_dicom

    made = export_dicom(str(root), str(out), masks, heatmaps, seg, sc, findings, crosswalk)
    print(f"{out}: {made.segmentations} segmentations, {made.captures} secondary captures, {len(made.skipped)} skipped")
    for image_id, reason in made.skipped:
        print(f"skipped {image_id}: {reason}", file=sys.stderr)
    return SOME_SKIPPED if made.skipped else 0
