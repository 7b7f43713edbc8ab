"""The metrics of buses, stores, runners and consumers for Prometheus. Needs the extra ``prometheus``."""

from .._extra import extra

with extra(__name__, "prometheus_client", "prometheus-client"):
    import prometheus_client  # noqa: F401

from ._http import MetricsServer, metrics_app, start_http_server
from ._registration import Registration, register

__all__ = ["MetricsServer", "Registration", "metrics_app", "register", "start_http_server"]
