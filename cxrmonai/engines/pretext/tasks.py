"""Pretext tasks: what a network is asked, where the answers come from, and how well it answers.

A task is one object that a config names; the trainer around it is the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from monai.transforms import Identityd, MapTransform

from cxrmonai.data.attributes import AGE_SCALE, attribute_targets, rows_with_attributes
from cxrmonai.data.dataset import StoreDataset
from cxrmonai.data.keyed import KeyedDataset
from cxrmonai.data.pairs import ORDER, SAME, StudyPairs
from cxrmonai.data.store import open_store
from cxrmonai.errors import CxrError
from cxrmonai.losses.classification import MaskedBCELoss
from cxrmonai.losses.pretext import mean_cross_entropy, weighted_mse
from cxrmonai.metrics.pictures import psnr, ssim
from cxrmonai.networks.pretext import split_answers
from cxrmonai.transforms import BatchMaskd, BatchPictured, BatchRandRotateShiftd

Label = torch.Tensor | Mapping[str, torch.Tensor]
ROTATION_SHIFT_HEADS = (("rotation", 4), ("shift_x", 3), ("shift_y", 3))


@dataclass(frozen=True)
class Measures:
    """How well each item of a batch was answered.

    Attributes:
        means: name → (B,) float, to be averaged; NaN where it is not defined.
        ranked: name → truth (B,) of 1, 0 and NaN, and score (B,): what an AUROC is made of.
    """

    means: dict[str, torch.Tensor] = field(default_factory=dict)
    ranked: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


class PretextTask:
    """What all pretext tasks share.

    Attributes:
        name: as in `TASKS`.
        heads: name and number of outputs of each head, in order.
        pairs: whether an item is a pair of images.
        picture: whether the network gives a picture.
        settings: name and numbers, from which `remake_task` makes the task again.
    """

    name = ""
    heads: tuple[tuple[str, int], ...] = ()
    pairs = False
    picture = False

    def __init__(self, **numbers: Any) -> None:
        self.settings: dict[str, Any] = {"name": self.name, **numbers}

    @property
    def images(self) -> int:
        """Images of an item."""
        return 2 if self.pairs else 1

    def dataset(self, data_file: str, split: str, device: str | None = None) -> StoreDataset:
        """The images of a split, with what the task needs to know of them.

        Args:
            data_file: a store.
            split: of patients.
            device: where the images shall live as a whole; by default they stay in the file.

        Raises:
            CxrError: the store cannot serve the task; the reason why.
        """
        return StoreDataset(data_file, split, device=device)

    def step(self, seed: int | None = None) -> MapTransform:
        """What is done to a batch in 0–1 to make the question and, from that alone, the answer.

        Args:
            seed: where given, what is drawn for an image is a function of it and the image alone, as an evaluation
                wants it.
        """
        return Identityd("image")

    def loss(self, answers: torch.Tensor, label: Label) -> torch.Tensor:
        """A scalar to learn from.

        Args:
            answers: (B, P) of a `PretextNetwork`.
            label: what the data set or the step put under that key.
        """
        raise NotImplementedError

    def measures(self, answers: torch.Tensor, label: Label) -> Measures:
        """How well each of (B, P) answers fits; see `loss` for the arguments."""
        raise NotImplementedError

    def items(self, label: Label) -> int:
        """Number of items of a batch, by its label."""
        return len(label if isinstance(label, torch.Tensor) else next(iter(label.values())))

    def pictures(self, answers: torch.Tensor, label: Label) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The restored pictures and the true ones, (B, 1, S, S) each; `None` for a task without."""
        if not self.picture:
            return None
        truth = label["picture"]
        return split_answers(answers, self.heads, truth.shape[-1])["picture"], truth


class RotationShift(PretextTask):
    """By how many quarters an image was turned, and whether it was shifted along each axis, and which way.

    After the XAI toolbox: 4 + 3 + 3 logits, the mean of three cross-entropies. Turn and shifts are drawn at random for
    each image in each epoch.

    Args:
        shift: relative to the image's edge.
    """

    name = "rotation_shift"
    heads = ROTATION_SHIFT_HEADS

    def __init__(self, shift: float = 56 / 512) -> None:
        super().__init__(shift=shift)
        self.shift = shift

    def step(self, seed: int | None = None) -> MapTransform:
        """Turns and shifts."""
        return BatchRandRotateShiftd("image", self.shift, seed)

    def loss(self, answers: torch.Tensor, label: Label) -> torch.Tensor:
        """Mean of the three cross-entropies."""
        return mean_cross_entropy(answers, [label[name] for name, _ in self.heads], [size for _, size in self.heads])

    def measures(self, answers: torch.Tensor, label: Label) -> Measures:
        """`NAME_accuracy` for each head."""
        parts = split_answers(answers, self.heads)
        return Measures({f"{name}_accuracy": (part.argmax(1) == label[name]).float() for name, part in parts.items()})


