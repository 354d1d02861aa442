"""How gunicorn serves this project; what its command line says wins."""

from config import environment

bind = environment.text("BIND", "127.0.0.1:8000")
workers = environment.number("WEB_CONCURRENCY", 2)
threads = 4
# Loaded once and before anything is forked: a mistake in the environment ends gunicorn, not worker after worker.
preload_app = True
accesslog = "-"
control_socket_disable = True
