"""The Celery tasks: a message is delivered as a worker would do it, the site is a real one on this host."""

import json
import uuid

import pytest
from celery.exceptions import Ignore, SoftTimeLimitExceeded
from django.db import connections, transaction
from django.db.models import JSONField, Value
from freezegun import freeze_time

from apps.sources import crawler, dispatch, runs, tasks
from apps.sources.models import CrawlJob, Source
from apps.sources.tasks import crawl_all_active_sources, crawl_source
from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.models import LedgerEntry, RefusedWrite
from reaper.sweeps.sweep import sweep
from tests.factories import COMMITTED, NOW, SECOND, earlier_sighting, fresh, parent, queued_job, sent_child, witness
from tests.processes import Sent, free_port, site

pytestmark = COMMITTED

PAGES = {
    "/": "one <a href=/a>a</a> <a href=/b>b</a> <a href=/gone>gone</a>",
    "/a": "two",
    "/b": "two",
}
JSON_NULL = Value(None, JSONField())
COUNTED = {"pages": 4, "found": 3, "new": 2, "duplicates": 1, "errors": 1}


@pytest.fixture(autouse=True)
def journal(settings, tmp_path):
    """What the tasks say they did, without times; sites on this host may be crawled."""
    settings.CRAWL_ALLOW_PRIVATE = True
    settings.CRAWL_JOURNAL = str(tmp_path / "journal")

    def read():
        lines = (tmp_path / "journal").read_text().splitlines()
        return [{key: value for key, value in json.loads(line).items() if key not in ("at", "pid")} for line in lines]

    return read


@pytest.fixture
def web():
    with site(PAGES) as web:
        yield web


@pytest.fixture
def of_site(web):
    """A source whose site is up."""
    return Source.objects.create(name="here", url=web.url)


@pytest.fixture
def of_nobody():
    """A source whose site does not answer."""
    return Source.objects.create(name="nowhere", url=f"http://127.0.0.1:{free_port()}/")


def deliver(sent, hostname="celery@w1"):
    """Run the task as a worker does that got this message."""
    request = {"id": sent.id, "retries": sent.retries, "hostname": hostname}
    crawl_source.push_request(called_directly=False, is_eager=False, **request)
    try:
        crawl_source.run(*sent.args, **sent.kwargs)
    finally:
        crawl_source.pop_request()


def message(source, task_id="", **kwargs):
    return Sent(task_id or str(uuid.uuid4()), 0, [str(source.pk)], {key: str(value) for key, value in kwargs.items()})


def totals_of(row):
    return {name: getattr(row, column) for name, column in runs.TOTALS[type(row)].items()}


# --- a crawl ------------------------------------------------------------------------------------------------------


def test_delivered_job_is_claimed_crawled_and_completed(broker, of_site, journal):
    job = queued_job(source=of_site)
    deliver(message(of_site, job.task_id, crawl_job_id=job.pk))
    after = fresh(job)
    assert after.status == "completed"
    assert totals_of(after) == COUNTED
    assert after.task_id == job.task_id
    assert after.worker == "celery@w1/shell"
    assert after.started_at <= after.heartbeat_at <= after.completed_at
    facts = {"run": str(job.pk), "task_id": job.task_id}
    assert journal() == [
        {"event": "claimed", **facts, "worker": after.worker},
        {"event": "ending", **facts, "write": "complete"},
    ]


def test_delivered_child_is_crawled_and_parent_finalized(broker, of_site):
    row = sent_child(source=of_site)
    deliver(message(of_site, row.task_id, parent_job_id=row.crawl_job_id))
    assert fresh(row).status == "completed"
    assert totals_of(fresh(row)) == COUNTED
    after = fresh(row.crawl_job)
    assert after.status == "completed"
    assert totals_of(after) == COUNTED
    assert CrawlJob.objects.count() == 1


def test_message_without_ids_creates_job_once(broker, of_site, web):
    sent = message(of_site)
    deliver(sent)
    job = CrawlJob.objects.get()
    assert job.status == "completed"
    assert job.task_id == sent.id
    assert job.triggered_by == "api"
    assert job.source_id == of_site.pk
    asked = len(web.asked)
    with pytest.raises(Ignore):
        deliver(sent)
    assert CrawlJob.objects.count() == 1
    assert len(web.asked) == asked
    assert RefusedWrite.objects.get().write == "claim"


