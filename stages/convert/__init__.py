"""The checkpoint as one ONNX network, in the fewest bits that keep its ranking. `python -m stages.convert`."""
