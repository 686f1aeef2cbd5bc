"""Measures what must be fast, each against what else one would use, in one run.

    python scripts/benchmark.py [prepare|table|load|augment|step|explain|crf] [--data DIR] [--json FILE] [--quick]

The two sides of a comparison take turns, and the fastest round of each counts: that is what other programs on the
machine disturb least. One process is timed in CPU time on one thread; several processes, and a GPU, by the clock.
`--data` names a folder with `images/` (1024-pixel PNG) and `images_256/` (the same at 256), as of ChestX-ray14; without
it phantoms are drawn, and the table says so.

PyTorch and MONAI are imported inside the functions: the processes that `prepare` starts import this file once more.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import io
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT.parent / "shared/data/nih_sample"
CONFIGS = ROOT / "bundles/simclr/configs"
LEFT_OUT = ("ValidationHandler", "ProbeCurve", "CheckpointHandler")


@dataclass(frozen=True)
class Row:
    """One comparison; more is better, but for a cost.

    Attributes:
        name: of the ratio, as in the JSON file; empty where there is no target.
        text: what is compared.
        ours: rate of this project.
        other: rate of the other side.
        unit: of both.
        target: least ratio; for a cost the largest.
        cost: whether the numbers are costs, so that less is better.
    """

    name: str
    text: str
    ours: float
    other: float
    unit: str
    target: float | None = None
    cost: bool = False

    @property
    def met(self) -> bool:
        """Whether the ratio is as good as the target, where there is one."""
        return self.target is None or (self.ratio <= self.target if self.cost else self.ratio >= self.target)

    @property
    def ratio(self) -> float:
        """Ours over the other's."""
        return self.ours / self.other

    def line(self) -> str:
        """As a line of the table."""
        wanted = "" if self.target is None else f"{self.target:>7.2f}  {'met' if self.met else 'MISSED'}"
        return (
            f"{self.text:<58}{self.ours:>10.1f}{self.other:>10.1f} {self.unit:<15}{self.ratio:>8.2f} {wanted}".rstrip()
        )


HEADER = f"{'comparison':<58}{'ours':>10}{'other':>10} {'unit':<15}{'ratio':>8} {'target':>7}"


@dataclass
class Setup:
    """What the measurements share.

    Attributes:
        large: radiographs of 1024 pixels.
        small: radiographs of 256 pixels.
        scratch: folder for stores.
        quick: whether to do little, only to see that it runs.
    """

    large: list[Path]
    small: list[Path]
    scratch: Path
    quick: bool = False

    def number(self, full: int, quick: int = 1) -> int:
        """How many rounds, rows or pixels."""
        return quick if self.quick else full

    def store(self, size: int, count: int = 0) -> Path:
        """A store of the small radiographs, or of `count` of them round and round, made at first use."""
        count = count or len(self.small)
        out = self.scratch / f"store_{size}_{count}.h5"
        if not out.exists():
            pack(self.small, count, out, size)
        return out


def pack(files: Sequence[Path], count: int, out: Path, size: int = 256, workers: int = 0) -> None:
    """Prepares a store of `count` rows from the files, taken round and round."""
    from cxrmonai.data.prepare import prepare
    from cxrmonai.data.sources.base import Collection
    from cxrmonai.data.table import make_table

    names = [files[k % len(files)].name for k in range(count)]
    table = make_table({"image": names, "image_id": [str(k) for k in range(count)]})
    prepare(Collection("benchmark", files[0].parent, table, []), out, size, workers, overwrite=True, progress=False)


def fastest(
    rounds: int, *runs: Callable[[], object], clock: Callable[[], float] = time.process_time, warm: bool = True
) -> list[float]:
    """Seconds of each run's fastest round; the runs take turns. With `warm`, a first round does not count."""
    best = [math.inf] * len(runs)
    for k in range(rounds + warm):
        for place, run in enumerate(runs):
            start = clock()
            run()
            if k >= warm:
                best[place] = min(best[place], clock() - start)
    return best


def row(name: str, text: str, count: float, times: Sequence[float], unit: str, target: float | None = None) -> Row:
    """A comparison of two runs that did `count` things each."""
    return Row(name, text, count / times[0], count / times[1], unit, target)


