"""Networks: one encoder factory, heads, and the reading of checkpoints."""

from cxrmonai.networks.checkpoints import load_encoder, load_network, start_from, trained_size, untrained_twin
from cxrmonai.networks.contrastive import ContrastiveNetwork
from cxrmonai.networks.encoders import EncoderDescription, encoder

__all__ = [
    "ContrastiveNetwork",
    "EncoderDescription",
    "encoder",
    "load_encoder",
    "load_network",
    "start_from",
    "trained_size",
    "untrained_twin",
]
