"""`make mutants`: each guard is taken away in turn, and the tests have to notice."""
