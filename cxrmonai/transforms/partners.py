"""A second image of the same patient as the second view."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

from cxrmonai.data.partners import partners_of
from cxrmonai.data.store import open_store


class BatchPartnerd(RandomizableTransform, MapTransform):
    """Puts behind a batch of a store's images a partner of each, drawn anew at every call.

    Args:
        keys: of the batch; it must also hold `index`, the images' rows.
        data_file: the store.
        rows: (N,) of the images that may come, see `data.partners.Partners`.
        study: see there.
        view: see there.

    Raises:
        CxrError: see there.
    """

    def __init__(self, keys: KeysCollection, data_file: str, rows: Any, study: str = "any", view: str = "any") -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.store = open_store(data_file)
        self.partners = partners_of(data_file, rows, study, view)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """(B, 1, S, S) in the store's type → (2B, 1, S, S): all images, then all partners."""
        out = dict(data)
        chosen = self.partners.draw(out["index"].cpu().numpy(), self.R)
        for key in self.key_iterator(out):
            images = out[key]
            others = torch.from_numpy(self.store.images[chosen])[:, None].to(images.device)
            out[key] = torch.cat([images, others])
        return out
