"""Score val and test, calibrate, report. `python -m stages.eval`."""