def test_second_copy_of_running_message_does_no_work(broker, of_site, web):
    sent, answers = message(of_site), []

    def delivered_again():
        try:
            deliver(sent, "celery@w2")
        except Ignore:
            answers.append("ignored")
        finally:
            connections.close_all()
        return "one"

    web.pages["/"] = delivered_again
    deliver(sent)
    assert answers == ["ignored"]
    assert CrawlJob.objects.get().worker.startswith("celery@w1/")
    assert CrawlJob.objects.get().status == "completed"


@pytest.mark.parametrize("call", [crawl_source, lambda *args, **kw: crawl_source.apply(args, kw)], ids=["()", "apply"])
def test_inline_call_gets_new_task_id_and_crawls(broker, of_site, call):
    job = queued_job(source=of_site)
    call(str(of_site.pk), crawl_job_id=str(job.pk))
    after = fresh(job)
    assert after.status == "completed"
    assert totals_of(after) == COUNTED
    assert after.task_id not in ("", job.task_id)
    assert after.worker.endswith("/shell")
    assert broker.ids() == []
    with pytest.raises(Ignore):
        deliver(message(of_site, job.task_id, crawl_job_id=job.pk))


def test_inline_call_without_ids_creates_job(broker, of_site):
    crawl_source(str(of_site.pk))
    assert CrawlJob.objects.get().status == "completed"


def test_progress_is_stored_after_every_page(broker, of_site, web):
    seen = []

    def page():
        seen.append(CrawlJob.objects.values_list("status", "pages_crawled").get())
        connections.close_all()
        return "two"

    web.pages["/a"] = page
    crawl_source(str(of_site.pk))
    assert seen == [("running", 1)]


# --- configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_source", "of_job", "of_message", "pages"),
    [
        ({}, {}, {}, 4),
        ({"max_pages": 1}, {}, {}, 1),
        ({"max_pages": 1}, {"max_pages": 2}, {}, 2),
        ({"max_pages": 1}, {"max_pages": 2}, {"max_pages": 3}, 3),
        ({}, {}, {"max_depth": 0}, 1),
        ({"max_pages": 2}, {"max_depth": 3}, {"delay": 0}, 2),
        (JSON_NULL, JSON_NULL, None, 4),
    ],
)
@pytest.mark.parametrize("kind", ["job", "child"])
def test_config_of_message_wins_over_job_and_job_over_source(of_site, kind, of_source, of_job, of_message, pages):
    Source.objects.filter(pk=of_site.pk).update(crawler_config=of_source)
    job = queued_job(source=of_site) if kind == "job" else sent_child(source=of_site).crawl_job
    CrawlJob.objects.filter(pk=job.pk).update(config_overrides=of_job)
    named = {"crawl_job_id": job.pk} if kind == "job" else {"parent_job_id": job.pk}
    crawl_source(str(of_site.pk), config_overrides=of_message, **named)
    assert fresh(job).pages_crawled == pages


def test_invalid_config_fails_run_with_its_sentence(of_site):
    job = queued_job(source=of_site)
    crawl_source(of_site.pk, crawl_job_id=job.pk, config_overrides={"max_pages": -1})
    after = fresh(job)
    assert after.status == "failed"
    assert after.error_code == "configerror"
    assert "max_pages" in after.error_message


def test_private_address_is_refused_unless_allowed(of_site, settings, web):
    settings.CRAWL_ALLOW_PRIVATE = False
    job = queued_job(source=of_site)
    crawl_source(of_site.pk, crawl_job_id=job.pk, config_overrides={})
    assert fresh(job).status == "failed"
    assert fresh(job).error_code == "forbidden"
    assert web.asked == []


