"""The blueprint that answers probes: :func:`health_app`, at two paths of the application."""

from collections.abc import Callable

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from ...health import HasHealth, Health, health_app

__all__ = ["make_blueprint"]


def make_blueprint(*parts: HasHealth | Callable[..., Health], timeout: float) -> Blueprint:
    """Return a blueprint that answers at ``/healthz`` and ``/livez``.

    Args:
        *parts: What is asked, with the context of the request.
        timeout: Seconds for the question that each part puts to the server.

    Raises:
        InvalidOptionError: A part has no ``health()``, or ``timeout`` is no number of seconds.
    """
    answering = health_app(*parts, timeout=timeout)
    blueprint = Blueprint("aether_health", __name__)

    @blueprint.route("/healthz")
    @blueprint.route("/livez")
    def answer() -> ResponseReturnValue:
        return Response.from_app(answering, request.environ)

    return blueprint
