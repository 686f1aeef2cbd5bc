"""What happens to a batch between the loader and the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch


class PrepareBatch:
    """Moves a batch to the device, transforms it there, and hands image and label to MONAI's engines.

    Args:
        transform: a batch transform, see `cxrmonai.transforms.batch`, or `None`.
        image: key, or keys whose values are joined along the first axis (views that a per-sample transform made).
        label: key of the label, where there is one.
        extra: keys whose values the network takes as arguments of these names.
    """

    def __init__(
        self,
        transform: Callable[[Mapping[Any, Any]], Mapping[Any, Any]] | None = None,
        image: str | list[str] = "image",
        label: str = "label",
        extra: Sequence[str] = (),
    ) -> None:
        self.transform, self.label = transform, label
        self.extra = tuple(extra)
        self.image = [image] if isinstance(image, str) else list(image)

    def __call__(
        self,
        batchdata: Mapping[Any, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """A batch with `image` (B, …) → image (B', …) float32 and label (B, C) on the device.

        With `extra`, two more, as MONAI's engines take them: no positional arguments, and the named ones.
        """
        batch = {
            key: value.to(device, non_blocking=non_blocking, **kwargs) if isinstance(value, torch.Tensor) else value
            for key, value in batchdata.items()
        }
        with torch.no_grad():
            if self.transform is not None:
                batch = dict(self.transform(batch))
            parts = [batch[key] for key in self.image]
            images = parts[0] if len(parts) == 1 else torch.cat(parts)
        images, label = images.contiguous(memory_format=torch.channels_last), batch.get(self.label)
        if not self.extra:
            return images, label
        named = {key: batch[key].contiguous(memory_format=torch.channels_last) for key in self.extra}
        return images, label, (), named
