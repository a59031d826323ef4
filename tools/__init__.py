"""Commands beside the pipeline: `python -m tools.NAME`. No stage reads what they write."""
