"""How often a worker reports, and how long a silence means what. One place, because each limit follows from the others.

The thread of the heartbeats reads `REPORT_INTERVAL_S` and `WRITE_TIMEOUT_S` anew every time.
"""

from datetime import timedelta

# Seconds between two heartbeats of a worker.
REPORT_INTERVAL_S = 3.0
# Seconds that one step of writing a heartbeat, or a wait for one, may take.
WRITE_TIMEOUT_S = 2
# A report names tasks as they were before it was written: by no more than the time-out of the write.
MAX_LIST_AGE = timedelta(seconds=WRITE_TIMEOUT_S)
# A live worker's last heartbeat is no older, the time that its write takes included.
MAX_HEARTBEAT_AGE = timedelta(seconds=REPORT_INTERVAL_S + WRITE_TIMEOUT_S)
# Two heartbeats that lie further apart than two intervals and one write: one was missed.
MAX_GAP = timedelta(seconds=2 * REPORT_INTERVAL_S + WRITE_TIMEOUT_S)
# Four heartbeats missed: with nothing but silence to go by, the worker counts as dead.
DEAD_AFTER = timedelta(seconds=12)
