"""The commands of the deployment's processes, each without the `python -m` in front."""

CELERY = ("celery", "-A", "config.celery")
# Crawls that a worker runs at a time.
CRAWL_SLOTS = 2


def web(port: int) -> list[str]:
    """Return the web server's command."""
    return ["gunicorn", "config.wsgi", "--bind", f"127.0.0.1:{port}", "--threads", "4", "--no-control-socket"]


def crawler(name: str) -> list[str]:
    """Return the command of a crawl worker."""
    return [*CELERY, "worker", *_worker(name), "-Q", "default,crawl", "--concurrency", str(CRAWL_SLOTS)]


def reaper(name: str = "reaper") -> list[str]:
    """Return the command of the reaper's own worker."""
    return [*CELERY, "worker", *_worker(name), "-Q", "reaper", "--concurrency", "1"]


def beat() -> list[str]:
    """Return the scheduler's command; its schedule is in the database."""
    return [*CELERY, "beat", "--loglevel", "info", "--pidfile="]


def crashing_crawler(queue: str) -> list[str]:
    """Return the command of a worker that dies before it finalizes a parent: `tools.demo.crash_before_finalize`."""
    return [
        "celery",
        "-A",
        "tools.demo.crash_before_finalize",
        "worker",
        *_worker(queue),
        "-Q",
        queue,
        "--pool",
        "solo",
    ]


def _worker(name: str) -> list[str]:
    # Without gossip and mingle a worker starts a second sooner.
    return ["-n", f"{name}@%h", "--loglevel", "info", "--without-gossip", "--without-mingle"]
