"""``Writer``: shows the sums of an exporter where several processes answer scrapes, by files that they share.

prometheus-client does so in its multi-process mode, which knows no collectors of others. Every process therefore writes
what its objects say, once a second, into files that are read there: see ``_slots.py``. A process that is killed loses
what it has counted since.

A forked child begins with zeros. It writes nothing, and takes no slot, before one of its objects has done something: a
program may fork for many reasons.
"""

import sys
from pathlib import Path

from prometheus_client.mmap_dict import mmap_key

from ..._runtime.exit import mind_the_exit
from ..._runtime.locks import signal_safe_lock
from ..._runtime.reporter import Kind
from ..._values.shown import explained
from ._asking import Asking
from ._collector import LIMITS, labels_of
from ._exporter import Exporter
from ._families import Series
from ._slots import Slot, remove_gauges_of_the_dead, take_slot
from ._ticker import Ticker

__all__ = ["Writer"]

_INTERVAL = 1.0  # seconds: far less than between two scrapes, and cheap enough to go on for ever


class Writer:
    """Writes what the objects of this process say.

    Args:
        directory: ``PROMETHEUS_MULTIPROC_DIR``.

    Attributes:
        fault: Why the last attempt to write failed; None if it did not.
    """

    def __init__(self, directory: Path) -> None:
        self.exporter = Exporter()
        self._directory = directory
        self._asking = Asking(self.exporter, only_connected=True)
        self._ticker = Ticker(self, self._tick, _INTERVAL)
        self._keys: dict[Series, tuple[str, ...]] = {}
        # Guards the fields below. It is held while files are written, which are in memory.
        self._lock = signal_safe_lock()
        self._is_forked = False
        self._reset()

    def _reset(self) -> None:
        self._slot: Slot | None = None
        self._written: dict[Series, tuple[float, ...]] = {}
        self.fault: str | None = None
        self._ended = False  # nothing is written any more

    def begin(self) -> None:
        """Begin to write, also what is still zero."""
        self._is_forked = False
        self._ticker.start()

    def end(self) -> None:
        """Stop to write, as nothing is registered any more, and what there was is written."""
        self._ticker.stop()
        self._asking.stop()
        self.exporter.reporter.end()
        self.fault = None

    def end_for_good(self) -> None:
        """Write for the last time, and leave the slot to another process."""
        self._ticker.stop()
        self._asking.stop()
        if self._directory.is_dir():  # else the program has removed it, as its last deed
            self.write_all()
        with self._lock:
            slot, self._slot, self._ended = self._slot, None, True
        if slot is not None:
            slot.free()

    def begin_anew(self) -> None:
        """Begin with zeros in a forked child."""
        slot = self._slot
        self.exporter.begin_anew()
        self._asking.begin_anew()
        self._ticker.begin_anew()
        self._reset()
        self._is_forked = True
        if slot is not None:
            slot.forget()
        if multiprocessing := sys.modules.get("multiprocessing.util"):  # which soon forgets what is to be done at exit
            multiprocessing.register_after_fork(self, _mind_the_exit)
        if self.exporter.is_in_use:
            self._ticker.start()

    def _tick(self) -> None:
        self.write_all()
        self._asking.start()

    def write_all(self) -> None:
        """Write what there is now."""
        try:
            self.exporter.look()
            with self._lock:
                if not self._ended and (self.exporter.has_work or not self._is_forked):
                    self._write()
            self.fault = None
        except Exception as error:
            before, self.fault = self.fault, explained(error)
            if before is not None:  # not the first time: a program that ends may have removed the directory just now
                text = "the metrics cannot be written to %s: %s"
                self.exporter.reporter.burst(Kind.EXPORT_FAILED, text, self._directory, self.fault)

    def _write(self) -> None:
        slot = self._slot
        if slot is not None and not slot.is_there:  # somebody has emptied the directory
            self._slot, self._written = None, {}
            slot.forget()
            slot = None
        if slot is None:
            slot = self._slot = take_slot(self._directory)
        elif removed := slot.forget_removed():
            self._written = {one: numbers for one, numbers in self._written.items() if _kind(one) not in removed}
        for series, numbers in self.exporter.counts().items():
            before = self._written.get(series)
            if before != numbers:
                for at, key in enumerate(self._keys_of(series)):
                    if before is None or before[at] != numbers[at]:
                        slot.add_to(_kind(series), key, numbers[at])
                self._written[series] = numbers
        gauges = self.exporter.gauges()
        for combine in "sum", "max":
            self._write_gauges(
                slot, combine, {one: value for one, value in gauges.items() if one.family.combine == combine}
            )
        remove_gauges_of_the_dead(slot)

    def _write_gauges(self, slot: Slot, combine: str, gauges: dict[Series, float]) -> None:
        kind = f"gauge_live{combine}"
        known = {one for one in self._written if _kind(one) == kind}
        gone = known - gauges.keys()
        changed = {one: value for one, value in gauges.items() if gone or self._written.get(one) != (value,)}
        if gone or changed:
            values = {self._keys_of(one)[0]: value for one, value in changed.items()}
            slot.set_gauges(kind, values, anew=bool(gone))
        for one in gone:
            del self._written[one]
        self._written.update({one: (value,) for one, value in changed.items()})

    def _keys_of(self, series: Series) -> tuple[str, ...]:
        """Return the keys of the numbers of a series, as prometheus-client writes them."""
        keys = self._keys.get(series)
        if keys is None:
            keys = self._keys[series] = tuple(_keys(series))
        return keys


def _mind_the_exit(writer: Writer) -> None:
    """In a child of multiprocessing, write for the last time when it ends."""
    mind_the_exit()


def _kind(series: Series) -> str:
    """Return the kind of file that a series is in: the first part of its name."""
    family = series.family
    return f"gauge_live{family.combine}" if family.kind == "gauge" else family.kind


def _keys(series: Series) -> list[str]:
    family, labels = series.family, labels_of(series)
    name = family.name.removesuffix("_total") if family.kind == "counter" else family.name

    def key(of: str, **more: str) -> str:
        all_labels = {**labels, **more}
        return mmap_key(name, of, list(all_labels), list(all_labels.values()), family.text)

    if family.kind != "histogram":
        return [key(family.name)]
    return [*(key(f"{name}_bucket", le=le) for le in LIMITS), key(f"{name}_sum")]