class Attributes(PretextTask):
    """Age, sex or both from the image.

    The age is learned as years / 89 by its squared error, the sex by cross-entropy; with both, the loss is the sum.
    Images of which neither is known are left out, and what is not known does not count.

    Args:
        age: whether the age is asked.
        sex: whether the sex is.

    Raises:
        CxrError: neither is.
    """

    def __init__(self, age: bool = True, sex: bool = False) -> None:
        names = [name for name, asked in (("age", age), ("sex", sex)) if asked]
        if not names:
            raise CxrError("task of attributes: ask age, sex or both")
        self.name = "_".join(names)
        super().__init__(age=age, sex=sex)
        self.heads = tuple((name, 1) for name in names)
        self.names = names

    def dataset(self, data_file: str, split: str, device: str | None = None) -> StoreDataset:
        """Images of which an attribute is known."""
        store = open_store(data_file)
        targets = attribute_targets(store, self.names)
        rows = rows_with_attributes(store, targets, self.names, split)
        return StoreDataset(data_file, rows=rows, device=device, targets=targets)

    def loss(self, answers: torch.Tensor, label: Label) -> torch.Tensor:
        """Squared error of the age, cross-entropy of the sex, or their sum."""
        terms = [
            weighted_mse(answers[:, [k]], label[:, [k]])
            if name == "age"
            else MaskedBCELoss()(answers[:, [k]], label[:, [k]])
            for k, name in enumerate(self.names)
        ]
        return torch.stack(terms).sum()

    def measures(self, answers: torch.Tensor, label: Label) -> Measures:
        """`age_mae` in years, `sex_auroc`."""
        measures = Measures()
        for k, name in enumerate(self.names):
            if name == "age":
                measures.means["age_mae"] = AGE_SCALE * (answers[:, k].float() - label[:, k]).abs()
            else:
                measures.ranked["sex_auroc"] = (label[:, k], answers[:, k])
        return measures


class Reconstruction(PretextTask):
    """An autoencoder: the image again from the encoder's last maps, and with it the findings if asked to.

    The squared error counts where the image is not 0, as padding is.

    Args:
        class_loss_weight: weight of the findings' cross-entropy beside the picture's error; 0 leaves the findings out.
        classes: number of findings in the store, where their loss has a weight.

    Raises:
        CxrError: a weight below 0, or findings to learn and no number of them.
    """

    name = "reconstruction"
    picture = True

    def __init__(self, class_loss_weight: float = 0.0, classes: int = 0) -> None:
        if class_loss_weight < 0:
            raise CxrError(f"class_loss_weight {class_loss_weight}: must be at least 0")
        if class_loss_weight and not classes:
            raise CxrError("class_loss_weight above 0 needs findings, and the store has none; set it to 0")
        classes = classes if class_loss_weight else 0
        super().__init__(class_loss_weight=class_loss_weight, classes=classes)
        self.class_loss_weight, self.classes = class_loss_weight, classes
        self.heads = (("findings", classes),) if classes else ()

    def dataset(self, data_file: str, split: str, device: str | None = None) -> StoreDataset:
        """The images with their findings."""
        made = super().dataset(data_file, split, device)
        if self.classes and len(made.class_names) != self.classes:
            raise CxrError(f"{data_file}: has {len(made.class_names)} findings, and the network {self.classes}")
        return made

    def step(self, seed: int | None = None) -> MapTransform:
        """Keeps the picture."""
        return BatchPictured("image")

    def loss(self, answers: torch.Tensor, label: Label) -> torch.Tensor:
        """Mean squared error on non-zero pixels, plus the weighted cross-entropy of the findings that are known."""
        parts = split_answers(answers, self.heads, label["picture"].shape[-1])
        error = weighted_mse(parts["picture"], label["picture"], label["weight"])
        if not self.classes:
            return error
        return error + self.class_loss_weight * MaskedBCELoss()(parts["findings"], label["findings"])

    def measures(self, answers: torch.Tensor, label: Label) -> Measures:
        """`psnr` on non-zero pixels, `ssim` of the picture with its padding blackened."""
        picture, truth = self.pictures(answers, label)
        shown = picture.clamp(0, 1) * label["weight"]
        return Measures({"psnr": psnr(shown, truth, label["weight"]), "ssim": ssim(shown, truth)})


