"""Synthetic chest radiographs with known findings, for runs and tests without patients' data."""

from cxrmonai.data.phantom.population import draw_population, population_table
from cxrmonai.data.phantom.render import render
from cxrmonai.data.phantom.sheet import outline_sheet
from cxrmonai.data.phantom.study import FINDINGS, MASK_NAMES, Body, Lesion, Radiograph, Study

__all__ = [
    "FINDINGS",
    "MASK_NAMES",
    "Body",
    "Lesion",
    "Radiograph",
    "Study",
    "draw_population",
    "outline_sheet",
    "population_table",
    "render",
]
