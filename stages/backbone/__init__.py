"""Materialise the pretrained weights, so that training needs no network and they are versioned like every input."""
