"""The app's configuration."""

from celery.signals import beat_init, worker_init, worker_ready, worker_shutdown, worker_shutting_down
from django.apps import AppConfig, apps
from django.core.checks import register
from django.db.models.signals import post_migrate


class ReaperConfig(AppConfig):
    """Fails or requeues runs that are stuck."""

    name = "reaper"
    verbose_name = "Reaper"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Connect the system checks (also to the start of workers and Beat), the heartbeats, and the schedules."""
        from reaper.checks import abort_on_errors, check_reaper
        from reaper.workers import heartbeat

        register(check_reaper, "reaper")
        worker_init.connect(abort_on_errors)
        beat_init.connect(abort_on_errors)
        worker_init.connect(heartbeat.on_init)
        worker_ready.connect(heartbeat.on_ready)
        worker_shutting_down.connect(heartbeat.on_shutting_down)
        worker_shutdown.connect(heartbeat.on_shutdown)
        if apps.is_installed("django_celery_beat"):
            from reaper.schedules import create_after_migrate

            post_migrate.connect(create_after_migrate, sender=self)