# --- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["job", "child"])
def test_unreachable_site_is_retried_under_new_ids_then_failed(broker, of_nobody, kind, journal):
    row = queued_job(source=of_nobody) if kind == "job" else sent_child(source=of_nobody)
    named = {"crawl_job_id": row.pk} if kind == "job" else {"parent_job_id": row.crawl_job_id}
    sent, ids = message(of_nobody, row.task_id, **named), []
    for attempt in range(tasks.MAX_RETRIES):
        ids.append(sent.id)
        deliver(sent)
        assert fresh(row).status == "pending"
        (sent,) = broker.waiting()
        assert sent.id == fresh(row).task_id
        assert sent.retries == attempt + 1
        broker.flush()
    deliver(sent)
    after = fresh(row)
    assert after.status == "failed"
    assert after.error_code == "unreachable"
    assert broker.ids() == []
    assert len({*ids, sent.id}) == tasks.MAX_RETRIES + 1
    assert [line["write"] for line in journal() if line["event"] == "ending"] == ["release", "release", "fail"]
    if kind == "child":
        assert fresh(row.crawl_job).error_message == "All 1 sources failed"


def test_site_that_comes_back_is_crawled_by_retry(broker, of_nobody, web):
    job = queued_job(source=of_nobody)
    deliver(message(of_nobody, job.task_id, crawl_job_id=job.pk))
    Source.objects.filter(pk=of_nobody.pk).update(url=web.url)
    deliver(*broker.waiting())
    assert fresh(job).status == "completed"
    assert fresh(job).error_message == ""


def test_missing_start_page_is_not_retried(broker, of_site, web):
    del web.pages["/"]
    job = queued_job(source=of_site)
    deliver(message(of_site, job.task_id, crawl_job_id=job.pk))
    assert fresh(job).status == "failed"
    assert fresh(job).error_code == "notthere"
    assert broker.ids() == []


def breaks_after_a_page(error):
    def crawl(url, limits):
        yield crawler.Totals(pages=1, found=1, new=1)
        raise error

    return crawl


def test_crawl_over_soft_time_limit_is_failed_and_keeps_totals(of_site, monkeypatch):
    monkeypatch.setattr(crawler, "crawl", breaks_after_a_page(SoftTimeLimitExceeded()))
    job = queued_job(source=of_site)
    deliver(message(of_site, job.task_id, crawl_job_id=job.pk))
    after = fresh(job)
    assert after.status == "failed"
    assert after.error_code == "time_limit"
    assert after.pages_crawled == 1
    assert after.error_message == "Not done within the soft time limit of 540 s."


def test_task_time_limits_are_those_of_settings(settings):
    assert crawl_source.soft_time_limit == settings.CRAWL_SOFT_TIME_LIMIT == 540
    assert crawl_source.time_limit == settings.CRAWL_TIME_LIMIT == 600


def test_unexpected_error_fails_run_and_is_logged(of_site, monkeypatch, caplog):
    monkeypatch.setattr(crawler, "crawl", breaks_after_a_page(ZeroDivisionError("by zero")))
    job = queued_job(source=of_site)
    deliver(message(of_site, job.task_id, crawl_job_id=job.pk))
    assert fresh(job).error_code == "error"
    assert fresh(job).error_message == "ZeroDivisionError: by zero"
    assert f"crawl of {job.pk} failed" in caplog.text
    assert "Traceback" in caplog.text


def test_stale_message_is_ignored_and_journalled(broker, of_site, web, journal):
    job = queued_job(source=of_site)
    before = fresh(job)
    stale = message(of_site, crawl_job_id=job.pk)
    with pytest.raises(Ignore):
        deliver(stale)
    assert fresh(job).task_id == before.task_id
    assert fresh(job).status == "pending"
    assert web.asked == []
    (line,) = journal()
    assert line["event"] == "refused"
    assert line["run"] == str(job.pk)
    assert line["task_id"] == stale.id
    assert RefusedWrite.objects.get().task_id == stale.id


@pytest.mark.parametrize("kind", ["job", "child"])
def test_run_taken_during_crawl_stops_its_task(broker, of_site, web, journal, kind):
    row = queued_job(source=of_site) if kind == "job" else sent_child(source=of_site)
    named = {"crawl_job_id": row.pk} if kind == "job" else {"parent_job_id": row.crawl_job_id}

    def page():
        type(row).objects.filter(pk=row.pk).update(status="failed", error_code="timed_out")
        connections.close_all()
        return "two"

    web.pages["/a"] = page
    with pytest.raises(Ignore):
        deliver(message(of_site, row.task_id, **named))
    after = fresh(row)
    assert after.status == "failed"
    assert after.error_code == "timed_out"
    assert after.pages_crawled == 1
    assert "/b" not in web.asked
    assert [line["event"] for line in journal()] == ["claimed", "refused"]
    assert RefusedWrite.objects.get().write == "progress"


