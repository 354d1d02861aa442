"""`python -m demo`: real trouble for real workers, and what the reaper makes of it."""
