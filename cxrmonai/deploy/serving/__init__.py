"""Bundles behind MONAI Label's server.

`server`, `app`, `archive`, `tasks` and `results` need its own environment, the other modules only the package.
"""
