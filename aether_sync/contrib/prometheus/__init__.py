"""The metrics of buses, stores, runners and consumers for Prometheus. Needs the extra ``prometheus``."""

try:
    import prometheus_client  # noqa: F401  # here, so that it is said in one sentence what is missing
except ModuleNotFoundError as missing:
    if missing.name != "prometheus_client":
        raise
    raise ModuleNotFoundError(
        "aether_sync.contrib.prometheus needs prometheus-client: install the extra 'prometheus' of aether-sync",
        name=missing.name,
    ) from missing

from ._http import MetricsServer, metrics_app, start_http_server
from ._registration import Registration, register

__all__ = ["MetricsServer", "Registration", "metrics_app", "register", "start_http_server"]
