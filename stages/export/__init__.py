"""The checkpoint as one self-contained ONNX file. `python -m stages.export`."""
