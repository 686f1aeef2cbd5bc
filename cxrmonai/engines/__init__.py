"""Handlers and batch preparation for MONAI's engines."""

from cxrmonai.engines.batches import PrepareBatch
from cxrmonai.engines.checkpointing import CheckpointHandler
from cxrmonai.engines.embeddings import EmbeddingWriter
from cxrmonai.engines.monitoring import ProgressBar, StopOnNonFinite, TensorBoardLog, summary_writer
from cxrmonai.engines.parallel import amp_options, data_parallel
from cxrmonai.engines.pretraining import ProbeCurve, make_probe, summarise
from cxrmonai.engines.probe import FeatureCollector, Probe, ProbeResult, extract_features
from cxrmonai.engines.scheduling import StepSchedule
from cxrmonai.engines.seeding import EpochSeed, seed_everything

__all__ = [
    "CheckpointHandler",
    "EmbeddingWriter",
    "EpochSeed",
    "FeatureCollector",
    "PrepareBatch",
    "Probe",
    "ProbeCurve",
    "ProbeResult",
    "ProgressBar",
    "StepSchedule",
    "StopOnNonFinite",
    "TensorBoardLog",
    "amp_options",
    "data_parallel",
    "extract_features",
    "make_probe",
    "seed_everything",
    "summarise",
    "summary_writer",
]
