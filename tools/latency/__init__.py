"""`python -m tools.latency`: how long recovery takes after a worker was killed, against the bars."""
