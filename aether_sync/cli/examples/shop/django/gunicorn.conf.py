"""The settings of the web server, which finds this file by its name."""

import os

from aether_sync.contrib.gunicorn import post_worker_init  # noqa: F401  # live pages end with their worker

wsgi_app = "shop.wsgi"
bind = f"127.0.0.1:{os.environ.get('PORT', '8000')}"
worker_class = "gthread"
threads = 100  # a live page keeps one
control_socket_disable = True
