"""Networks: one encoder factory, heads, and the reading of checkpoints."""

from cxrmonai.networks.checkpoints import (
    describe_checkpoint,
    input_of,
    load_encoder,
    load_network,
    preprocessing,
    start_from,
    trained_size,
    untrained_twin,
)
from cxrmonai.networks.classifier import (
    Classifier,
    classifier_like,
    encoder_stages,
    load_classifier,
    need_classifier,
    parameter_groups,
)
from cxrmonai.networks.contrastive import ContrastiveNetwork
from cxrmonai.networks.encoders import EncoderDescription, encoder
from cxrmonai.networks.irnet import IRNet, branch_groups, irnet_like, load_irnet, make_irnet
from cxrmonai.networks.joint_embedding import EmbeddingNetwork, JointEmbeddingNetwork, PairProjector
from cxrmonai.networks.memory import make_memories
from cxrmonai.networks.pretext import PretextNetwork, load_pretext, pretext_like
from cxrmonai.networks.published.report import CheckpointReport
from cxrmonai.networks.segmenter import Segmenter, load_segmenter, make_segmenter, segmenter_like
from cxrmonai.networks.start import build_of, starting_encoder
from cxrmonai.networks.tuning import encoder_to_tune, usual_pooling

__all__ = [
    "CheckpointReport",
    "Classifier",
    "ContrastiveNetwork",
    "EmbeddingNetwork",
    "EncoderDescription",
    "IRNet",
    "JointEmbeddingNetwork",
    "PairProjector",
    "PretextNetwork",
    "Segmenter",
    "branch_groups",
    "build_of",
    "classifier_like",
    "describe_checkpoint",
    "encoder",
    "encoder_stages",
    "encoder_to_tune",
    "input_of",
    "irnet_like",
    "load_classifier",
    "load_encoder",
    "load_irnet",
    "load_network",
    "load_pretext",
    "load_segmenter",
    "make_irnet",
    "make_memories",
    "make_segmenter",
    "need_classifier",
    "parameter_groups",
    "preprocessing",
    "pretext_like",
    "segmenter_like",
    "start_from",
    "starting_encoder",
    "trained_size",
    "untrained_twin",
    "usual_pooling",
]
