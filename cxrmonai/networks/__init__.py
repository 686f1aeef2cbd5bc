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
from cxrmonai.networks.joint_embedding import EmbeddingNetwork, JointEmbeddingNetwork, PairProjector
from cxrmonai.networks.memory import make_memories
from cxrmonai.networks.published.report import CheckpointReport

__all__ = [
    "CheckpointReport",
    "Classifier",
    "ContrastiveNetwork",
    "EmbeddingNetwork",
    "EncoderDescription",
    "JointEmbeddingNetwork",
    "PairProjector",
    "classifier_like",
    "describe_checkpoint",
    "encoder",
    "encoder_stages",
    "load_classifier",
    "load_encoder",
    "load_network",
    "make_memories",
    "parameter_groups",
    "preprocessing",
    "start_from",
    "trained_size",
    "untrained_twin",
]
