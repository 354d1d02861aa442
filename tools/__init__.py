"""Command line tools for development: demo, latency, bench and soak."""