class Masked(PretextTask):
    """Masked image modelling: what was in the patches that are hidden (He et al., MAE, 2022; Xie et al., SimMIM, 2022).

    Args:
        patch: edge of a patch in pixels.
        ratio: share of the patches that is hidden.
        mask: `fixed`, seeded by image id; or `dynamic`, drawn anew every few epochs.
        every: epochs that a dynamic mask lasts.
        seed: of the masks.
    """

    name = "masked"
    picture = True

    def __init__(
        self, patch: int = 8, ratio: float = 0.6, mask: str = "dynamic", every: int = 1, seed: int = 0
    ) -> None:
        super().__init__(patch=patch, ratio=ratio, mask=mask, every=every, seed=seed)
        self._options = {"patch": patch, "ratio": ratio, "mask": mask, "every": every, "seed": seed}

    def dataset(self, data_file: str, split: str, device: str | None = None) -> StoreDataset:
        """The images with a hash of their ids."""
        return KeyedDataset(data_file, split, device)

    def step(self, seed: int | None = None) -> MapTransform:
        """Hides patches; where no epoch is set, as in a validation, dynamic masks are those of the first."""
        return BatchMaskd("image", **self._options)

    def loss(self, answers: torch.Tensor, label: Label) -> torch.Tensor:
        """Mean squared error in the hidden patches."""
        picture, truth = self.pictures(answers, label)
        return weighted_mse(picture, truth, label["weight"])

    def measures(self, answers: torch.Tensor, label: Label) -> Measures:
        """`psnr` in the hidden patches, `ssim` of the picture with the visible patches put back."""
        picture, truth = self.pictures(answers, label)
        weight = label["weight"]
        whole = weight * picture.clamp(0, 1) + (1 - weight) * truth
        return Measures({"psnr": psnr(whole, truth, weight), "ssim": ssim(whole, truth)})


class StudyPair(PretextTask):
    """Whether two radiographs are of one patient, and which was taken first; see `data.pairs.StudyPairs`.

    The loss is the sum of both cross-entropies; the second counts where the order is known.

    Args:
        order_column: numbers or texts that rise with a patient's studies.
        seed: of the pairs.
    """

    name = "study_pair"
    heads = (("pair", 2),)
    pairs = True

    def __init__(self, order_column: str = "age", seed: int = 0) -> None:
        super().__init__(order_column=order_column, seed=seed)
        self.order_column, self.seed = order_column, seed

    def dataset(self, data_file: str, split: str, device: str | None = None) -> StudyPairs:
        """Pairs of the split; they stay in the file."""
        if device is not None:
            raise CxrError("images_on_device: pairs are gathered from the file; set it to False")
        return StudyPairs(data_file, split, self.order_column, self.seed)

    def loss(self, answers: torch.Tensor, label: Label) -> torch.Tensor:
        """Sum of the cross-entropies of both questions."""
        loss = MaskedBCELoss()
        return loss(answers[:, [SAME]], label[:, [SAME]]) + loss(answers[:, [ORDER]], label[:, [ORDER]])

    def measures(self, answers: torch.Tensor, label: Label) -> Measures:
        """`pair_auroc`, and `order_accuracy` of the pairs whose order is known."""
        order = label[:, ORDER]
        right = ((answers[:, ORDER] > 0) == (order > 0)).float()
        return Measures(
            {"order_accuracy": torch.where(order >= 0, right, torch.nan)},
            {"pair_auroc": (label[:, SAME], answers[:, SAME])},
        )


def count_findings(data_file: str) -> int:
    """Number of findings of a store."""
    return len(open_store(data_file).class_names)


TASKS: dict[str, type[PretextTask]] = {
    "rotation_shift": RotationShift,
    "age": Attributes,
    "sex": Attributes,
    "age_sex": Attributes,
    "reconstruction": Reconstruction,
    "masked": Masked,
    "study_pair": StudyPair,
}


def remake_task(settings: Mapping[str, Any]) -> PretextTask:
    """Makes a task again.

    Args:
        settings: of the task, as its network's checkpoint keeps them.

    Raises:
        CxrError: they name no task of `TASKS`, or numbers that this version does not know.
    """
    numbers = {key: value for key, value in settings.items() if key != "name"}
    try:
        return TASKS[settings["name"]](**numbers)
    except (KeyError, TypeError) as error:
        raise CxrError(
            f"the weights tell of a task that this version does not know ({dict(settings)}); upgrade cxrmonai"
        ) from error
