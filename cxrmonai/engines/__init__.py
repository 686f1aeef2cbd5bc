"""Handlers and batch preparation for MONAI's engines."""

from cxrmonai.engines.averaging import UpdateAverage, WeightAverage
from cxrmonai.engines.batches import PrepareBatch
from cxrmonai.engines.checkpointing import CheckpointHandler
from cxrmonai.engines.classification import (
    MeanAuroc,
    choose_operating_points,
    finish_classifier,
    make_evaluation,
    predict,
    probabilities,
    read_operating_points,
)
from cxrmonai.engines.collapse import CollapseMonitor
from cxrmonai.engines.frozen_probe import FeatureBank, FrozenProbe
from cxrmonai.engines.linear_models import LinearTraining
from cxrmonai.engines.monitoring import ProgressBar, StopOnNonFinite, TensorBoardLog, summary_writer
from cxrmonai.engines.optimisation import make_optimizer, make_schedule
from cxrmonai.engines.parallel import SameBuffers, amp_options, data_parallel
from cxrmonai.engines.pretraining import ProbeCurve, make_probe, summarise
from cxrmonai.engines.probe import FeatureCollector, Probe, ProbeResult, extract_features
from cxrmonai.engines.range_test import find_learning_rate
from cxrmonai.engines.remembering import UpdateLoss
from cxrmonai.engines.scheduling import StepSchedule
from cxrmonai.engines.seeding import EpochSeed, SetEpoch, seed_everything
from cxrmonai.engines.segmentation import (
    MaskPictures,
    MaskScorer,
    MaskWriter,
    MeanOverlap,
    finish_segmenter,
    read_thresholds,
    tune_thresholds,
)
from cxrmonai.engines.writers import EmbeddingWriter, PredictionWriter

__all__ = [
    "CheckpointHandler",
    "CollapseMonitor",
    "EmbeddingWriter",
    "EpochSeed",
    "FeatureBank",
    "FeatureCollector",
    "FrozenProbe",
    "LinearTraining",
    "MaskPictures",
    "MaskScorer",
    "MaskWriter",
    "MeanAuroc",
    "MeanOverlap",
    "PredictionWriter",
    "PrepareBatch",
    "Probe",
    "ProbeCurve",
    "ProbeResult",
    "ProgressBar",
    "SameBuffers",
    "SetEpoch",
    "StepSchedule",
    "StopOnNonFinite",
    "TensorBoardLog",
    "UpdateAverage",
    "UpdateLoss",
    "WeightAverage",
    "amp_options",
    "choose_operating_points",
    "data_parallel",
    "extract_features",
    "find_learning_rate",
    "finish_classifier",
    "finish_segmenter",
    "make_evaluation",
    "make_optimizer",
    "make_probe",
    "make_schedule",
    "predict",
    "probabilities",
    "read_operating_points",
    "read_thresholds",
    "seed_everything",
    "summarise",
    "summary_writer",
    "tune_thresholds",
]
