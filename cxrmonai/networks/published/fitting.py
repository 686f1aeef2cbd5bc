"""From a published file's weights to timm's names: every one found with its shape, or an error."""

from __future__ import annotations

import torch
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.networks.published.layouts import Layout
from cxrmonai.networks.published.report import DroppedKeys, listed


def fit_weights(layout: Layout, network: nn.Module) -> tuple[dict[str, torch.Tensor], tuple[DroppedKeys, ...]]:
    """Collects a network's weights from a file.

    Args:
        layout: of the file.
        network: as the layout describes it; left as it is.

    Returns:
        A state dict under timm's names, floats as float32; and what the file holds beside it.

    Raises:
        CxrError: lists what is missing, left over or misshapen, under the file's names; without the file's own name.
    """
    result: dict[str, torch.Tensor] = {}
    used: set[str] = set()
    missing: list[str] = []
    misshapen: list[str] = []
    for name, target in network.state_dict().items():
        origin = layout.origin(name)
        keys = [layout.prefix + key for key in origin.names]
        used.update(keys)
        absent = [key for key in keys if key not in layout.weights]
        missing += absent
        if absent:
            continue
        parts = [layout.weights[key] for key in keys]
        value = origin.change(parts[0]) if len(parts) == 1 else None
        if value is None and parts[0].ndim and len({part.shape for part in parts}) == 1:
            value = origin.change(torch.cat(parts))
        if value is None or value.shape != target.shape:
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            misshapen.append(f"{', '.join(keys)} {shapes} for {tuple(target.shape)}")
        else:
            result[name] = value.float() if value.is_floating_point() else value
    dropped, left_over = _dropped(layout, used)
    faults = [listed("missing", missing), listed("left over", left_over), listed("misshapen", misshapen)]
    if any(faults):
        raise CxrError(
            f"read as {layout.name}, but the weights do not fit {network.description.name}: "
            + "; ".join(filter(None, faults))
        )
    return result, dropped


def _dropped(layout: Layout, used: set[str]) -> tuple[tuple[DroppedKeys, ...], list[str]]:
    """What is not used, by the prefixes that the layout knows; and what no prefix explains."""
    counts = dict.fromkeys((prefix for prefix, _ in layout.dropped), 0)
    left_over = []
    for key in layout.weights:
        if key in used:
            continue
        prefix = next((prefix for prefix in counts if key.startswith(prefix)), None)
        if prefix is None:
            left_over.append(key)
        else:
            counts[prefix] += 1
    dropped = tuple(DroppedKeys(prefix, counts[prefix], what) for prefix, what in layout.dropped if counts[prefix])
    return dropped, left_over
