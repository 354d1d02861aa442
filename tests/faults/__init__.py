"""Faults: real processes, real servers, and something that goes wrong between them. `make faults` runs them all."""
