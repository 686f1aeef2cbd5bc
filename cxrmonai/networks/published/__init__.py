"""The published encoders of chest radiographs: how their files are read, and what their networks and inputs are."""
