"""What the sweeps know of workers and messages: heartbeats, and sightings of messages that do not wait."""

from django.db import models


class WorkerHeartbeat(models.Model):
    """One worker's last heartbeat: the worker rewrites its row every 3 s for as long as it lives.

    One row per hostname and incarnation: a draining worker and its successor share a hostname.
    """

    hostname = models.CharField(max_length=255)
    incarnation = models.CharField(max_length=32)
    seen_at = models.DateTimeField()
    """When it was written, by the database's clock."""
    listed_at = models.DateTimeField()
    """When the lists were taken, by the worker's own clock."""
    since = models.DateTimeField()
    """Since when no heartbeat has been missing, by the database's clock."""
    active = models.JSONField(default=dict)
    """When each running task started, by task id: seconds since the epoch, by the worker's clock."""
    held = models.JSONField(default=list)
    """The ids of all other tasks that it holds: reserved, scheduled, rate-limited."""
    queues = models.JSONField(default=list)
    """The names of the queues that it consumes; none while it drains."""
    draining = models.BooleanField(default=False)
    """Whether it has announced its shutdown: it takes no new tasks."""
    complete = models.BooleanField(default=True)
    """Whether the lists are complete; otherwise it may hold tasks that they lack."""
    ended_at = models.DateTimeField(null=True, blank=True)
    """When its pool had ended, by the database's clock; NULL for a worker that did not announce it."""
    backend_pid = models.IntegerField(null=True, blank=True)
    """The PostgreSQL session that wrote it, where that is the worker's own: it ends when the worker does."""
    backend_start = models.DateTimeField(null=True, blank=True)
    """When that session began: process ids are reused."""

    class Meta:
        verbose_name = "worker"
        verbose_name_plural = "workers"
        ordering = ("-id",)
        # No index on a column that every report changes: its updates then touch no index at all.
        constraints = [models.UniqueConstraint(fields=["hostname", "incarnation"], name="reaper_one_heartbeat")]

    def __str__(self) -> str:
        return f"{self.hostname}/{self.incarnation}"


class MessageSighting(models.Model):
    """A queued run's message was found in no queue, or delivered and not acknowledged: the last time that was new.

    Nothing is done at the first sighting, as a message on its way is in neither place: a later sweep that finds the
    same decides.
    """

    kind = models.CharField(max_length=100)
    run_id = models.CharField(max_length=255)
    task_id = models.TextField()
    """The task whose message it was."""
    message_location = models.CharField(max_length=20)
    """A `MessageLocation`: absent or delivered."""
    seen_at = models.DateTimeField()
    """When the queues were read, by the database's clock."""

    class Meta:
        ordering = ("-seen_at",)
        constraints = [models.UniqueConstraint(fields=["kind", "run_id"], name="reaper_one_sighting")]

    def __str__(self) -> str:
        return f"{self.message_location}: {self.kind}:{self.run_id}"
