"""CheXseg (Gadgil et al., 2021) in one command: what few drawn masks and many image labels give together."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrmonai.data.phantom_store import write_phantom
from cxrmonai.data.segmentation import choose_masks
from cxrmonai.data.store import open_store
from cxrmonai.data.targets import match_classes
from cxrmonai.errors import CxrError
from cxrmonai.files import write_json, write_text
from cxrmonai.networks import load_classifier
from cxrmonai.pipelines.steps import Runner, Step, folder_bytes
from cxrmonai.report.html import Report

MODELS = {
    "weak (CAM)": "DeepLabV3+ on masks of the classifier's maps",
    "weak (IRNet)": "DeepLabV3+ on masks of IRNet",
    "full": "DeepLabV3+ on the drawn masks",
    "semi": "DeepLabV3+ on the drawn masks and those of IRNet",
}
COUNTS = (
    "seeds", "expert_masks", "classifier_epochs", "irnet_epochs", "segmenter_epochs", "epoch_images", "batch_size",
)  # fmt: skip
PATIENTS = 1500
LOCALIZING = {"output_stride": 4, "depth": 3, "pooling": "PCAM", "head_start": "frequency", "flip": 0.5}
MEASURES = {"dice": "Dice", "miou": "mIoU", "miou_positive": "mIoU, mask there", "miou_pooled": "IoU, pooled"}


@dataclass(frozen=True)
class ChexsegSettings:
    """Of the pipeline.

    Attributes:
        image_size: edge of the networks' input in pixels, a multiple of 32.
        seeds: how many times the segmenters are trained, each with another draw of drawn masks.
        expert_masks: drawn masks of each finding that `full` and `semi` see.
        subset: images with pseudo-masks, drawn among those with a finding; `None` for all training images.
        encoder: a timm name.
        classifier_epochs: of the classifier.
        irnet_epochs: of IRNet.
        segmenter_epochs: of each DeepLabV3+.
        epoch_images: images that an epoch of each DeepLabV3+ draws, so that all of them make as many updates.
        strong_weight: probability that `semi` draws from the drawn masks.
        batch_size: of all networks.
        learning_rate: of the segmenters.
        device: `cpu`, `cuda`; chosen by itself where `None`.
    """

    image_size: int = 128
    seeds: int = 3
    expert_masks: int = 10
    subset: int | None = None
    encoder: str = "test_resnet"
    classifier_epochs: int = 32
    irnet_epochs: int = 3
    segmenter_epochs: int = 6
    epoch_images: int = 400
    strong_weight: float = 0.9
    batch_size: int = 8
    learning_rate: float = 0.001
    device: str | None = None

    def __post_init__(self) -> None:
        if self.image_size < 32 or self.image_size % 32:
            raise CxrError(f"image_size {self.image_size}: must be a multiple of 32")
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise CxrError(f"{name} {getattr(self, name)}: must be at least 1")


def run_chexseg(
    work_dir: str | os.PathLike[str],
    data_file: str | os.PathLike[str] | None = None,
    classes: str | None = None,
    classifier: str | None = None,
    settings: ChexsegSettings | None = None,
    bundles: str | os.PathLike[str] = "bundles",
) -> dict[str, Any]:
    """Classifier, maps, IR labels, IRNet, pseudo-masks, four segmenters a seed, and a table of them.

    Each step is a run of a bundle and is left out when nothing it depends on has changed; an interrupted one goes on.
    All segmenters start from the classifier's encoder, and their epoch and thresholds are chosen on the validation
    patients' drawn masks; test patients are read once, at the end.

    Args:
        work_dir: gets everything: `results.json`, `results.csv`, `report.html` and a folder for each step.
        data_file: a store with findings and masks; without one a phantom of 1,500 patients is made.
        classes: findings that have masks, `A,B`; all of those by default.
        classifier: weights to begin with; without them one is trained.
        settings: of the pipeline.
        bundles: folder of the bundles.

    Returns:
        What `results.json` holds.

    Raises:
        CxrError: a step failed, or the store lacks findings or masks.
    """
    settings = settings or ChexsegSettings()
    work, bundles = Path(work_dir), Path(bundles)
    work.mkdir(parents=True, exist_ok=True)
    if data_file is None:
        data_file = work / "phantom.h5"
        if not data_file.exists():
            print(f"note: no --data_file given: making the synthetic phantom {data_file}")
            write_phantom(data_file, patients=PATIENTS, size=settings.image_size)
    names = _findings(data_file, classes, classifier)
    plan = _Plan(work, bundles, Path(data_file), names, classifier, settings)
    steps = plan.steps()
    runner = Runner(work, len(steps))
    for step in steps:
        runner(step)
    results = _collect(plan)
    results["steps_run"] = runner.ran
    _write(work, results)
    return results


def _findings(data_file: str | os.PathLike[str], classes: str | None, classifier: str | None) -> list[str]:
    """Findings that have both labels and masks."""
    names, store = choose_masks(data_file, classes), open_store(data_file)
    try:
        match_classes(names, store.class_names)
    except CxrError as error:
        raise CxrError(f"{data_file}: {error}; the pipeline needs findings with labels and masks") from error
    if classifier is not None:
        match_classes(names, load_classifier(classifier).class_names)
    return names


@dataclass(frozen=True)
class _Plan:
    work: Path
    bundles: Path
    data: Path
    names: list[str]
    given: str | None
    settings: ChexsegSettings

    def steps(self) -> list[Step]:
        """All of them, in order."""
        pseudo = [self._pseudo("cam"), self._pseudo("irnet")]
        models = [step for seed in range(self.settings.seeds) for name in MODELS for step in self._model(name, seed)]
        first = [] if self.given else [self._classifier()]
        return [*first, self._irnet(), *pseudo, self._alone(), *models]

    def folder(self, name: str) -> Path:
        """Of a step."""
        return self.work / name.replace(" ", "_").replace("(", "").replace(")", "").lower()

    @property
    def classifier(self) -> Path:
        """Weights of the classifier."""
        return Path(self.given) if self.given else self.folder("classifier") / "models/model.pt"

    def _step(self, name: str, bundle: str, config: str, folder: Path, **options: Any) -> Step:
        inputs = [self.data, *options.pop("inputs", ())]
        outputs = options.pop("outputs")
        device = {} if self.settings.device is None else {"device": self.settings.device}
        root = self.bundles / bundle
        common = {"bundle_root": root, "data_file": self.data, "output_dir": folder / "eval", **device}
        models = options.get("ckpt_dir")
        leftovers = [] if models is None else [models / "checkpoint.pt", models / "model_final.pt"]
        return Step(
            name=name,
            config=root / "configs" / f"{config}.json",
            options={**common, **options},
            inputs=inputs,
            outputs=outputs,
            resumable=config == "train",
            leftovers=leftovers,
        )

    def _classifier(self) -> Step:
        s, folder = self.settings, self.folder("classifier")
        return self._step(
            "classifier", "supervised", "train", folder,
            ckpt_dir=folder / "models", classes=",".join(self.names), encoder=s.encoder, image_size=s.image_size,
            max_epochs=s.classifier_epochs, **LOCALIZING, outputs=[folder / "models/model.pt"],
        )  # fmt: skip

    def _irnet(self) -> Step:
        s, folder = self.settings, self.folder("irnet")
        return self._step(
            "irnet", "irnet", "train", folder,
            ckpt_dir=folder / "models", classifier=self.classifier, classes=",".join(self.names),
            attribution=self._attribution(),
            image_size=s.image_size, batch_size=s.batch_size, max_epochs=s.irnet_epochs, check_every=0,
            inputs=[self.classifier], outputs=[folder / "models/model.pt", folder / "models/classifier.pt"],
        )  # fmt: skip

    def pseudo(self, method: str) -> Path:
        """The pseudo-masks of a method."""
        return self.folder("irnet") / f"pseudo_{method}.h5"

    def _pseudo(self, method: str) -> Step:
        folder = self.folder("irnet")
        subset = {} if self.settings.subset is None else {"subset": self.settings.subset}
        return self._step(
            f"pseudo-masks {method}", "irnet", "propagate", folder,
            ckpt_path=folder / "models/model.pt", method=method, pseudo_masks=self.pseudo(method),
            threshold="tuned", **subset, inputs=[folder / "models/model.pt"], outputs=[self.pseudo(method)],
        )  # fmt: skip

    def _alone(self) -> Step:
        folder = self.folder("irnet")
        return self._step(
            "pseudo-masks of test patients", "irnet", "evaluate", folder / "alone",
            ckpt_path=folder / "models/model.pt", resamples=200, threshold="tuned", cam_threshold="tuned",
            inputs=[folder / "models/model.pt"], outputs=[folder / "alone/eval/metrics.json"],
        )  # fmt: skip

    def _model(self, name: str, seed: int) -> list[Step]:
        s, folder = self.settings, self.folder(f"{name} {seed}")
        supervision = name.split()[0]
        options: dict[str, Any] = {"supervision": supervision}
        inputs = [self.classifier]
        if supervision != "full":
            made = self.pseudo("cam" if name == "weak (CAM)" else "irnet")
            options["pseudo_masks"] = made
            inputs.append(made)
        if supervision != "weak":
            options |= {"expert_masks": s.expert_masks, "strong_weight": s.strong_weight}
        train = self._step(
            f"{name}, seed {seed}", "deeplabv3plus", "train", folder,
            ckpt_dir=folder / "models", seed=seed, classes=",".join(self.names), encoder=self._encoder(),
            image_size=s.image_size, batch_size=s.batch_size, max_epochs=s.segmenter_epochs,
            epoch_images=s.epoch_images, learning_rate=s.learning_rate, pretrained=self.classifier, **options,
            inputs=inputs, outputs=[folder / "models/model.pt"],
        )  # fmt: skip
        weights = folder / "models/model.pt"
        test = self._step(
            f"{name}, seed {seed}, test", "deeplabv3plus", "evaluate", folder,
            ckpt_path=weights, resamples=200, inputs=[weights], outputs=[folder / "eval/metrics.json"],
        )  # fmt: skip
        return [train, test]

    def _attribution(self) -> str:
        """The map of the classifier's own pooling where that has one."""
        pooling = load_classifier(self.given).pooling if self.given else LOCALIZING["pooling"]
        return "pcam" if pooling == "PCAM" else "gradcam"

    def _encoder(self) -> str:
        if self.given:
            return load_classifier(self.given).encoder.description.name
        return self.settings.encoder


