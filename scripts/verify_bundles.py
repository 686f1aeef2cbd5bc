"""Asks of bundles what the model zoo's CI asks, without a network: files, metadata, properties, shapes, TorchScript.

Bundles are named, all of `bundles/` by default, and are tried on a small phantom with weights as their recipe begins
them. A folder in place of a name, such as one that `python -m cxrmonai export` made, is tried with its own weights.

    python scripts/verify_bundles.py [NAME ...] [--mode regular|min|full]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from monai.bundle import ConfigParser, ckpt_export, create_workflow, verify_net_in_out

from cxrmonai.data.phantom_store import write_phantom
from cxrmonai.data.store import open_store
from cxrmonai.deploy import card
from cxrmonai.errors import CxrError, user_error
from cxrmonai.networks import Classifier
from cxrmonai.progress import progress_bar

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
SCHEMA = Path(__file__).with_name("metadata_schema.json")
MODES = ("regular", "min", "full")
FILES = (
    "LICENSE", "configs/metadata.json", "configs/inference.json", "configs/logging.conf", "docs/README.md",
    "docs/data_license.txt",
)  # fmt: skip
WITH_TRAINING = ("configs/multi_gpu_train.json", "configs/evaluate.json", "configs/multi_gpu_evaluate.json")
HEADINGS = (
    "Model Title", "Authors", "Tags", "Model Description", "Data", "Preprocessing", "Performance",
    "Additional Usage Steps", "System Configuration", "Limitations", "Citation Info", "References",
)  # fmt: skip
MEGABYTE = 2**20
LARGEST = 25 * MEGABYTE
WEIGHTS = "models/model.pt"
# What an application reads of inference.json, by the name under which `supported_apps` of metadata.json has it.
APPS = {
    "monailabel": ("preprocessing", "postprocessing", "inferer", "network_def", "device", "bundle_root"),
}
NO_TRAINING = "no train.json: nothing is trained"
Check = Callable[["Trial"], str]


@dataclass
class Trial:
    """A bundle that is tried.

    Attributes:
        name: of the bundle.
        folder: a copy of it, which may be written to.
        data_file: a store to train and evaluate on.
        images: folder of radiographs to infer on.
        fresh: whether the weights are to be made, since a bundle of this repository has none.
    """

    name: str
    folder: Path
    data_file: Path
    images: Path
    fresh: bool = True

    def fault(self, file: str, text: str) -> CxrError:
        """What is wrong, with the file's name in front."""
        return CxrError(f"{file}: {text}")

    def json(self, file: str) -> dict[str, Any]:
        """Content of a JSON file of the bundle."""
        try:
            content = json.loads((self.folder / file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self.fault(file, f"not readable as JSON ({error}); mend it") from error
        if not isinstance(content, dict):
            raise self.fault(file, "holds no object; see another bundle's")
        return content

    def network(self) -> torch.nn.Module:
        """The network that inference.json describes."""
        parser = ConfigParser()
        parser.read_config(str(self.folder / "configs/inference.json"))
        parser["bundle_root"] = str(self.folder)
        if "ckpt_path" in parser:
            parser["ckpt_path"] = str(self.folder / WEIGHTS)
        return parser.get_parsed_content("network_def")

    @property
    def trains(self) -> bool:
        """Whether the bundle trains something."""
        return (self.folder / "configs/train.json").is_file()


def files_are_there(trial: Trial) -> str:
    """Files that the zoo wants, and with a train.json those that go with it."""
    for name in (*FILES, *(WITH_TRAINING if trial.trains else ())):
        if not (trial.folder / name).is_file():
            raise trial.fault(name, "is missing; copy the shape of bundles/simclr (docs/extending.md)")
    if not trial.trains and (trial.folder / "configs/multi_gpu_train.json").is_file():
        raise trial.fault("configs/multi_gpu_train.json", "goes with a train.json, and there is none; remove it")
    return ""


def files_are_small(trial: Trial) -> str:
    """Files of at most 25 MB; larger weights are named in the zoo's large_files.yml instead."""
    weights = trial.folder / WEIGHTS
    for path in sorted(trial.folder.rglob("*")):
        if path.is_file() and path != weights and path.stat().st_size > LARGEST:
            size = path.stat().st_size / MEGABYTE
            raise trial.fault(
                str(path.relative_to(trial.folder)),
                f"{size:.0f} MB, more than the zoo's 25; leave it out, or shrink it",
            )
    large = weights.is_file() and weights.stat().st_size > LARGEST
    return f"{WEIGHTS} is larger than 25 MB and belongs into the zoo's large_files.yml" if large else ""


def licence_is_one(trial: Trial) -> str:
    """A LICENSE with a licence's text, and a word on the data's."""
    if not re.search(r"licen[cs]e", (trial.folder / "LICENSE").read_text(encoding="utf-8"), re.IGNORECASE):
        raise trial.fault("LICENSE", "holds no licence; copy that of the repository, Apache-2.0")
    if not (trial.folder / "docs/data_license.txt").read_text(encoding="utf-8").strip():
        raise trial.fault("docs/data_license.txt", "is empty; say whose the data are and what they may be used for")
    return ""


def metadata_fit_the_schema(trial: Trial) -> str:
    """The fields that the zoo's schema requires, and their types."""
    try:
        from jsonschema import Draft201909Validator
    except ImportError as error:
        raise CxrError("jsonschema is not installed; install it with: pip install 'cxrmonai[dev]'") from error
    file = "configs/metadata.json"
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    error = next(iter(Draft201909Validator(schema).iter_errors(trial.json(file))), None)
    if error is not None:
        place = "/".join(map(str, error.absolute_path))
        raise trial.fault(file, f"{place + ': ' if place else ''}{error.message}; see another bundle's metadata.json")
    return ""


def version_is_in_the_changelog(trial: Trial) -> str:
    """A line in the changelog for the version at hand."""
    metadata = trial.json("configs/metadata.json")
    version, changelog = metadata.get("version"), metadata.get("changelog", {})
    if not str(changelog.get(version, "")).strip():
        raise trial.fault("configs/metadata.json", f"changelog has no line for version {version}; add one")
    return ""


def documentation_is_whole(trial: Trial) -> str:
    """The zoo's headings in docs/README.md and those of the model card, with something below each."""
    file = "docs/README.md"
    found = card.sections((trial.folder / file).read_text(encoding="utf-8"))
    for heading in (*HEADINGS, card.SECTION, *card.HEADINGS):
        if heading not in found:
            raise trial.fault(file, f"lacks the heading '{heading}'; add it with a text")
        if not found[heading]:
            raise trial.fault(file, f"nothing stands under '{heading}'; write it")
    return ""


def weights_are_there(trial: Trial) -> str:
    """models/model.pt: those of the folder, or made as the recipe's network begins."""
    path = trial.folder / WEIGHTS
    if trial.fresh:
        torch.manual_seed(0)
        network = trial.network()
        path.parent.mkdir(exist_ok=True)
        torch.save(network.state_dict(), path)
        return f"{WEIGHTS} was freshly initialised by the recipe, since the repository holds no weights"
    if not path.is_file():
        raise trial.fault(WEIGHTS, "is missing; train the bundle and export it: python -m cxrmonai export")
    return ""


def apps_find_what_they_need(trial: Trial) -> str:
    """`supported_apps`: which applications, each with its version, and what these read of inference.json."""
    metadata = trial.json("configs/metadata.json")
    if "supported_apps" not in metadata:
        raise trial.fault("configs/metadata.json", "lacks supported_apps; write {} for none")
    config = trial.json("configs/inference.json")
    for app in metadata["supported_apps"]:
        if app not in APPS:
            raise trial.fault("configs/metadata.json", f"supported_apps: '{app}' is unknown; known: {', '.join(APPS)}")
        missing = [key for key in APPS[app] if key not in config]
        if missing:
            raise trial.fault("configs/inference.json", f"{app} needs {', '.join(missing)}; add it")
    return ""


def properties(trial: Trial, config: str, kind: str) -> str:
    """What MONAI wants a workflow of this kind to have, in a workflow that is initialised."""
    file = f"configs/{config}.json"
    given = trial.json(file)
    places = {
        "output_dir": trial.folder / "eval",
        "ckpt_dir": trial.folder / "models",
        "ckpt_path": trial.folder / WEIGHTS,
        "classifier": trial.folder.parent / "classifier.pt",
        **({"dataset_dir": trial.images} if config == "inference" else {"data_file": trial.data_file}),
    }
    if "classifier" in given and not places["classifier"].exists():
        names = open_store(trial.data_file).class_names
        torch.save(Classifier(names, "resnet18", image_size=64, asked=ASKED).state_dict(), places["classifier"])
    overrides = {key: str(place) for key, place in places.items() if key in given}
    workflow = create_workflow(
        config_file=str(trial.folder / file),
        workflow_type=kind,
        bundle_root=str(trial.folder),
        device="cpu",
        **overrides,
    )
    workflow.initialize()
    wanted = f"lacks what MONAI wants of a workflow to {kind}"
    try:
        missing = workflow.check_properties()
    except KeyError as error:
        raise trial.fault(file, f"{wanted}: {error.args[0]}") from error
    if missing:
        raise trial.fault(file, f"{wanted}: {', '.join(missing)}; add it")
    return ""


ASKED = {
    "target": "findings", "classes": None, "policy": "ignore", "blank": None, "grade_column": "edema_severity",
    "equalize": False,
}  # fmt: skip


def training_has_its_properties(trial: Trial) -> str:
    """Of train.json."""
    return properties(trial, "train", "train") if trial.trains else NO_TRAINING


def inference_has_its_properties(trial: Trial) -> str:
    """Of inference.json."""
    return properties(trial, "inference", "infer")


def evaluation_has_its_properties(trial: Trial) -> str:
    """Of evaluate.json, where there is one; an export has none."""
    there = (trial.folder / "configs/evaluate.json").is_file()
    return properties(trial, "evaluate", "infer") if there else "no evaluate.json"


def network_takes_and_gives(trial: Trial) -> str:
    """What network_data_format of the metadata says."""
    try:
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(trial.folder / "configs/metadata.json"),
            config_file=str(trial.folder / "configs/inference.json"),
            device="cpu",
            bundle_root=str(trial.folder),
            ckpt_path=str(trial.folder / WEIGHTS),
        )
    except (ValueError, RuntimeError) as error:
        raise trial.fault(
            "configs/metadata.json",
            f"network_data_format does not fit the network of inference.json ({one_line(error)}); correct it",
        ) from error
    return ""


def torchscript_is_the_same(trial: Trial) -> str:
    """MONAI's export, with the network's outputs at another batch size than the example's."""
    network = trial.network().eval()
    network.load_state_dict(torch.load(trial.folder / WEIGHTS, weights_only=True))
    place = trial.folder / "models/model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(place),
        ckpt_file=str(trial.folder / WEIGHTS),
        meta_file=str(trial.folder / "configs/metadata.json"),
        config_file=str(trial.folder / "configs/inference.json"),
        bundle_root=str(trial.folder),
        ckpt_path=str(trial.folder / WEIGHTS),
    )
    image = trial.json("configs/metadata.json")["network_data_format"]["inputs"]["image"]
    images = torch.rand(3, image["num_channels"], *image["spatial_shape"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (torch.jit.load(place)(images) - network(images)).abs().max().item()
    if not difference <= 1e-5:
        raise trial.fault("models/model.ts", f"differs from the network by {difference:.1e}; see its forward()")
    return ""


@dataclass(frozen=True)
class Step:
    """One of the checks.

    Attributes:
        title: short, for the table.
        mode: the least in which it runs; each mode does all that the one before it does.
        check: raises a `CxrError`, or returns a note.
        needed: whether what follows makes no sense without it.
    """

    title: str
    mode: str
    check: Check
    needed: bool = False


STEPS = (
    Step("files", "regular", files_are_there, needed=True),
    Step("licence", "regular", licence_is_one),
    Step("schema", "regular", metadata_fit_the_schema, needed=True),
    Step("weights", "regular", weights_are_there, needed=True),
    Step("25 MB", "regular", files_are_small),
    Step("docs", "regular", documentation_is_whole),
    Step("version", "min", version_is_in_the_changelog),
    Step("apps", "full", apps_find_what_they_need),
    Step("train", "full", training_has_its_properties),
    Step("infer", "full", inference_has_its_properties),
    Step("evaluate", "full", evaluation_has_its_properties),
    Step("in/out", "full", network_takes_and_gives),
    Step("script", "full", torchscript_is_the_same),
)


def steps_of(mode: str) -> list[Step]:
    """The checks of a mode."""
    return [step for step in STEPS if MODES.index(step.mode) <= MODES.index(mode)]


@contextlib.contextmanager
def trials(sources: Sequence[Path], data_file: Path | None = None) -> Iterator[list[Trial]]:
    """Copies of bundles in a folder that goes when the block ends, with a store and an image to try them on.

    Args:
        sources: folders of bundles; one below `bundles/` is copied without its weights and results.
        data_file: a store; a small phantom by default.
    """
    with tempfile.TemporaryDirectory(prefix="verify_bundles.") as work:
        store = Path(work) / "phantom.h5" if data_file is None else data_file
        if data_file is None:
            write_phantom(store, patients=24, size=64, seed=0, progress=False, workers=0)
        images = Path(work) / "images"
        images.mkdir()
        cv2.imwrite(str(images / "a.png"), np.zeros((32, 32), np.uint8))
        found = []
        for number, source in enumerate(sources):
            ours = source.resolve().parent == BUNDLES
            left_out = shutil.ignore_patterns("models", "eval", "__pycache__") if ours else None
            folder = Path(work) / str(number) / source.name
            shutil.copytree(source, folder, ignore=left_out)
            found.append(Trial(source.name, folder, store, images, fresh=ours))
        yield found


def verify(trial: Trial, step: Step) -> tuple[str, str]:
    """Runs a check without what libraries say while it runs.

    Returns:
        `ok`, `-` (does not concern this bundle) or `FAIL`; and a note, or the fault in one line.
    """
    with quiet():
        try:
            note = step.check(trial)
        except Exception as error:
            return "FAIL", one_line(user_error(error) or error)
    return ("-" if note.startswith("no ") else "ok"), note


def one_line(error: BaseException) -> str:
    """The first cause of an error, in one line."""
    while not isinstance(error, CxrError) and error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return text if isinstance(error, CxrError) else f"{type(error).__name__}: {text}"[:300]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps libraries' output away."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def find(names: Sequence[str]) -> list[Path]:
    """Folders of bundles, by name or path; all for none.

    Raises:
        CxrError: there is no such bundle.
    """
    known = sorted(path.parents[1] for path in BUNDLES.glob("*/configs/*.json") if path.name == "metadata.json")
    if not names:
        return known
    found = []
    for name in names:
        path = BUNDLES / name if (BUNDLES / name).is_dir() and "/" not in name else Path(name)
        if not path.is_dir():
            there = ", ".join(folder.name for folder in known)
            raise CxrError(f"{name}: no such bundle; there are {there}, or give a folder")
        found.append(path.resolve())
    return found


def table(results: dict[str, dict[str, str]], titles: Sequence[str]) -> str:
    """Bundles as rows, checks as columns."""
    width = max(len("bundle"), *map(len, results))
    lines = ["  ".join(["bundle".ljust(width), *titles])]
    for name, marks in results.items():
        lines.append(
            "  ".join([name.ljust(width), *(marks.get(title, "").ljust(len(title)) for title in titles)]).rstrip()
        )
    return "\n".join(lines)


def run(sources: Sequence[Path], mode: str) -> int:
    """Verifies bundles, says what came of it, and returns the exit code, 0 or 1."""
    steps = steps_of(mode)
    results: dict[str, dict[str, str]] = {}
    faults: list[str] = []
    notes: dict[str, list[str]] = {}
    with trials(sources) as found, progress_bar("verify", len(found) * len(steps), "check") as bar:
        for trial in found:
            marks = results[trial.name] = {}
            for step in steps:
                bar.set_postfix_str(f"{trial.name} {step.title}", refresh=False)
                marks[step.title], said = verify(trial, step)
                if marks[step.title] == "FAIL":
                    faults.append(f"error: bundle {trial.name}: {said}")
                elif said:
                    notes.setdefault(said, []).append(trial.name)
                bar.update(1)
                if step.needed and marks[step.title] == "FAIL":
                    break
    print(table(results, [step.title for step in steps]))
    for note, names in notes.items():
        print(f"note: {note} ({', '.join(names)})", flush=True)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Verifies the bundles that are named, and leaves with the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="bundles, or folders of such; all of bundles/ by default"
    )
    parser.add_argument(
        "--mode", choices=MODES, default="full",
        help="regular: files, metadata, weights; min: and the changelog; full: and what runs (default)",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        sys.exit(run(find(given.names), given.mode))
    except CxrError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