def test_run_deleted_during_crawl_stops_its_task(broker, of_site, web):
    def page():
        Source.objects.all().delete()
        connections.close_all()
        return "one"

    web.pages["/"] = page
    job = queued_job(source=of_site)
    with pytest.raises(Ignore):
        deliver(message(of_site, job.task_id, crawl_job_id=job.pk))
    assert not CrawlJob.objects.exists()


def test_message_for_deleted_job_is_ignored(broker, of_site):
    job = queued_job(source=of_site)
    sent = message(of_site, job.task_id, crawl_job_id=job.pk)
    of_site.delete()
    with pytest.raises(Ignore):
        deliver(sent)


def test_without_journal_setting_nothing_is_written(settings, of_site, tmp_path):
    settings.CRAWL_JOURNAL = ""
    crawl_source(str(of_site.pk))
    assert list(tmp_path.iterdir()) == []


# --- a manual dispatch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["job", "child"])
def test_manual_delay_makes_earlier_messages_stale(broker, of_site, kind):
    row = queued_job(source=of_site) if kind == "job" else sent_child(source=of_site)
    named = {"crawl_job_id": row.pk} if kind == "job" else {"parent_job_id": row.crawl_job_id}
    earlier = message(of_site, row.task_id, **named)
    result = crawl_source.delay(str(of_site.pk), **{name: str(pk) for name, pk in named.items()})
    assert broker.ids() == [fresh(row).task_id] == [result.id]
    with pytest.raises(Ignore):
        deliver(earlier)
    deliver(*broker.waiting())
    assert fresh(row).status == "completed"


def test_delay_without_ids_creates_job_and_is_not_manual(broker, of_site):
    result = crawl_source.delay(str(of_site.pk))
    job = CrawlJob.objects.get()
    assert job.status == "pending"
    assert job.task_id == result.id
    assert job.source_id == of_site.pk
    (sent,) = broker.waiting()
    assert sent.id == result.id
    assert sent.kwargs == {"crawl_job_id": str(job.pk)}
    assert not LedgerEntry.objects.exists()


def test_overrides_of_manual_delay_are_kept_for_later_attempts(broker, of_site):
    job = queued_job(source=of_site)
    crawl_source.delay(str(of_site.pk), crawl_job_id=str(job.pk), config_overrides={"max_pages": 1})
    assert fresh(job).config_overrides == {"max_pages": 1}
    deliver(*broker.waiting())
    assert fresh(job).pages_crawled == 1


def test_delay_in_transaction_sends_after_commit(broker, of_site):
    with transaction.atomic():
        result = crawl_source.delay(str(of_site.pk))
        assert broker.ids() == []
    assert broker.ids() == [result.id]


def test_publishing_options_reach_broker(broker, of_site):
    result = crawl_source.apply_async([str(of_site.pk)], queue="default")
    assert broker.ids("default") == [result.id]


def test_manual_delay_of_run_that_is_not_pending_raises(broker, of_site):
    job = queued_job(source=of_site, status="running")
    with pytest.raises(dispatch.NotPending):
        crawl_source.delay(str(of_site.pk), crawl_job_id=str(job.pk))
    assert broker.ids() == []


def test_manual_delay_resets_retry_budget(broker, of_site, settings):
    settings.REAPER = {**settings.REAPER, "MAX_REDISPATCHES": 1, "BACKOFF": []}
    job = queued_job(source=of_site)
    beyond = conf.Policy().lost_grace + SECOND

    def sweep_without_message(at):
        """Its message is lost, and no worker has it."""
        broker.flush()
        earlier_sighting(job, at)
        witness(now=at)
        with freeze_time(at):
            sweep(conf.adapters()["crawl_job"], Phase.QUEUED)
        return fresh(job).status

    assert sweep_without_message(NOW + beyond) == "pending"
    with freeze_time(NOW + beyond):
        crawl_source.delay(str(of_site.pk), crawl_job_id=str(job.pk))
    ledger = LedgerEntry.objects.order_by("id").values_list("action", "actor", "new_task_id")
    assert ledger.last() == ("dispatch", "manual dispatch", fresh(job).task_id)
    assert sweep_without_message(NOW + 2 * beyond) == "pending"
    assert sweep_without_message(NOW + 3 * beyond) == "failed"
    assert fresh(job).error_code == "poison"


