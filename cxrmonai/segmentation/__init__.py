"""Masks from maps: pseudo-labels, their refinement and propagation."""
