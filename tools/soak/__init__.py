"""`make soak`: thousands of short runs under one fault after the other, and what became of every one of them."""
