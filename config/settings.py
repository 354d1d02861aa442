"""Django's settings, from the environment.

Nothing set: a development machine, with the embedded PostgreSQL and Redis. DEBUG=0: production, where SECRET_KEY,
ALLOWED_HOSTS, DATABASE_URL and CELERY_BROKER_URL must be set.
"""

from datetime import timedelta
from pathlib import Path

import environ
from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

from config import embedded

env = environ.Env()
BASE_DIR = Path(__file__).resolve().parent.parent
DEBUG = env.bool("DEBUG", True)


def required(name: str, embedded_default=None):
    """Return the variable; in development its default. Raises ImproperlyConfigured when it must be set and is not."""
    if value := env.str(name, ""):
        return value
    if DEBUG and embedded_default:
        return embedded_default()
    raise ImproperlyConfigured(f"The environment variable {name} is not set; it has no default when DEBUG is off.")


# A new key at every start only ends the sessions of a development machine.
SECRET_KEY = required("SECRET_KEY", get_random_secret_key)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1"] if DEBUG else [])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
if not DEBUG:
    SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", True)
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_HSTS_SECONDS = env.int("SECURE_HSTS_SECONDS", 31_536_000)
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

DATABASES = {"default": environ.Env.db_url_config(required("DATABASE_URL", embedded.database_url))}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # A transaction that reads and then writes must own the write lock from its start (SPEED: SQLite).
    DATABASES["default"].setdefault("OPTIONS", {})["transaction_mode"] = "IMMEDIATE"

CELERY_BROKER_URL = required("CELERY_BROKER_URL", embedded.broker_url)
CELERY_RESULT_BACKEND = None
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_ROUTES = {"apps.sources.tasks.crawl_source": {"queue": "crawl"}, "reaper.tasks.*": {"queue": "reaper"}}
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# A publish to a broker that hangs must end: seconds.
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_timeout": 5, "socket_connect_timeout": 2}
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0.1, "interval_step": 0.1, "interval_max": 0.2}
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_TIMEZONE = TIME_ZONE
CELERY_ENABLE_UTC = True

# The crawl's own limits, in seconds; the reaper's thresholds must lie above them (a system check says so).
CRAWL_TIME_LIMIT = env.int("CRAWL_TIME_LIMIT", 600)
CRAWL_SOFT_TIME_LIMIT = env.int("CRAWL_SOFT_TIME_LIMIT", CRAWL_TIME_LIMIT * 9 // 10)
# Sources on private addresses are refused unless this is set: a source must not read the inner network.
CRAWL_ALLOW_PRIVATE = env.bool("CRAWL_ALLOW_PRIVATE", False)
# A file to which the tasks append what they do, one JSON line each: the demo judges the reaper by it.
CRAWL_JOURNAL = env.str("CRAWL_JOURNAL", "")

# A run that waited this long for a worker is stuck; a parent that waited this long for its children has none.
CRAWL_QUEUE_TIMEOUT = timedelta(seconds=env.int("REAPER_QUEUE_TIMEOUT", 900))

REAPER = {
    "ADAPTERS": ["apps.sources.reaping.CrawlJobs", "apps.sources.reaping.SourceResults"],
    "RUN_TIMEOUT": timedelta(seconds=env.int("REAPER_RUN_TIMEOUT", 3600)),
    "QUEUE_TIMEOUT": CRAWL_QUEUE_TIMEOUT,
    "ALERT_AFTER": timedelta(seconds=env.int("REAPER_ALERT_AFTER", 1800)),
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": env.str("LOG_LEVEL", "INFO")},
}
