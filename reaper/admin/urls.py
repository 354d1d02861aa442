"""The URLs of the pages and buttons that are not Django's own."""

from typing import Any

from django.contrib import admin
from django.urls import path

from reaper.admin.bulk_views import act_on_runs
from reaper.admin.dashboard_views import control_kind, set_schedule
from reaper.admin.run_views import act_on_run, run_page


def extra_urls(site: admin.AdminSite) -> list[Any]:
    """Return the URL patterns, each behind the site's login."""
    return [
        path("control/", site.admin_view(control_kind), name="reaper_control"),
        path("schedule/", site.admin_view(set_schedule), name="reaper_schedule"),
        path("run/<str:kind>/<path:pk>/", site.admin_view(run_page), name="reaper_run"),
        path("act/", site.admin_view(act_on_run), name="reaper_act"),
        path("act-on-runs/", site.admin_view(act_on_runs), name="reaper_act_on_runs"),
    ]
