"""The app's configuration."""

from django.apps import AppConfig


class SourcesConfig(AppConfig):
    """Sources and their crawl runs."""

    name = "apps.sources"
    label = "sources"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Bind the receivers that hand this app's announcements to the reaper."""
        from apps.sources import reaping  # noqa: F401 (importing it binds them)
