"""Tests in which real processes and servers fail. `make faults` runs them all."""