def prepare_vs_decode(setup: Setup) -> Row:
    """`prepare` in this process, store written, against reading, `cv2.imdecode` and `cv2.resize` (area) alone."""
    import cv2

    files = [setup.large[k % len(setup.large)] for k in range(setup.number(240, 8))]

    def decode_and_resize() -> None:
        for file in files:
            image = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
            cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA)

    def ours() -> None:
        pack(files, len(files), setup.scratch / "large.h5")

    times = fastest(setup.number(5), ours, decode_and_resize)
    text = "prepare : decode and resize alone (OpenCV)"
    return row("prepare_vs_decode", text, len(files), times, "images/CPU-s", 0.9)


def prepare_two_processes(setup: Setup) -> Row:
    """`prepare` with two processes, their start included, against one."""
    count, out = setup.number(1600, 8), setup.scratch / "processes.h5"
    two, one = (functools.partial(pack, setup.large, count, out, workers=workers) for workers in (2, 1))
    times = fastest(setup.number(2), two, one, clock=time.perf_counter, warm=False)
    return row("prepare_two_processes", "prepare, two processes : one", count, times, "images/s", 1.5)


def dicom_vs_decode(setup: Setup) -> Row:
    """`prepare` of windowed 12-bit DICOM, in this process, against decoding by `pydicom` and resizing (area) alone.

    The other side leaves the window out, which for uncompressed pixels takes longer than to decode them.
    """
    import cv2
    import pydicom

    from cxrmonai.data.reading import read_image

    folder = setup.scratch / "dicom"
    folder.mkdir()
    files = [folder / f"{k}.dcm" for k in range(setup.number(min(80, len(setup.large)), 4))]
    for file, image in zip(files, setup.large, strict=False):
        write_dicom(file, read_image(image).pixels)

    def decode_and_resize() -> None:
        for file in files:
            cv2.resize(pydicom.dcmread(file).pixel_array, (256, 256), interpolation=cv2.INTER_AREA)

    def ours() -> None:
        pack(files, len(files), setup.scratch / "dicom.h5")

    times = fastest(setup.number(5), ours, decode_and_resize)
    return row("dicom_vs_decode", "prepare of DICOM : decode and resize alone", len(files), times, "images/CPU-s", 0.25)


def write_dicom(path: Path, pixels: np.ndarray) -> None:
    """Writes 8-bit pixels as an uncompressed radiograph of 12 bits stored, with a window."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        DigitalXRayImageStorageForPresentation,
        generate_uid(),
    )
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID, image.Modality = meta.MediaStorageSOPClassUID, generate_uid(), "DX"
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.WindowCenter, image.WindowWidth = 2048, 4096
    image.PixelData = (pixels.astype(np.uint16) * 16).tobytes()
    image.save_as(path, enforce_file_format=True)


def large_table(setup: Setup) -> pd.DataFrame:
    """A table of a million images, three a patient, with five findings."""
    import pandas as pd

    from cxrmonai.data.table import make_table

    count = setup.number(1_000_000, 2_000)
    names = pd.Series(np.arange(count)).astype(str).str.zfill(8)
    values = np.random.default_rng(0).choice(np.float32([1, 0, -1, np.nan]), (count, 5))
    columns = {"image": "images/" + names + ".png", "image_id": names, "patient_id": pd.Series(np.arange(count) // 3)}
    return make_table({**columns, "view": np.full(count, "PA")}, pd.DataFrame(values, columns=list("ABCDE")))


def split_vs_sklearn(setup: Setup) -> Row:
    """Splits by patient of a million rows against scikit-learn's GroupShuffleSplit (one cut; ours makes three sets)."""
    from sklearn.model_selection import GroupShuffleSplit

    from cxrmonai.data.splits import split_by_patient

    patients = large_table(setup)["patient_id"].to_numpy()

    def theirs() -> None:
        next(GroupShuffleSplit(1, random_state=0).split(patients, groups=patients))

    times = fastest(setup.number(3), lambda: split_by_patient(patients), theirs)
    return row("split_vs_sklearn", "split by patient : GroupShuffleSplit", len(patients), times, "rows/CPU-s", 0.5)


