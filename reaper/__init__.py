"""Finds runs that are stuck, revokes their Celery tasks, fails or requeues them, and writes down why."""