def _collect(plan: _Plan) -> dict[str, Any]:
    """Means and spread over the seeds of every figure."""
    found: dict[str, list[dict[str, Any]]] = {
        name: [_read(plan.folder(f"{name} {seed}") / "eval/metrics.json") for seed in range(plan.settings.seeds)]
        for name in MODELS
    }
    alone = _read(plan.folder("irnet") / "alone/eval/metrics.json")
    found = {"maps alone": [alone["cam"]], "IRNet alone": [alone], **found}
    results: dict[str, Any] = {
        "settings": asdict(plan.settings),
        "data": str(plan.data),
        "synthetic": open_store(plan.data).synthetic,
        "images": alone["images"],
        "patients": alone["patients"],
        "findings": plan.names,
        "methods": {name: _means(runs, plan.names) for name, runs in found.items()},
        "bytes": {
            "all": folder_bytes(plan.work),
            "IR labels": (plan.folder("irnet") / "eval/ir_labels.h5").stat().st_size,
            "pseudo-masks": plan.pseudo("irnet").stat().st_size,
        },
    }
    return results


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _means(runs: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    made: dict[str, Any] = {"seeds": len(runs)}
    for measure in MEASURES:
        values = np.array([_number(run[f"mean_{measure}"]) for run in runs])
        made[measure] = float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
        made[f"{measure}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
        made[f"{measure}_each"] = values.tolist()
    made["classes"] = {}
    for name in names:
        each = {measure: [_number(run["classes"][name][measure]) for run in runs] for measure in MEASURES}
        made["classes"][name] = {
            measure: float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
            for measure, values in each.items()
        }
    return made


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def table_of(results: Mapping[str, Any]) -> pd.DataFrame:
    """A row for each method: the measures, means over classes and seeds, and their standard deviation over seeds."""
    rows = {
        name: {
            "seeds": method["seeds"],
            **{
                key: value
                for measure, label in MEASURES.items()
                for key, value in ((label, method[measure]), (f"{label}, sd", method[f"{measure}_sd"]))
            },
        }
        for name, method in results["methods"].items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def order_of(results: Mapping[str, Any], measure: str = "miou") -> str:
    """In words, whether the figures have the order of the paper."""
    value = {name: results["methods"][name][measure] for name in MODELS}
    weak = max(value["weak (CAM)"], value["weak (IRNet)"])
    holds = value["semi"] > value["full"] > weak
    return (
        f"semi {value['semi']:.3f}, full {value['full']:.3f}, weak {weak:.3f} ({MEASURES[measure]}): "
        f"the order of the paper, semi > full > weak, {'holds' if holds else 'does not hold'} here"
    )


def _write(work: Path, results: dict[str, Any]) -> None:
    table = table_of(results)
    write_json(work / "results.json", {**results, "order": order_of(results)})
    long = [
        {"method": name, "finding": finding, **values}
        for name, method in results["methods"].items()
        for finding, values in {"mean": {m: method[m] for m in MEASURES}, **method["classes"]}.items()
    ]
    write_text(work / "results.csv", pd.DataFrame(long).to_csv(index=False, float_format="%.4f"))
    kind = "synthetic radiographs" if results["synthetic"] else "radiographs"
    about = f"{results['images']} {kind} of {results['patients']} test patients"
    report = Report("Segmentation from few masks", about)
    if results["synthetic"]:
        report.note("Synthetic radiographs: these figures say nothing about patients.")
    report.table(
        ["Method", *table.columns],
        [[name, *row] for name, row in zip(table.index, table.to_numpy().tolist(), strict=True)],
    )
    report.text(order_of(results) + ".")
    for name, text in MODELS.items():
        report.text(f"{name}: {text}.")
    report.section("mIoU of each finding")
    methods = results["methods"]
    rows = [
        [finding, *(methods[name]["classes"][finding]["miou"] for name in methods)] for finding in results["findings"]
    ]
    report.table(["Finding", *methods], rows)
    report.section("Facts")
    facts = {"data": results["data"], **results["settings"], "bytes on disk": results["bytes"]["all"]}
    report.table(["What", "Value"], [[name, str(value)] for name, value in facts.items()])
    report.save(work / "report.html")
    print(table.to_string(float_format="{:.3f}".format))
    print(f"{about}; {order_of(results)}")
    print(f"{work}: {results['bytes']['all'] / 1e6:.0f} MB; see {work / 'report.html'}")


__all__ = ["ChexsegSettings", "order_of", "run_chexseg", "table_of"]
