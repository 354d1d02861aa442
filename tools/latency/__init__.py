"""`python -m tools.latency`: how long after the kill of its worker a run is recovered, against the bars."""
