"""Commands beside the pipeline, each with a target in the Makefile. No stage reads what they write."""
