"""`make bench`: what a sweep costs, as ratios within one run, against the bars and other queues."""
