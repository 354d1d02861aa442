"""The app's configuration."""

from django.apps import AppConfig


class SourcesConfig(AppConfig):
    """Sources and their crawl runs."""

    name = "apps.sources"
    label = "sources"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Connect the journal's receivers."""
        from apps.sources import journal  # noqa: F401 (importing it connects them)
