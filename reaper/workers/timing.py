"""How often a worker reports, and how long a silence means what: in one place, as each limit follows from the others.

The heartbeat thread reads `REPORT_INTERVAL_S` and `WRITE_TIMEOUT_S` each time it uses them.
"""

from datetime import timedelta

# Seconds between two heartbeats of a worker.
REPORT_INTERVAL_S = 3.0
# Seconds that one step of writing a heartbeat, or a wait for one, may take.
WRITE_TIMEOUT_S = 2
# The age that a heartbeat's list of tasks may have when it is written: at most the time-out of the write.
MAX_LIST_AGE = timedelta(seconds=WRITE_TIMEOUT_S)
# The age that a live worker's last heartbeat may have, including the time that its write takes.
MAX_HEARTBEAT_AGE = timedelta(seconds=REPORT_INTERVAL_S + WRITE_TIMEOUT_S)
# If two heartbeats are further apart than two intervals and one write, one was missed.
MAX_GAP = timedelta(seconds=2 * REPORT_INTERVAL_S + WRITE_TIMEOUT_S)
# After four missed heartbeats, a worker counts as dead on its silence alone.
DEAD_AFTER = timedelta(seconds=12)
