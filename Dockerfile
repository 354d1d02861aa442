# One image for web, workers, Beat and migrate; docker-compose.yml says which process is which.
FROM python:3.13-slim AS build
WORKDIR /app
COPY requirements/host.lock requirements/
RUN python -m venv /venv
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary :all: --require-hashes -r requirements/host.lock
COPY manage.py gunicorn.conf.py ./
COPY config/ config/
COPY apps/ apps/
COPY reaper/ reaper/
# Nothing is connected to; the addresses only have to be there.
RUN DEBUG=0 SECRET_KEY=only-for-collecting-static-files-0 ALLOWED_HOSTS=localhost DATABASE_URL=sqlite:// CELERY_BROKER_URL=memory:// /venv/bin/python manage.py collectstatic --noinput

FROM python:3.13-slim
# Off unless somebody insists: an image is no development machine.
ENV DEBUG=0 PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY --from=build /venv /venv
COPY --from=build /app /app
# A number, so that Kubernetes can tell that it is not root.
USER 10001:10001
CMD ["gunicorn", "config.wsgi"]
