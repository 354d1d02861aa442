"""`python -m tools.demo`: real trouble for real workers, and what the reaper makes of it."""
