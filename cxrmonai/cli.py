"""The command line: `python -m cxrmonai COMMAND …`."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from pathlib import Path
from typing import Any

import fire

from cxrmonai._version import __version__
from cxrmonai.errors import CxrError

SOME_SKIPPED = 3


def prepare(
    source: str,
    root: str | None = None,
    out: str | None = None,
    size: int = 256,
    workers: int | None = None,
    depth: int = 8,
    overwrite: bool = False,
    seed: int = 0,
    shard: str | None = None,
    vocabulary: str | None = None,
    same_patients: bool = False,
    key_file: str | None = None,
    crosswalk: str | None = None,
    **options: Any,
) -> int:
    """Packs one or several data sets into a store. An interrupted run goes on when the same command is given again.

    `python -m cxrmonai sources NAME` tells what a source needs and which options of its own it has; they follow here as
    --OPTION VALUE. The exit code is 3 where the store was written but some images could not be read, and 1 where
    nothing was written.

    Args:
        source: a source's name, several as A,B, or a recipe FILE.json (docs/data.md).
        root: folder of the data set, or of each as DIR1,DIR2.
        out: the store to write, NAME.h5.
        size: edge of the square images in pixels.
        workers: processes; as many as there are cores by default.
        depth: 8 or 16 bits a pixel.
        overwrite: replace an existing store.
        seed: of the splits.
        shard: i/N packs the i-th of N parts into NAME.part-i-of-N.h5, for `merge`.
        vocabulary: published or common names of findings; common by default where there are several sources.
        same_patients: patient ids mean the same persons in all sources.
        key_file: file with a secret that patient, study and image ids are hashed with.
        crosswalk: CSV file to write that tells which id got which pseudonym.
        **options: of the sources.
    """
    from cxrmonai.data.merging import parse_shard, part_path
    from cxrmonai.data.prepare import prepare as run
    from cxrmonai.data.pseudonyms import read_key
    from cxrmonai.data.recipe import collect

    if out is None:
        raise CxrError("--out is missing: the store to write, NAME.h5")
    division = None if shard is None else parse_shard(shard)
    key = None if key_file is None else read_key(str(key_file))
    collection = collect(source, root, options, vocabulary, same_patients, seed, workers)
    for note in collection.notes:
        print(f"note: {note}")
    path = str(out) if division is None else part_path(str(out), *division)
    arguments = {"shard": division, "key": key, "crosswalk": crosswalk and str(crosswalk)}
    made = run(collection, path, size=size, workers=workers, depth=depth, overwrite=overwrite, **arguments)
    resumed = f", {made.resumed} of them from an interrupted run" if made.resumed else ""
    print(f"{made.path}: {made.written} images written{resumed}, {len(made.skipped)} skipped")
    for image, reason in made.skipped.itertuples(index=False):
        print(f"skipped {image}: {reason}", file=sys.stderr)
    return SOME_SKIPPED if len(made.skipped) else 0


def merge(out: str, *parts: str, overwrite: bool = False) -> int:
    """Puts the parts together that `prepare --shard i/N` made; the store is the one that a single run makes.

    Args:
        out: the store to write, NAME.h5.
        *parts: the parts; by default NAME.part-*-of-N.h5 beside it.
        overwrite: replace an existing store.
    """
    from cxrmonai.data.merging import find_parts
    from cxrmonai.data.merging import merge as run

    chosen = [str(part) for part in parts] or find_parts(str(out))
    store = run(chosen, str(out), overwrite)
    print(f"{out}: {len(store)} images of {len(chosen)} parts, {len(store.skipped)} skipped")
    return 0


def sources(name: str | None = None) -> int:
    """Lists the data sets that `prepare` reads, with what each needs; with a name, that one and its options.

    Args:
        name: of a source.
    """
    from cxrmonai.data.sources import SOURCES

    shared = inspect.signature(prepare).parameters
    if name is not None and name not in SOURCES:
        raise CxrError(f"unknown source '{name}'; known are {', '.join(SOURCES)}")
    for each in [name] if name else SOURCES:
        entry = SOURCES[each]
        print(f"{each}: {entry.about}" if name else f"\n{each}: {entry.about}")
        for need in entry.needs:
            print(f"    needs {need}")
        if entry.where:
            print(f"    from  {entry.where}")
        told = {option: text for option, text in entry.option_help().items() if option not in shared}
        if name:
            for option, text in told.items():
                print(f"    --{option}: {text}")
        elif told:
            print(f"    has   {', '.join(f'--{option}' for option in told)}")
    return 0


def info(file: str, picture: str | bool | None = None) -> int:
    """Describes a store: size, splits, findings, boxes, masks, what was skipped; warns of what looks wrong in it.

    Args:
        file: a store, NAME.h5.
        picture: PNG to draw a contact sheet and histograms on; by default NAME.info.png beside the store. With
            --nopicture the images are not read: neither picture nor warnings.
    """
    from cxrmonai.data.describe import describe
    from cxrmonai.data.store import open_store

    store = open_store(str(file))
    print(describe(store))
    if picture is not False:
        from cxrmonai.data.quality import inspect
        from cxrmonai.report.store_picture import draw_store

        found = inspect(store)
        for warning in found.warnings():
            print(f"warning: {warning}")
        path = store.path.with_suffix(".info.png") if picture in (None, True) else str(picture)
        print(f"{draw_store(store, found, path)}: contact sheet and histograms")
    return 0


def label(
    reports: str,
    out: str,
    text_column: str | None = None,
    id_column: str | None = None,
    patterns: str | None = None,
) -> int:
    """Reads findings off radiology reports: the 14 of CheXpert and a grade of edema.

    The exit code is 3 where some reports could not be read, and 1 where nothing was written.

    Args:
        reports: ZIP or folder of .xml and .txt files, or a CSV.
        out: the table to write, NAME.csv: report_id, then 1, 0, -1 (uncertain) or blank for each finding.
        text_column: of a CSV.
        id_column: of a CSV.
        patterns: file with your own patterns (docs/reports.md).
    """
    from cxrmonai.data.reports import label_reports

    made = label_reports(Path(str(reports)), Path(str(out)), text_column, id_column, patterns)
    for note in made.notes:
        print(f"note: {note}")
    print(made.table())
    print(f"{out}: {made.written} reports labelled, {len(made.skipped)} skipped")
    for report, reason in made.skipped:
        print(f"skipped {report}: {reason}", file=sys.stderr)
    return SOME_SKIPPED if made.skipped else 0


def encoder(file: str) -> int:
    """Says what a checkpoint holds: its encoder, how its input is prepared, which weights are used and which dropped.

    Args:
        file: model.pt of a bundle, a published encoder's file, or timm:NAME (docs/encoders.md).
    """
    from cxrmonai.networks import describe_checkpoint

    print(describe_checkpoint(str(file)))
    return 0


def delong(first: str, second: str, out: str | None = None) -> int:
    """Compares the AUROC of two runs on the same images by DeLong's test, paired, with Holm's correction.

    Args:
        first: predictions.csv of one run of an evaluate.json.
        second: of the other; a difference is second minus first.
        out: CSV file for the table, besides printing it.
    """
    from cxrmonai.files import write_text
    from cxrmonai.report.predictions import COMPARISON_NOTE, compare_runs

    table = compare_runs(str(first), str(second))
    print(table.to_string(float_format="{:.4f}".format))
    print(COMPARISON_NOTE)
    if out is not None:
        write_text(str(out), table.to_csv())
    return 0


def compare(
    data_file: str,
    probe_file: str,
    images_seen: int,
    out: str,
    methods: str = "all",
    encoder: str = "resnet18",
    image_size: int = 64,
    stem: str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    device: str | None = None,
    label_fraction: str = "0.01,0.1,1",
    draws: int = 5,
    classes: str | None = None,
    policy: str = "ignore",
    resamples: int = 1000,
    bundles: str | None = None,
) -> int:
    """Pretrains by every method for the same number of images seen, and probes them all on the same labels.

    The same command goes on where it was broken off, and runs nothing twice whose inputs are unchanged. The exit code
    is 3 where a method failed of itself; one that the data cannot serve is listed with its reason.

    Args:
        data_file: store to pretrain on; labels are not needed.
        probe_file: store with findings, training and test patients.
        images_seen: by the encoders of each method: each view, each image of a pair, each pass of a momentum encoder.
        out: folder for comparison.json, .csv and .png, and the runs.
        methods: all, or names as A,B; docs/pretraining.md lists them.
        encoder: any timm name.
        image_size: edge of the input in pixels.
        stem: default, or cifar for small images; by default as the bundles have it, cifar below 48 pixels.
        batch_size: images a step, or pairs, for all methods; by default each has its own.
        seed: of weights, order, views, draws of patients and resamples.
        device: cpu, cuda or cuda:N; a GPU where there is one.
        label_fraction: fractions of the training patients to probe with.
        draws: of each fraction below 1; their mean is given.
        classes: findings to probe for, as A,B; all by default.
        policy: what uncertain labels count as.
        resamples: of the bootstrap over test patients.
        bundles: folder of the bundles, where it is not here.
    """
    from cxrmonai.pipelines.compare import compare_methods, warn_of_failures

    overrides = {"encoder": encoder, "image_size": image_size, "seed": seed}
    overrides |= {key: value for key, value in (("stem", stem), ("batch_size", batch_size)) if value is not None}
    probe = {"draws": draws, "classes": classes, "policy": policy, "resamples": resamples, "fractions": label_fraction}
    content = compare_methods(
        str(data_file), str(probe_file), methods, images_seen, str(out), overrides, probe, device, bundles
    )
    print(f"{out}/comparison.json, .csv and .png: {len(content['methods'])} methods")
    return SOME_SKIPPED if warn_of_failures(content) else 0


def phantom(
    out: str | None = None,
    patients: int = 600,
    size: int = 128,
    seed: int = 0,
    overwrite: bool = False,
    sheet: str | None = None,
    folder: str | None = None,
    masks: int = 20,
    exposure: float = 0.0,
    prevalence: float = 1.0,
) -> int:
    """Makes synthetic radiographs with exact masks and boxes, as a store or as files.

    Args:
        out: the store to write, NAME.h5.
        patients: how many; each has one to four studies.
        size: edge of the images in pixels, 32 to 2048.
        seed: of the whole population.
        overwrite: replace an existing store.
        sheet: a PNG or JPEG to draw 16 of the radiographs on, findings outlined.
        folder: a folder to make with images/*.png, labels.csv, masks/ and masks.csv, to practise on.
        masks: how many patients get masks in the folder, of their first radiograph.
        exposure: what this hospital's images are off the usual exposure, -1 (brighter) to 1 (darker); not for a sheet.
        prevalence: share of the usual findings that this hospital's patients have, 0 to 1; not for a sheet.
    """
    from cxrmonai.data.phantom_folder import write_phantom_folder
    from cxrmonai.data.phantom_store import write_phantom, write_sheet

    if out is None and sheet is None and folder is None:
        raise CxrError("nothing to make; give --out FILE.h5, --folder DIR or --sheet FILE.png")
    if sheet is not None:
        print(f"{write_sheet(str(sheet), patients, size, seed)}: 16 synthetic radiographs, findings outlined")
    if out is not None:
        site = {"exposure": exposure, "prevalence": prevalence}
        count = write_phantom(str(out), patients, size, seed, overwrite=overwrite, **site)
        print(f"{out}: {count} synthetic radiographs of {patients} patients")
    if folder is not None:
        count = write_phantom_folder(str(folder), patients, size, seed, masks, exposure, prevalence)
        print(f"{folder}: {count} synthetic radiographs of {patients} patients, with labels.csv")
    return 0


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


def cross_validate(config_file: str, folds: int = 5, work_dir: str | None = None, **overrides: Any) -> int:
    """Trains and tests a segmenter once for each fold of the patients; one result over all of them, with intervals.

    A fold that was done before with the same options is not done again.

    Args:
        config_file: bundles/deeplabv3plus/configs/train.json, or with overlays "['a.json','b.json']".
        folds: how many, 3 or more.
        work_dir: gets a folder for each fold, metrics.json, overlap.csv and report.html.
        **overrides: keys of the config, such as --data_file and --classes.
    """
    from cxrmonai.bundle import check as faults_of
    from cxrmonai.bundle.source import config_files
    from cxrmonai.pipelines.cross_validation import cross_validate as run

    if work_dir is None:
        raise CxrError("--work_dir is missing: the folder for what comes of the folds")
    faults = faults_of(config_file, overrides)
    if faults:
        raise CxrError("; ".join(faults))
    run(config_files(config_file), folds, str(work_dir), overrides)
    return 0


def federated(
    config_file: str,
    sites: str,
    rounds: int,
    work_dir: str,
    local_epochs: int = 1,
    names: str | None = None,
    site_file: str | None = None,
    server_dir: str | None = None,
    **overrides: Any,
) -> int:
    """Trains one network on the stores of several hospitals, without joining them; simulated here, or as a job.

    Needs `pip install 'cxrmonai[fl]'`. With `--names` nothing is trained: the job of a real federation is written
    (docs/federated.md).

    Args:
        config_file: train.json of a bundle, or with overlays "['a.json','b.json']".
        sites: their stores, A.h5,B.h5; with --names that of the hospital that prepares the job.
        rounds: of averaging.
        work_dir: gets a folder for each hospital and one for what all learned.
        local_epochs: that each hospital trains in a round.
        names: of the hospitals of a real federation, as A,B.
        site_file: where each of these keeps its site.json.
        server_dir: folder at their server for weights and metrics.
        **overrides: keys of the config that all share, such as --encoder and --classes.
    """
    from cxrmonai.bundle import check as faults_of
    from cxrmonai.bundle.source import config_files
    from cxrmonai.data.table import name_list
    from cxrmonai.deploy.federated import prepare_job, simulate

    faults = faults_of(config_file, overrides)
    if faults:
        raise CxrError("; ".join(faults))
    files, stores = config_files(config_file), name_list(sites)
    if names is None:
        simulate(files, stores, rounds, str(work_dir), local_epochs, overrides)
        print(f"{work_dir}/global/models/model.pt: what {len(stores)} hospitals learned; metrics in global/rounds.csv")
        return 0
    if site_file is None or server_dir is None or len(stores) != 1:
        raise CxrError("--names needs --site_file, --server_dir and one store in --sites; see docs/federated.md")
    places = {"site_file": str(site_file), "server_dir": str(server_dir)}
    arguments = {**places, "local_epochs": local_epochs, "options": overrides}
    print(
        f"{prepare_job(files, stores[0], name_list(names), rounds, str(work_dir), **arguments)}: to submit to NVFlare"
    )
    return 0


def check(config_file: str, **overrides: Any) -> int:
    """Checks a bundle's config and overrides without running it; one line per fault.

    Args:
        config_file: a config, or several as "['a.json','b.json']".
        **overrides: as they would follow `python -m monai.bundle run`.
    """
    from cxrmonai.bundle import main_check

    return main_check(config_file, **overrides)


def chexseg(
    work_dir: str,
    data_file: str | None = None,
    classes: str | None = None,
    classifier: str | None = None,
    image_size: int = 128,
    seeds: int = 3,
    expert_masks: int = 10,
    subset: int | None = None,
    encoder: str = "test_resnet",
    classifier_epochs: int = 32,
    irnet_epochs: int = 3,
    segmenter_epochs: int = 6,
    epoch_images: int = 400,
    strong_weight: float = 0.9,
    batch_size: int = 8,
    learning_rate: float = 0.001,
    device: str | None = None,
    bundles: str = "bundles",
) -> int:
    """Segmentation from few masks: classifier, IRNet and DeepLabV3+ in a row, and a table of weak, full and semi.

    An interrupted run goes on when the same command is given again, and what has not changed is left out.

    Args:
        work_dir: gets everything, `results.json`, `results.csv` and `report.html` among it.
        data_file: a store with findings and masks; a synthetic phantom by default.
        classes: findings that have masks, A,B; all of those by default.
        classifier: weights to begin with; one is trained by default.
        image_size: edge of the networks' input in pixels.
        seeds: how many times the segmenters are trained.
        expert_masks: drawn masks of each finding that `full` and `semi` see, drawn by seed.
        subset: training images with pseudo-masks; None for all.
        encoder: a timm name.
        classifier_epochs: of the classifier.
        irnet_epochs: of IRNet.
        segmenter_epochs: of each DeepLabV3+.
        epoch_images: images that an epoch of each DeepLabV3+ draws.
        strong_weight: probability that `semi` draws from the drawn masks.
        batch_size: of all networks.
        learning_rate: of the segmenters.
        device: cpu or cuda.
        bundles: folder of the bundles.
    """
    from cxrmonai.pipelines.chexseg import ChexsegSettings, run_chexseg

    settings = ChexsegSettings(
        image_size=image_size,
        seeds=seeds,
        expert_masks=expert_masks,
        subset=subset,
        encoder=encoder,
        classifier_epochs=classifier_epochs,
        irnet_epochs=irnet_epochs,
        segmenter_epochs=segmenter_epochs,
        epoch_images=epoch_images,
        strong_weight=strong_weight,
        batch_size=batch_size,
        learning_rate=learning_rate,
        device=device,
    )
    names = ",".join(classes) if isinstance(classes, (list, tuple)) else classes
    run_chexseg(str(work_dir), data_file, names, classifier, settings, bundles)
    return 0


def version() -> int:
    """Prints the version."""
    print(__version__)
    return 0


COMMANDS = {
    "sources": sources,
    "prepare": prepare,
    "merge": merge,
    "label": label,
    "info": info,
    "encoder": encoder,
    "delong": delong,
    "compare": compare,
    "phantom": phantom,
    "export": export,
    "label-app": label_app,
    "serve": serve,
    "board": board,
    "dicom-out": dicom_out,
    "chexseg": chexseg,
    "cross-validate": cross_validate,
    "federated": federated,
    "check": check,
    "version": version,
}


def _refuse_unknown_flags(arguments: list[str]) -> None:
    """Fire runs a command first and complains of a flag it does not know afterwards."""
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None or "--" in arguments:
        return
    parameters = inspect.signature(command).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for argument in arguments[1:]:
        name = argument.removeprefix("--").split("=")[0].replace("-", "_")
        if argument.startswith("--") and name not in {*parameters, *(f"no{known}" for known in parameters), "help"}:
            close = difflib.get_close_matches(name, parameters, 1)
            hint = f"; did you mean --{close[0]}?" if close else f"; it has --{', --'.join(parameters)}"
            raise CxrError(f"{arguments[0]} has no flag --{name}{hint}")


def _unless_code(result: Any) -> Any:
    return None if isinstance(result, int) else result


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and leaves with its exit code; a fault of the input is one line on stderr and exit code 1."""
    os.environ.setdefault("PAGER", "cat")
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] and given[0] in COMMANDS and "--help" in given:
        given = [given[0], "--", "--help"]  # otherwise Fire takes it for one of the command's own options
    try:
        _refuse_unknown_flags(given)
        code = fire.Fire(COMMANDS, command=given, name="cxrmonai", serialize=_unless_code)
        sys.stdout.flush()
    except CxrError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        resumable = "; the same command goes on from here" if sys.argv[1:2] in (["prepare"], ["compare"]) else ""
        print(f"interrupted{resumable}", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
