"""Radiographs in: sources, reading, the store, splits, data sets, the phantom."""
