"""Commands a person runs beside the pipeline; each has a target in the Makefile. They may take flags."""
