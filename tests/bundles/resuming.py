"""Breaking a run off, and comparing what two runs left behind."""

import pytest
import torch
from ignite.engine import Events


class BrokenOff(Exception):  # noqa: N818 - stands for a kill
    pass


def break_off(workflow, epoch, step):
    """Runs a workflow that is killed in the given step of an epoch, both counted from 1."""
    trainer = workflow.parser.get_parsed_content("train::trainer")

    def kill(engine):
        raise BrokenOff

    trainer.add_event_handler(Events.ITERATION_STARTED(once=(epoch - 1) * trainer.state.epoch_length + step), kill)
    with pytest.raises(Exception) as broken:  # noqa: PT011 - MONAI wraps what an expression raises
        workflow.run()
    assert BrokenOff in causes(broken.value)


def causes(error):
    """The types of an error and of what caused it."""
    found = []
    while error is not None:
        found.append(type(error))
        error = error.__cause__ or error.__context__
    return found


def checkpoint(folder):
    """The content of a folder's checkpoint."""
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def same(left, right, path=""):
    """Asserts that two nested states are equal, bit for bit."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), path
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            same(left[key], right[key], f"{path}/{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), path
        for k, pair in enumerate(zip(left, right, strict=True)):
            same(*pair, f"{path}/{k}")
    else:
        assert left == right, path
