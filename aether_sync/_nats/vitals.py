"""The health of a connection, from what is known on this side: nothing here waits, and the server is not asked."""

from .._values.clock import monotonic
from ..health import Health
from .channel import EngineSlot
from .link import LinkState

__all__ = ["health_of"]

_NEARLY_FULL = 0.9  # of the outbox: a burst of a few thousand events fills the rest
_QUIET = 3  # ping intervals without a sign of the server: the watchdog leaves it within two
_STUCK = 12  # intervals, and at least so many seconds: the watchdog has not run, so perhaps the loop does not
_STUCK_SECONDS = 60.0
_PATIENCE = 5.0  # seconds that the loop has to answer then


def health_of(slot: EngineSlot) -> Health:
    """Return the health of a connection."""
    about = f"the connection to {slot.where}"
    engine = slot.engine
    if slot.closed:
        return Health(about=about, reasons=(f"{about} is closed",), alive=False)
    if engine is None:
        return Health(about=about, reasons=(f"not connected to {slot.where}: nothing has used the connection yet",))
    numbers, reasons, alive = _of_outbox(slot), [], True
    link, quiet = engine.link, 0.0
    state, now = link.state, monotonic()  # once, as it may change meanwhile
    numbers["reconnects"] = link.reconnects
    if link.was_connected:
        numbers["seconds_since_server"] = quiet = max(0.0, now - link.heard)
    if engine.loop.has_ended or state is LinkState.CLOSED:
        reasons, alive = [f"{about} has ended by an error, which the log has"], False
    elif state is not LinkState.CONNECTED:
        numbers["seconds_disconnected"] = away = max(0.0, now - link.since)
        reasons = [f"{link.connect_error()}, for {away:.0f} s"]
    elif quiet > _QUIET * engine.ping_interval:
        is_long = quiet > max(_STUCK * engine.ping_interval, _STUCK_SECONDS)
        alive = not (is_long and engine.loop.hangs(_PATIENCE))
        why = "" if alive else ": the thread of the connection hangs"
        reasons = [f"no sign of {slot.where} for {quiet:.0f} s{why}"]
    if numbers["outbox_filled"] >= _NEARLY_FULL:
        events, share = numbers["outbox_events"], numbers["outbox_filled"]
        reasons.append(f"the outbox to {slot.where} is nearly full ({share:.0%}): {events:,.0f} events wait to be sent")
    return Health(about=about, reasons=tuple(reasons), alive=alive, numbers=numbers)


def _of_outbox(slot: EngineSlot) -> dict[str, float]:
    outbox = slot.outbox
    events, size = outbox.depth()
    return {
        "outbox_events": events,
        "outbox_bytes": size,
        "outbox_filled": max(events / outbox.max_events, size / outbox.max_bytes),
        "seconds_oldest_waiting": outbox.age(),
    }