# --- ids that cannot be used --------------------------------------------------------------------------------------

NO_UUID = ["17", "no uuid", "0" * 31, "'; drop table crawl_jobs; --", 17]
WRONG = [(name, wrong) for name in ("source_id", "crawl_job_id", "parent_job_id") for wrong in NO_UUID]


def sentence_of(raised):
    text = str(raised.value)
    assert text.endswith(".")
    assert text.count("\n") == 0
    return text


@pytest.mark.parametrize(("name", "wrong"), [*WRONG, ("source_id", ""), ("source_id", None)])
@pytest.mark.parametrize("call", [crawl_source.delay, crawl_source], ids=["delay", "inline"])
def test_invalid_id_is_named_in_one_sentence(broker, of_site, call, name, wrong):
    with pytest.raises(ValueError, match="is not a UUID") as raised:
        call(**{"source_id": str(of_site.pk), name: wrong})
    assert sentence_of(raised).startswith(f"{name}={wrong!r}")
    assert broker.ids() == []
    assert not CrawlJob.objects.exists()


@pytest.mark.parametrize("call", [crawl_source.delay, crawl_source], ids=["delay", "inline"])
def test_missing_source_is_named(broker, call):
    unknown = uuid.uuid4()
    with pytest.raises(ValueError, match=f"There is no source {unknown}") as raised:
        call(str(unknown))
    sentence_of(raised)
    assert broker.ids() == []


@pytest.mark.parametrize("call", [crawl_source.delay, crawl_source], ids=["delay", "inline"])
def test_source_of_another_parent_is_named(broker, of_site, call):
    job = parent("pending")
    with pytest.raises(ValueError, match=f"Job {job.pk} has no child for source {of_site.pk}") as raised:
        call(str(of_site.pk), parent_job_id=str(job.pk))
    sentence_of(raised)
    assert broker.ids() == []


@pytest.mark.parametrize("call", [crawl_source.delay, crawl_source], ids=["delay", "inline"])
def test_delay_of_missing_job_raises(broker, of_site, call):
    with pytest.raises(dispatch.NotPending, match="is not pending"):
        call(str(of_site.pk), crawl_job_id=str(uuid.uuid4()))
    assert broker.ids() == []


def test_task_id_of_caller_is_refused(broker, of_site):
    with pytest.raises(ValueError, match="makes its own task ids") as raised:
        crawl_source.apply_async([str(of_site.pk)], task_id="mine")
    sentence_of(raised)
    assert not CrawlJob.objects.exists()


def test_overrides_for_child_are_refused(broker):
    row = sent_child()
    with pytest.raises(ValueError, match="those of its parent job") as raised:
        crawl_source.delay(str(row.source_id), parent_job_id=str(row.crawl_job_id), config_overrides={"max_pages": 1})
    sentence_of(raised)
    assert fresh(row).task_id == row.task_id


@pytest.mark.parametrize("arguments", [[], [1, 2, 3, 4, 5]], ids=["too few", "too many"])
def test_wrong_arguments_are_refused_before_sending(broker, arguments):
    with pytest.raises(TypeError):
        crawl_source.delay(*arguments)
    assert broker.ids() == []


# --- every active source ------------------------------------------------------------------------------------------


def test_crawl_all_creates_child_per_active_source(broker):
    active = {Source.objects.create(name=name, url=f"http://{name}.example/").pk for name in "ab"}
    Source.objects.create(name="c", url="http://c.example/", status="paused")
    job = CrawlJob.objects.get(pk=crawl_all_active_sources())
    assert job.triggered_by == "schedule"
    assert job.is_multi_source is True
    assert job.status == "pending"
    assert set(job.source_results.values_list("source_id", flat=True)) == active
    assert len(broker.ids()) == 2


def test_crawl_all_without_active_source_creates_nothing(broker):
    Source.objects.create(name="c", url="http://c.example/", status="paused")
    assert crawl_all_active_sources() is None
    assert not CrawlJob.objects.exists()


def test_task_names_are_those_published_and_scheduled():
    assert crawl_source.name == dispatch.TASK == "apps.sources.tasks.crawl_source"
    assert crawl_all_active_sources.name == "apps.sources.tasks.crawl_all_active_sources"
