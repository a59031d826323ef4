"""The threshold whose promise holds: pure functions over arrays."""
