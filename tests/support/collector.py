"""An OTLP collector: an HTTP server that decodes the requests that exporters send, and keeps what is in them.

Source of the format: https://opentelemetry.io/docs/specs/otlp/#otlphttp.
"""

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

__all__ = ["Collector"]


class Collector:
    """Listens on a free port until it is closed.

    Attributes:
        url: What exporters are given as ``OTEL_EXPORTER_OTLP_ENDPOINT``.
        spans: All spans that have come, each with the name of its service.
        metrics: All metrics that have come, the newest last.
    """

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        self.metrics: list[Any] = []
        self.faults: list[str] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                try:
                    answer = collector.take(self.path, self.headers["Content-Type"], body)
                except Exception as error:
                    collector.faults.append(repr(error))
                    self.send_error(400)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def take(self, path: str, kind: str, body: bytes) -> bytes:
        """Decode a request, and return the encoded answer."""
        from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace

        assert kind == "application/x-protobuf"
        if path == "/v1/traces":
            request = trace.ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                service = dict(_attributes(resource.resource))["service.name"]
                self.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]
            return bytes(trace.ExportTraceServiceResponse().SerializeToString())
        assert path == "/v1/metrics"
        wanted = metrics.ExportMetricsServiceRequest.FromString(body)
        for resource in wanted.resource_metrics:
            self.metrics += [metric for scope in resource.scope_metrics for metric in scope.metrics]
        return bytes(metrics.ExportMetricsServiceResponse().SerializeToString())

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    for one in thing.attributes:
        yield one.key, getattr(one.value, one.value.WhichOneof("value"))
