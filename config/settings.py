"""Django's settings, from the environment.

Nothing set: a development machine, with the embedded PostgreSQL and Redis. DEBUG=0: production, where SECRET_KEY,
ALLOWED_HOSTS, DATABASE_URL and CELERY_BROKER_URL must be set.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from django.core.management.utils import get_random_secret_key

from config import embedded, environment, logs

BASE_DIR = Path(__file__).resolve().parent.parent
DEBUG = environment.debug()


def address(name: str, embedded_default: Callable[[], str]) -> str:
    """Return the variable; in development by default the embedded server's address."""
    if url := environment.text(name):
        return url
    if DEBUG:
        return embedded_default()
    raise environment.InvalidEnvironment(name, "is not set", "it has no default when DEBUG is off")


# A new key at every start only ends the sessions of a development machine.
SECRET_KEY = environment.text("SECRET_KEY") if DEBUG else environment.secret_key("SECRET_KEY")
SECRET_KEY = SECRET_KEY or get_random_secret_key()
ALLOWED_HOSTS = environment.hosts("ALLOWED_HOSTS", ["localhost", "127.0.0.1"] if DEBUG else [])
CSRF_TRUSTED_ORIGINS = environment.origins("CSRF_TRUSTED_ORIGINS")
if not DEBUG:
    SECURE_SSL_REDIRECT = environment.flag("SECURE_SSL_REDIRECT", True)
    # What Prometheus asks from the same machine, past the proxy that ends TLS.
    SECURE_REDIRECT_EXEMPT = ["^metrics$"]
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_HSTS_SECONDS = environment.number("SECURE_HSTS_SECONDS", 31_536_000, least=0)
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_celery_beat",
    "apps.sources",
    "reaper",
]
MIDDLEWARE = [
    "config.health.Probes",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
# A development server answers static files from the packages, without collectstatic.
WHITENOISE_USE_FINDERS = DEBUG
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

DATABASES = {"default": environment.database("DATABASE_URL", address("DATABASE_URL", embedded.database_url))}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # A transaction that reads and then writes must own the write lock from its start (SPEED: SQLite).
    DATABASES["default"].setdefault("OPTIONS", {})["transaction_mode"] = "IMMEDIATE"
else:
    # Seconds: a database that accepts a connection and then hangs must not block its clients forever.
    DATABASES["default"].setdefault("OPTIONS", {}).setdefault("connect_timeout", 5)

# Where alerts are mailed through; in development they are printed.
globals().update(environment.email("EMAIL_URL", "consolemail://" if DEBUG else "smtp://localhost:25"))

CELERY_BROKER_URL = environment.broker("CELERY_BROKER_URL", address("CELERY_BROKER_URL", embedded.broker_url))
CELERY_RESULT_BACKEND = None
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_ROUTES = {"apps.sources.tasks.crawl_source": {"queue": "crawl"}, "reaper.tasks.*": {"queue": "reaper"}}
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # for ever: after the default, 100, a worker would end
# A publish to a broker that hangs must end: seconds.
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_timeout": 5, "socket_connect_timeout": 2}
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0.1, "interval_step": 0.1, "interval_max": 0.2}
CELERY_BEAT_SCHEDULER = "config.beat:DatabaseWaitingScheduler"
CELERY_TIMEZONE = TIME_ZONE
CELERY_ENABLE_UTC = True

# The crawl's own limits, in seconds; the reaper's RUN_TIMEOUT must be longer (a system check says so).
CRAWL_TIME_LIMIT = environment.number("CRAWL_TIME_LIMIT", 600)
CRAWL_SOFT_TIME_LIMIT = environment.number(
    "CRAWL_SOFT_TIME_LIMIT", CRAWL_TIME_LIMIT * 9 // 10, least=0, most=CRAWL_TIME_LIMIT
)
# Sources on private addresses are refused unless this is set: a source must not read the inner network.
CRAWL_ALLOW_PRIVATE = environment.flag("CRAWL_ALLOW_PRIVATE", False)
# A file to which the tasks append what they do, one JSON line each: the demo judges the reaper by it.
CRAWL_JOURNAL = environment.text("CRAWL_JOURNAL")

# A run that waited this long for a worker is stuck; a parent that waited this long for its children has none.
CRAWL_QUEUE_TIMEOUT = timedelta(seconds=environment.number("REAPER_QUEUE_TIMEOUT", 900))

REAPER = {
    "ADAPTERS": ["apps.sources.reaping.CrawlJobs", "apps.sources.reaping.SourceResults"],
    "RUN_TIMEOUT": timedelta(seconds=environment.number("REAPER_RUN_TIMEOUT", 3600)),
    "QUEUE_TIMEOUT": CRAWL_QUEUE_TIMEOUT,
    "METRICS_TOKEN": environment.text("REAPER_METRICS_TOKEN"),
    "ALERT_EMAILS": environment.items("REAPER_ALERT_EMAILS", []),
    "ALERT_WEBHOOK": environment.text("REAPER_ALERT_WEBHOOK"),
    "ALERT_AFTER": timedelta(seconds=environment.number("REAPER_ALERT_AFTER", 1800)),
}

# Services log to stdout; manage.py keeps stdout for the command's own output.
LOGGING = logs.configuration(
    as_json=not DEBUG,
    stream=environment.choice("LOG_STREAM", "STDERR" if DEBUG else "STDOUT", ("STDOUT", "STDERR")),
    level=environment.choice("LOG_LEVEL", "INFO", environment.LEVELS),
)
