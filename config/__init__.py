"""The Django project: settings, Celery app, URLs. It names the apps by string only."""

from config.celery import app as celery_app

__all__ = ["celery_app"]
