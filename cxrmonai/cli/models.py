"""Commands that train, compare and check."""

from __future__ import annotations

from typing import Any

from cxrmonai.cli.exit_codes import SOME_SKIPPED
from cxrmonai.errors import CxrError


def check(config_file: str, **overrides: Any) -> int:
    """Checks a bundle's config and overrides without running it; one line per fault.

    Args:
        config_file: a config, or several as "['a.json','b.json']".
        **overrides: as they would follow `python -m monai.bundle run`.
    """
    from cxrmonai.bundle import main_check

    return main_check(config_file, **overrides)


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


def _need_sound(config_file: str, overrides: dict[str, Any]) -> None:
    from cxrmonai.bundle import check as faults_of

    faults = faults_of(config_file, overrides)
    if faults:
        raise CxrError("; ".join(faults))


def cross_validate(config_file: str, folds: int = 5, work_dir: str | None = None, **overrides: Any) -> int:
    """Trains and tests a segmenter once for each fold of the patients; one result over all of them, with intervals.

    A fold that was done before with the same options is not done again.

    Args:
        config_file: bundles/deeplabv3plus/configs/train.json, or with overlays "['a.json','b.json']".
        folds: how many, 3 or more.
        work_dir: gets a folder for each fold, metrics.json, overlap.csv and report.html.
        **overrides: keys of the config, such as --data_file and --classes.
    """
    from cxrmonai.bundle.source import config_files
    from cxrmonai.pipelines.cross_validation import cross_validate as run

    if work_dir is None:
        raise CxrError("--work_dir is missing: the folder for what comes of the folds")
    _need_sound(config_file, overrides)
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
    from cxrmonai.bundle.source import config_files
    from cxrmonai.data.table import name_list
    from cxrmonai.deploy.federated import prepare_job, simulate

    _need_sound(config_file, overrides)
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
