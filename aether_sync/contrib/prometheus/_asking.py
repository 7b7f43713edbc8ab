"""``Asking``: a thread that asks the server how far the registered consumers are, so that no scrape waits for it."""

from ...errors import StoreClosedError
from ...stores.event_store import EventStore
from ...stores.jetstream import JetStreamEventStore
from ._exporter import Exporter
from ._ticker import Ticker

__all__ = ["Asking"]

_INTERVAL = 5.0  # seconds between two rounds: more often than most servers of Prometheus scrape
_TIMEOUT = 2.0  # seconds for each consumer


class Asking:
    """Asks for the consumers of an exporter.

    Args:
        exporter: Has the consumers.
        only_connected: Whether to leave alone a store that is not connected. A process that only forks others, as a
            web server does that loads its application first, does not connect because of its metrics.
    """

    def __init__(self, exporter: Exporter, *, only_connected: bool) -> None:
        self._exporter = exporter
        self._only_connected = only_connected
        self._ticker = Ticker(self, self._ask_all, _INTERVAL)

    def start(self) -> None:
        """Begin, unless there is nobody to ask for."""
        if self._exporter.things("consumer"):
            self._ticker.start()

    def stop(self) -> None:
        """End soon."""
        self._ticker.stop()

    def begin_anew(self) -> None:
        """Have no thread, as in a forked child."""
        self._ticker.begin_anew()

    def _ask_all(self) -> None:
        for source in self._exporter.things("consumer"):
            store, answer = source.ref(), source.answer
            if store is None or answer is None:
                continue
            assert isinstance(store, EventStore)
            is_away = isinstance(store, JetStreamEventStore) and not store.connection.is_connected
            if self._only_connected and is_away:
                answer.state = None
                continue
            try:
                answer.state = store.consumer(answer.consumer).state(timeout=_TIMEOUT)
            except StoreClosedError:
                answer.state = None
            except Exception as error:
                answer.state = None
                self._exporter.count_error(source, store, error)
