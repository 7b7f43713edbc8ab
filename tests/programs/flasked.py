"""A Flask application for tests with real web servers; its settings are in the environment."""

import os

from flask import Flask, Response

from aether_sync import ANY_VERSION, Event
from aether_sync.contrib.flask import Aether

__all__ = ["app", "create_app"]

aether = Aether()


def _event(number: int) -> Event:
    return Event(event_type="Happened", actor_id="thing-1", data={"n": number, "pid": os.getpid()})


def create_app() -> Flask:
    """Return the application. With ``AETHER_TEST_EARLY`` it has published already, before gunicorn forks."""
    app = Flask(__name__)
    app.config.from_prefixed_env()
    aether.init_app(app)
    app.register_blueprint(aether.health_blueprint())

    @app.get("/")
    def index() -> str:
        return str(os.getpid())

    @app.get("/node")
    def node() -> str:
        return f"{os.getpid()} {aether.bus.node_id}"

    @app.post("/now/<int:number>")
    def now(number: int) -> str:
        aether.bus.publish("web.now", _event(number))
        return str(os.getpid())

    @app.post("/later/<int:number>")
    def later(number: int) -> str:
        aether.publish_after_response("web.later", _event(number))
        return str(os.getpid())

    @app.post("/store/<int:number>")
    def store(number: int) -> str:
        aether.store.append("thing-1", _event(number), expected_version=ANY_VERSION)
        return str(os.getpid())

    @app.get("/live")
    def live() -> Response:
        return aether.sse(heartbeat=0.2)

    if os.environ.get("AETHER_TEST_EARLY"):
        with app.app_context():
            aether.bus.publish("web.early", _event(0))
            aether.bus.flush()
    return app


app = create_app() if "FLASK_AETHER_URL" in os.environ else Flask(__name__)
