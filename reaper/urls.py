"""The addresses for machines. Include them wherever you like: `path("", include("reaper.urls"))`."""

from django.urls import path

from reaper.monitoring import views

app_name = "reaper"
urlpatterns = [
    path("metrics", views.prometheus, name="metrics"),
    path("reaper/state", views.state, name="state"),
]
