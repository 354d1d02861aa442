"""`python -m latency`: how long after the kill of its worker a run is recovered, and whether that holds the bars."""
