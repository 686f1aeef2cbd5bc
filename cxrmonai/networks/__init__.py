"""Networks: one encoder factory, heads, and the reading of checkpoints."""

from cxrmonai.networks.checkpoints import (
    describe_checkpoint,
    load_encoder,
    load_network,
    preprocessing,
    start_from,
    trained_size,
    untrained_twin,
)
from cxrmonai.networks.classifier import Classifier, classifier_like, encoder_stages, load_classifier, parameter_groups
from cxrmonai.networks.contrastive import ContrastiveNetwork
from cxrmonai.networks.encoders import EncoderDescription, encoder
from cxrmonai.networks.pretext import PretextNetwork, load_pretext, pretext_like
from cxrmonai.networks.published.report import CheckpointReport

__all__ = [
    "CheckpointReport",
    "Classifier",
    "ContrastiveNetwork",
    "EncoderDescription",
    "PretextNetwork",
    "classifier_like",
    "describe_checkpoint",
    "encoder",
    "encoder_stages",
    "load_classifier",
    "load_encoder",
    "load_network",
    "load_pretext",
    "parameter_groups",
    "preprocessing",
    "pretext_like",
    "start_from",
    "trained_size",
    "untrained_twin",
]
