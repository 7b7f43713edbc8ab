"""``Refusals``: to which subjects the server has lately refused what was published."""

__all__ = ["Refusals"]

_KEPT = 100  # however many subjects are refused


class Refusals:
    """Remembers subjects by the number of the refusal: the loop thread writes, any thread reads."""

    def __init__(self) -> None:
        self._subjects: dict[str, int] = {}  # the number of the latest one; the oldest is first
        self._unknown = 0  # the number of the latest one whose subject is not known, or not any more

    def note(self, subject: str | None, number: int) -> None:
        """Note a refusal; without a subject if that is not known."""
        if subject is None:
            self._unknown = number
            return
        self._subjects.pop(subject, None)
        self._subjects[subject] = number
        if len(self._subjects) > _KEPT:
            oldest = next(iter(self._subjects))
            self._unknown = max(self._unknown, self._subjects.pop(oldest))

    def since(self, number: int) -> frozenset[str] | None:
        """Return the subjects of the refusals after this one; None if those of some are not known."""
        found = frozenset(subject for subject, at in self._subjects.copy().items() if at > number)
        return None if self._unknown > number else found
