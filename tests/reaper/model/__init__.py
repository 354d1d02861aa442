"""The model: a fleet and several sweeps that interleave in every way, against the real rows and the real Redis."""