def open_vs_csv(setup: Setup) -> Row:
    """Opening a store of a million images with its labels and the rows of a split, against reading the table as CSV."""
    import pandas as pd

    from cxrmonai.data.store import Store, write_store

    table = large_table(setup).assign(split="train")
    out = setup.scratch / "large_table.h5"
    images = np.broadcast_to(np.zeros((1, 16, 16), np.uint8), (len(table), 16, 16))
    geometry = np.broadcast_to(np.ones((1, 8)), (len(table), 8))
    write_store(out, images=images, geometry=geometry, table=table, class_names=list("ABCDE"), source="benchmark")
    table.to_csv(out.with_suffix(".csv"), index=False)

    def ours() -> None:
        store = Store(out)
        assert len(store.rows("train")) == len(store.labels)

    times = fastest(setup.number(3), ours, lambda: pd.read_csv(out.with_suffix(".csv")))
    return row("open_vs_csv", "open a store, labels and split : read the CSV", len(table), times, "rows/CPU-s", 2)


def drain(loader: Any, epochs: int = 1) -> Callable[[], None]:
    """A run that takes all batches of a loader."""

    def run() -> None:
        for _ in range(epochs):
            for batch in loader:
                assert batch["image"].ndim == 4

    return run


def serve_vs_map(setup: Setup) -> Row:
    """Shuffled batches of 64 by `store_loader` against the same gather out of a bare `np.memmap` into a tensor.

    Both give uint8 (64, 1, 256, 256); the loader gives labels and row numbers besides.
    """
    import torch

    from cxrmonai.data.dataset import StoreDataset, store_loader

    dataset, epochs = StoreDataset(setup.store(256)), setup.number(4)
    images = np.memmap(setup.scratch / "images.raw", np.uint8, "w+", shape=dataset.store.images.shape)
    images[:] = dataset.store.images

    def gather() -> None:
        for _ in range(epochs):
            for rows in torch.randperm(len(images)).split(64):
                batch = torch.from_numpy(images[rows.numpy()]).unsqueeze(1)
                assert batch.ndim == 4

    times = fastest(setup.number(10), drain(store_loader(dataset, 64, shuffle=True), epochs), gather)
    return row("serve_vs_map", "store_loader : bare memory map", epochs * len(images), times, "images/CPU-s", 0.7)


def serve_vs_monai(setup: Setup, kind: str, crop: bool, target: float | None = None) -> Row:
    """Shuffled batches of 64 by `store_loader` against MONAI's DataLoader, no workers, on 256-pixel PNG files.

    Both give uint8 tensors: whole images, or with `crop` 224 of 256 pixels at a place drawn per image, the least that
    training asks for; MONAI then copies each cached item and cuts it by `RandSpatialCropd`, and we cut the batch at
    once. MONAI reads by `LoadImaged` and `EnsureChannelFirstd`: each time in `Dataset`, once in `CacheDataset`.
    """
    import monai.data
    import monai.transforms as mt
    import torch
    from numpy.lib.stride_tricks import sliding_window_view

    from cxrmonai.data.dataset import StoreDataset, store_loader

    read = [mt.LoadImaged("image", dtype=np.uint8), mt.EnsureChannelFirstd("image")]
    cut = [mt.RandSpatialCropd("image", (224, 224), random_size=False)] if crop else []
    items = [{"image": str(file)} for file in setup.small]
    options = {"num_workers": 0, "progress": False} if kind == "CacheDataset" else {}
    other = getattr(monai.data, kind)(items, mt.Compose(read + cut), **options)
    loader = store_loader(StoreDataset(setup.store(256)), 64, shuffle=True)

    def serve() -> None:
        for batch in loader:
            images = batch["image"]
            if crop:
                windows = sliding_window_view(images.numpy()[:, 0], (224, 224), axis=(1, 2))
                y, x = torch.randint(0, 33, (2, len(images))).numpy()
                images = torch.from_numpy(windows[np.arange(len(images)), y, x]).unsqueeze(1)
            assert images.ndim == 4

    theirs = monai.data.DataLoader(other, batch_size=64, shuffle=True, num_workers=0)
    times = fastest(setup.number(4), serve, drain(theirs))
    text = f"store_loader : {kind} on PNG, {'crop 224' if crop else 'whole images'}"
    return row("serve_vs_cachedataset" if target else "", text, len(items), times, "images/CPU-s", target)


