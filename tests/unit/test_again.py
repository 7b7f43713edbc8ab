"""An error that one thread has left and others raise."""

import traceback

import pytest

from aether_sync import errors
from aether_sync._runtime.again import again
from aether_sync._runtime.deadline import Deadline
from aether_sync._runtime.waits import Reply

from ..support.common import PATIENCE, make_event, run_threads

#: How to make one of each class that takes more than a message.
ARGUMENTS: dict[str, tuple[tuple[object, ...], dict[str, object]]] = {
    "DeliveryUncertainError": (("lost",), {"uncertain": 3, "rejected": 2, "reasons": ("no right", "too large")}),
    "VersionConflictError": (("order-1", 4, 7), {}),
    "EventTypeError": (("no value", "an id"), {}),
    "UnknownEventTypeError": (("no such type", "an id"), {}),
    "UnknownOutcomeError": (("no answer", (make_event(1),)), {}),
    "MalformedRecordError": (("no event", 12, b"{"), {}),
    "StreamMismatchError": (("another", ("one", "two")), {}),
}


def make(name: str) -> errors.AetherError:
    arguments, fields = ARGUMENTS.get(name, (("what went wrong",), {}))
    error: errors.AetherError = getattr(errors, name)(*arguments, **fields)
    error.add_note("a note")
    if isinstance(error, errors.VersionConflictError):
        error.expected_version = 3  # which its constructor does not take
    return error


def raised(error: BaseException, cause: BaseException | None) -> BaseException:
    """The error, as it is where it was raised: with a cause, a context and a traceback."""
    try:
        try:
            raise KeyError("the context")
        except KeyError:
            raise error from cause
    except BaseException as caught:
        return caught


@pytest.mark.parametrize("cause", [None, OSError("the cause")], ids=["no cause", "a cause"])
@pytest.mark.parametrize("name", errors.__all__)
def test_it_has_all_that_the_error_had_but_the_traceback(name: str, cause: OSError | None) -> None:
    error = raised(make(name), cause)
    copied = again(error)
    assert copied is not error
    assert type(copied) is type(error)
    assert (copied.args, vars(copied), str(copied)) == (error.args, vars(error), str(error))
    assert copied.__cause__ is cause
    assert copied.__context__ is error.__context__
    assert copied.__suppress_context__
    assert copied.__traceback__ is None


def test_what_is_noted_on_one_is_not_on_the_others() -> None:
    error = make("ConnectError")
    first, second = again(error), again(error)
    first.add_note("of one thread")
    assert (error.__notes__, second.__notes__) == (["a note"], ["a note"])


@pytest.mark.concurrent
def test_each_thread_that_waits_for_a_reply_has_a_traceback_of_its_own() -> None:
    reply: Reply[None] = Reply()
    reply.fail(make("DeliveryUncertainError"))
    caught: list[errors.DeliveryUncertainError] = []

    def wait() -> None:
        for _ in range(20):
            with pytest.raises(errors.DeliveryUncertainError) as info:
                reply.wait(Deadline(PATIENCE))
            caught.append(info.value)

    run_threads(wait, wait, wait)
    assert len({id(one) for one in caught}) == 60
    assert {len(traceback.extract_tb(one.__traceback__)) for one in caught} == {2}
    assert {(one.uncertain, one.rejected, one.reasons) for one in caught} == {(3, 2, ("no right", "too large"))}
