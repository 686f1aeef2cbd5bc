"""Bundles for others: folders that stand alone, in the formats that other programs read."""

from cxrmonai.deploy.export import Exported, export_bundle

__all__ = ["Exported", "export_bundle"]
