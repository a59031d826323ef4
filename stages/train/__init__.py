"""Fine-tune the backbone on the train photos. `python -m stages.train`; the loop is in loop.py."""
