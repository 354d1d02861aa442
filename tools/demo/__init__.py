"""`python -m tools.demo`: break real workers and show how the reaper recovers their runs."""
