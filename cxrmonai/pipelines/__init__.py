"""Several bundles in a row, as one command."""
