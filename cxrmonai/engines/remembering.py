"""Memories that move from step to step."""

from __future__ import annotations

from ignite.engine import Engine, Events

from cxrmonai.losses.joint_embedding import JointEmbeddingLoss


class UpdateLoss:
    """Lets a loss remember each step that is over: queues and banks take up its keys, a centre moves.

    Under accumulation each step counts, not each update of the weights.

    Args:
        loss: of the run.
    """

    def __init__(self, loss: JointEmbeddingLoss) -> None:
        self.loss = loss

    def attach(self, engine: Engine) -> None:
        """Attaches to iterations."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Hands over the network's output and the rows of its images."""
        self.loss.update(engine.state.output["pred"], engine.state.output["label"])
