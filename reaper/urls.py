"""The address that Prometheus scrapes: include it where you like, such as `path("", include("reaper.urls"))`."""

from django.urls import path

from reaper.monitoring import views

app_name = "reaper"
urlpatterns = [
    path("metrics", views.prometheus, name="metrics"),
]
