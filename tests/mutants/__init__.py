"""`make mutants`: each guard is removed in turn, and a test must fail."""
