"""Network, calibration and decision as one self-contained file. `python -m stages.export`."""
