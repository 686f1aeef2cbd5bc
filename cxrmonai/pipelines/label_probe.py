"""What an encoder's features know of the findings, with few labels and with all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from cxrmonai.data.label_fractions import draw_patients
from cxrmonai.data.targets import make_targets
from cxrmonai.engines.probe import METHODS, Probe, knn_probe, linear_probe
from cxrmonai.metrics import auroc, bootstrap_samples, ranked_auroc
from cxrmonai.networks.checkpoints import OWN_MEAN, OWN_STD
from cxrmonai.progress import progress_bar
from cxrmonai.transforms import PreprocessBatchd, Preprocessing


@dataclass(frozen=True)
class ProbeScores:
    """AUROC of a probe fitted on a fraction of the training patients, mean over several draws of them.

    Attributes:
        value: (C,) of each finding; NaN where the test images do not have both.
        samples: (R, C) of resampled test patients.
        patients: training patients of a draw.
        images: training images of a draw, mean over the draws.
    """

    value: np.ndarray
    samples: np.ndarray
    patients: int
    images: float


class LabelProbe:
    """Probes encoders on one labelled store, all on the same draws of training patients.

    Test patients never change. A finding that a draw cannot teach, since its images all have it or none has, scores
    0.5 there.

    Args:
        data_file: a store with findings, training and test patients.
        image_size: edge of the encoders' input in pixels.
        fractions: of the training patients, each above 0 and at most 1.
        draws: of each fraction below 1; a smaller one is part of a larger one of the same number.
        classes: findings, as a list or `A,B`; all by default.
        policy: what uncertain labels count as, see `data.targets`.
        resamples: of the bootstrap over test patients.
        seed: of draws and bootstrap.
        device: where encoders run.

    Attributes:
        draws: fraction → (N,) bool for each draw, the training images that are in it.

    Raises:
        CxrError: see `engines.Probe`; or a fraction makes no patient.
    """

    def __init__(
        self,
        data_file: str,
        image_size: int,
        fractions: Sequence[float] = (0.01, 0.1, 1.0),
        draws: int = 5,
        classes: str | Sequence[str] | None = None,
        policy: str = "ignore",
        resamples: int = 1000,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.usual = Preprocessing(image_size, mean=OWN_MEAN, std=OWN_STD)
        view = PreprocessBatchd("image", self.usual)
        self.probe = Probe(data_file, view, split="test", classes=classes, policy=policy, device=device)
        store = self.probe.store
        columns = [store.class_names.index(name) for name in self.probe.class_names]
        targets = make_targets(store.labels[:, columns], self.probe.class_names, policy)
        self._fitted, self.truth = targets[self.probe.train.rows], targets[self.probe.held_out.rows]
        patients = store.column("patient_id").astype(str)
        self.test_patients = patients[self.probe.held_out.rows]
        self.fractions, self.resamples, self.seed = tuple(fractions), resamples, seed
        train_patients = patients[self.probe.train.rows]
        self.draws = {
            fraction: [
                draw_patients(train_patients, fraction, seed, draw) for draw in range(draws if fraction < 1 else 1)
            ]
            for fraction in self.fractions
        }
        self._patients = {fraction: len(np.unique(train_patients[masks[0]])) for fraction, masks in self.draws.items()}

    @property
    def class_names(self) -> list[str]:
        """The findings."""
        return self.probe.class_names

    def __call__(self, encoder: nn.Module) -> dict[tuple[str, float], ProbeScores]:
        """Probes an encoder.

        Args:
            encoder: (B, 1, S, S) → (B, D), on the device; its `preprocessing`, where it has one, is what it is fed.

        Returns:
            By method (`linear`, `knn`) and fraction.
        """
        expected = getattr(encoder, "preprocessing", None) or self.usual
        self.probe.transform = PreprocessBatchd("image", expected)
        features = self.probe.features(encoder, progress=True)
        count = len(self.probe.train)
        train, test = features[:count], features[count:]
        total = sum(map(len, self.draws.values())) * len(METHODS)
        found = {}
        with progress_bar("probe", total, "fit") as bar:
            for method in METHODS:
                for fraction, masks in self.draws.items():
                    values, samples = [], []
                    for mask in masks:
                        score = self._score(method, train[mask], self._fitted[mask], test)
                        values.append(np.atleast_1d(auroc(self.truth, score)))
                        samples.append(self._samples(score))
                        bar.update(1)
                    found[method, fraction] = ProbeScores(
                        np.mean(values, axis=0),
                        np.mean(samples, axis=0),
                        self._patients[fraction],
                        float(np.mean([mask.sum() for mask in masks])),
                    )
        return found

    def _score(self, method: str, train: np.ndarray, truth: np.ndarray, test: np.ndarray) -> np.ndarray:
        return linear_probe(train, truth, test) if method == "linear" else knn_probe(train, truth, test)

    def _samples(self, score: np.ndarray) -> np.ndarray:
        """The same patients for every method, fraction and draw, so that differences are paired."""
        return bootstrap_samples(ranked_auroc, self.truth, score, self.test_patients, self.resamples, self.seed)
