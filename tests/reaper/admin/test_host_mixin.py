"""What `ReaperRunAdminMixin` adds to the pages of the host's own runs."""

import pytest
from django.urls import reverse

from tests.factories import (
    HOUR,
    parent,
    running_job,
)

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("broker", "limits"),
    pytest.mark.filterwarnings("ignore:No directory at:UserWarning"),
]


def test_host_page_of_run_links_to_reaper_and_shows_timeline(ada):
    job = running_job(2 * HOUR)
    page = ada.get(reverse("admin:sources_crawljob_change", args=[job.pk])).content.decode()
    assert reverse("admin:reaper_run", args=["crawl_job", job.pk]) in page
    assert "Claimed by celery@w1/abc." in page


def test_host_page_of_parent_is_unchanged(ada):
    page = ada.get(reverse("admin:sources_crawljob_change", args=[parent("completed").pk])).content.decode()
    assert "/run/crawl_job/" not in page
