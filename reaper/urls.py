"""The addresses that machines read: include these where you like, such as `path("", include("reaper.urls"))`."""

from django.urls import path

from reaper.monitoring import views

app_name = "reaper"
urlpatterns = [
    path("metrics", views.prometheus, name="metrics"),
    path("reaper/state", views.state, name="state"),
]