def views_vs_monai(setup: Setup) -> Row:
    """Two views at 224 of 256-pixel images by `train.json` against its overlay of MONAI's dictionary transforms.

    Both end in one float32 batch (2B, 1, 224, 224) of plain tensors.
    """
    import torch
    from monai.bundle import ConfigParser

    from cxrmonai.data.dataset import StoreDataset

    def views(*files: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
        parser = ConfigParser()
        parser.read_config([str(CONFIGS / file) for file in files])
        parser.update({"image_size": setup.number(224, 48)})
        return parser.get_parsed_content("views").set_random_state(0)

    in_batch, per_sample = views("train.json"), views("train.json", "presets/monai_transforms.json")
    count = min(len(setup.small), setup.number(64, 4))
    images = StoreDataset(setup.store(256)).__getitems__(range(count))["image"]

    def one_by_one() -> None:
        made = [per_sample({"image": image}) for image in images]
        torch.stack([item[key] for key in ("view_1", "view_2") for item in made])

    times = fastest(setup.number(5), lambda: in_batch({"image": images}), one_by_one)
    text = "two views in batch : MONAI dictionary transforms"
    return row("views_vs_monai", text, count, times, "two-view/CPU-s", 4)


def ntxent_vs_monai(setup: Setup) -> Row:
    """`NTXentLoss` against MONAI's `ContrastiveLoss`, forward and backward, 128 numbers an embedding."""
    import torch
    from monai.losses import ContrastiveLoss

    from cxrmonai.losses import NTXentLoss

    pairs, often = setup.number(256, 8), 10
    views = torch.randn(2, pairs, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ours, other = NTXentLoss(0.5), ContrastiveLoss(temperature=0.5)

    def many() -> None:
        for _ in range(often):
            ours(views.flatten(0, 1)).backward()

    many_seconds, seconds = fastest(setup.number(3), many, lambda: other(views[0], views[1]).backward())
    text = f"NT-Xent, {pairs} pairs : MONAI ContrastiveLoss"
    return row("ntxent_vs_monai", text, 1, (many_seconds / often, seconds), "steps/CPU-s", 50)


def simclr(setup: Setup, size: int, batch_size: int, steps: int, store_size: int) -> Callable[[str], Any]:
    """The parts of `train.json` by name: the job of the SimCLR bundle, without validation, probe and checkpoints."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "train.json"))
    handlers = {part["_target_"].rpartition(".")[2]: part for part in parser["train"]["handlers"]}
    handlers["TensorBoardLog"].update(validator=None)
    parser.update(
        {
            "data_file": str(setup.store(store_size, batch_size * steps)),
            "output_dir": str(setup.scratch),
            "image_size": size,
            "stem": "default",
            "batch_size": batch_size,
            "train::dataset::split": "all",
            "train::handlers": [part for name, part in handlers.items() if name not in LEFT_OUT],
            "train::trainer::max_epochs": 0,
        }
    )
    return parser.get_parsed_content


def crf_vs_pydensecrf(setup: Setup) -> Row:
    """The dense CRF of ten findings' two seeds in an image of 320 pixels, a mask, against one `pydensecrf2` call."""
    import cv2
    import pydensecrf.densecrf as crf
    import torch

    from cxrmonai.segmentation.crf import refine

    size, count = setup.number(320, 64), 20
    image = cv2.resize(cv2.imread(str(setup.small[0]), cv2.IMREAD_GRAYSCALE), (size, size))
    y, x = np.mgrid[:size, :size] / size - 0.5
    masks = np.stack([np.hypot(y, x) < 0.1 + 0.01 * k for k in range(count)])
    images, given = torch.from_numpy(image)[None], torch.from_numpy(masks)[None]
    energy = -np.log(np.where(np.stack([~masks[0], masks[0]]), 0.7, 0.3)).reshape(2, -1).astype(np.float32)

    def one_call() -> None:
        field = crf.DenseCRF2D(size, size, 2)
        field.setUnaryEnergy(energy)
        field.addPairwiseGaussian(sxy=3, compat=3)
        field.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.repeat(image[..., None], 3, axis=2).copy(), compat=10)
        field.inference(10)

    ours, other = fastest(setup.number(5), lambda: refine(images, given), one_call)
    text = f"dense CRF of {count} masks of an image at {size} px, against pydensecrf2"
    return row("crf_vs_pydensecrf", text, 1, (ours / count, other), "masks/s", 20.0)


def plain_epoch(part: Callable[[str], Any], resident: bool = False) -> Callable[[], None]:
    """An epoch by hand with the parts of a bundle; `resident`: with the views of its first batch at each step."""
    import torch

    views, loader, device = part("views"), part("train::dataloader"), part("device")
    network, loss, optimizer = part("network"), part("loss"), part("optimizer")

    def images(batch: dict[str, Any]) -> torch.Tensor:
        moved = {"image": batch["image"].to(device, non_blocking=True)}
        return views(moved)["image"].contiguous(memory_format=torch.channels_last)

    first = images(next(iter(loader)))

    def epoch() -> None:
        for batch in [first] * len(loader) if resident else loader:
            step(network, loss, optimizer, batch if resident else images(batch))

    return epoch


def step(network: nn.Module, loss: Callable[..., Any], optimizer: Any, images: torch.Tensor, *target: Any) -> None:
    """A step of training; bfloat16 on a GPU."""
    import torch

    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
        value = loss(network(images), *target)
    value.backward()
    optimizer.step()


def training_clock() -> Callable[[], float]:
    """What tells the time where the training runs."""
    import torch

    def wall() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return wall if torch.cuda.is_available() else time.process_time


def step_vs_plain(setup: Setup) -> Row:
    """MONAI's SupervisedTrainer with our handlers against a plain loop: same network, data, views, loss, optimizer."""
    size, batch_size, steps = setup.number(64, 32), setup.number(64, 4), setup.number(10, 2)
    ours, other = (simclr(setup, size, batch_size, steps, size) for _ in range(2))
    trainer = ours("train::trainer")

    def engine_epoch() -> None:
        trainer.state.max_epochs += 1
        with contextlib.redirect_stderr(io.StringIO()):
            trainer.run()

    times = fastest(setup.number(4), engine_epoch, plain_epoch(other), clock=training_clock())
    text = f"engine : plain loop, SimCLR ResNet-18 {size}², batch {batch_size}"
    return row("step_vs_plain", text, batch_size * steps, times, "two-view/s", 0.97)


def real_vs_resident(setup: Setup) -> Row:
    """SimCLR steps on batches out of the store, views drawn, against steps on one batch of views that is there."""
    size, batch_size, steps = setup.number(224, 48), setup.number(512, 4), setup.number(20, 2)
    part = simclr(setup, size, batch_size, steps, 256)
    times = fastest(setup.number(5), plain_epoch(part), plain_epoch(part, resident=True), clock=training_clock())
    return row("", f"SimCLR ResNet-18 {size}² : a resident batch", batch_size * steps, times, "two-view/s")


def rate_vs_limit(setup: Setup, name: str, limit: float) -> Row:
    """Supervised steps against the most that arithmetic and memory traffic allow one H200 in bfloat16, eager mode."""
    import torch

    from cxrmonai.networks import encoder

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size, batch_size, steps = setup.number(224, 64), setup.number(256, 2), setup.number(30)
    backbone = encoder(name)
    network = torch.nn.Sequential(backbone, torch.nn.Linear(backbone.num_features, 14))
    network = network.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    images = torch.rand(batch_size, 1, size, size, device=device).contiguous(memory_format=torch.channels_last)
    target = torch.rand(batch_size, 14, device=device).round()
    loss = torch.nn.BCEWithLogitsLoss()

    def run() -> None:
        for _ in range(steps):
            step(network, loss, optimizer, images, target)

    seconds = fastest(setup.number(5), run, clock=training_clock())[0]
    return Row("", f"{name} {size}² step : limit of one H200", batch_size * steps / seconds, limit, "images/s")


def explained(setup: Setup, pooling: str = "AVG") -> tuple[nn.Module, torch.Tensor]:
    """A ResNet-18 for 14 findings and a batch of its input."""
    import torch

    from cxrmonai.networks import Classifier

    size = setup.number(96, 64)
    network = Classifier([f"finding {k}" for k in range(14)], "resnet18", image_size=size, pooling=pooling).eval()
    return network, torch.randn(setup.number(32, 2), 1, size, size)


def explain_vs_gradcam_loop(setup: Setup) -> Row:
    """Grad-CAM of all findings of a batch, against pytorch-grad-cam for each image and finding by itself."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    from cxrmonai.explain import attribute

    network, images = explained(setup)
    few = images[: setup.number(4)]
    maps = GradCAM(model=network, target_layers=[network.encoder.layer4])

    def loop() -> None:
        for image in few:
            for k in range(14):
                maps(input_tensor=image[None], targets=[ClassifierOutputTarget(k)])

    seconds = fastest(setup.number(3), lambda: attribute(network, images), loop)
    text = "Grad-CAM, 14 findings : pytorch-grad-cam one by one"
    return Row("explain_vs_gradcam_loop", text, len(images) / seconds[0], len(few) / seconds[1], "images/s", 5)


def cost_in_forwards(setup: Setup, name: str, method: str, pooling: str = "AVG", target: float | None = None) -> Row:
    """The time of the maps of all findings, against that of a forward pass."""
    import torch

    from cxrmonai.explain import attribute

    network, images = explained(setup, pooling)

    def forward() -> None:
        with torch.no_grad():
            network(images)

    seconds = fastest(setup.number(5), lambda: attribute(network, images, method=method), forward)
    ours, other = (1000 * each / len(images) for each in seconds)
    return Row(name, f"{method}, 14 maps : a forward pass (cost)", ours, other, "ms an image", target, cost=True)


COMMANDS: dict[str, list[Callable[[Setup], Row]]] = {
    "prepare": [prepare_vs_decode, prepare_two_processes, dicom_vs_decode],
    "table": [split_vs_sklearn, open_vs_csv],
    "load": [
        serve_vs_map,
        functools.partial(serve_vs_monai, kind="CacheDataset", crop=True, target=20),
        functools.partial(serve_vs_monai, kind="CacheDataset", crop=False),
        functools.partial(serve_vs_monai, kind="Dataset", crop=True),
    ],
    "augment": [views_vs_monai],
    "step": [ntxent_vs_monai, step_vs_plain],
    "explain": [
        explain_vs_gradcam_loop,
        functools.partial(cost_in_forwards, name="cam_cost_in_forwards", method="cam", target=1.5),
        functools.partial(cost_in_forwards, name="pcam_cost_in_forwards", method="pcam", pooling="PCAM", target=1.5),
        functools.partial(cost_in_forwards, name="gradcam_cost_in_forwards", method="gradcam"),
    ],
}
if importlib.util.find_spec("pydensecrf"):  # there is nothing to compare with elsewhere
    COMMANDS["crf"] = [crf_vs_pydensecrf]
ON_GPU: list[Callable[[Setup], Row]] = [
    real_vs_resident,
    functools.partial(rate_vs_limit, name="resnet50", limit=8000),
    functools.partial(rate_vs_limit, name="densenet121", limit=6800),
]


def find_data(folder: str | None, scratch: Path) -> tuple[list[Path], list[Path], str]:
    """Large and small radiographs and what they are; phantoms drawn into `scratch` where there are none.

    Raises:
        SystemExit: the folder lacks the images.
    """
    if folder is None and not SAMPLE.is_dir():
        print("drawing phantoms, about a minute …", file=sys.stderr)
        return draw(scratch / "large", 8, 1024), draw(scratch / "small", 256, 256), "synthetic phantoms"
    place = SAMPLE if folder is None else Path(folder)
    large, small = (sorted((place / name).glob("*.png"))[:640] for name in ("images", "images_256"))
    if not large or not small:
        sys.exit(f"error: {place}: must hold PNG files in images/ and images_256/; without --data phantoms are drawn")
    return large[:80], small, f"radiographs of {os.path.relpath(place)}"


def draw(folder: Path, count: int, size: int) -> list[Path]:
    """Draws phantoms as PNG files."""
    import cv2

    from cxrmonai.data.phantom import draw_population, render

    folder.mkdir()
    files = [folder / f"{k:04}.png" for k in range(count)]
    for file, study in zip(files, draw_population(count, 0), strict=False):
        cv2.imwrite(str(file), render(study, size).image)
    return files


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=list(COMMANDS), help="all when none is named")
    parser.add_argument("--data", help="folder with images/ and images_256/")
    parser.add_argument("--json", help="file to write the ratios to")
    parser.add_argument("--quick", action="store_true", help="do little, only to see that it runs; ratios mean nothing")
    arguments = parser.parse_args()

    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    chosen = [run for name, runs in COMMANDS.items() if arguments.what in (None, name) for run in runs]
    if torch.cuda.is_available() and arguments.what in (None, "step"):
        chosen += ON_GPU
    with tempfile.TemporaryDirectory(prefix="cxrmonai_benchmark_") as scratch:
        large, small, label = find_data(arguments.data, Path(scratch))
        setup = Setup(large, small, Path(scratch), arguments.quick)
        print(f"{label}{'; --quick, the ratios mean nothing' if setup.quick else ''}\n{HEADER}", flush=True)
        ratios = {}
        for run in chosen:
            made = run(setup)
            print(made.line(), flush=True)
            if made.name:
                ratios[made.name] = made.ratio
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(ratios, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
