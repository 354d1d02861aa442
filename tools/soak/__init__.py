"""`make soak`: thousands of short runs under one fault after the other, and a verdict on each run."""
