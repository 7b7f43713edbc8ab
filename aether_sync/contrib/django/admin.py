"""The admin: what waits in the outbox, dead letters, and projections. Rows are looked at and never changed here."""

from collections import defaultdict
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import router
from django.db.models import BigIntegerField, Case, F, QuerySet, Value, When
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse

from ...errors import AetherError
from ...stores.jetstream import JetStreamEventStore
from ._connections import get_store
from ._settings import aliases
from .dead_letters import discard, find_all, retry
from .models import DeadLetter, OutboxEvent, ProjectionState
from .outbox import relay

__all__ = ["DeadLetterAdmin", "OutboxAdmin", "ProjectionAdmin", "ReadOnlyAdmin"]

_ASKED = 2.0  # seconds for the questions of a page
_RETRIED = 20.0  # seconds for the handlers of an action: less than the time-out of most web servers
_SHOWN = 100  # dead letters of each handler


class ReadOnlyAdmin(admin.ModelAdmin):
    """Shows rows, and changes none."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody may."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody may."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody may."""
        return False


def _may(request: HttpRequest, right: str) -> bool:
    user: Any = request.user
    return bool(user.has_perm(f"aether_sync.{right}"))


def _written() -> str:
    """Return the alias in which rows of the outbox are changed; what the pages show may be read from a replica."""
    return str(router.db_for_write(OutboxEvent))


@admin.register(OutboxEvent)
class OutboxAdmin(ReadOnlyAdmin):
    """What waits to be sent, and what is set aside: who may change it has it sent again, who may delete discards it."""

    list_display = ("id", "kind", "name", "count", "created_at", "set_aside_at", "error")
    list_filter = ("kind", ("set_aside_at", admin.EmptyFieldListFilter))
    search_fields = ("name",)
    actions = ("send_again", "discard")

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Who may change rows may."""
        return _may(request, "change_outboxevent")

    def has_discard_permission(self, request: HttpRequest) -> bool:
        """Who may delete rows may."""
        return _may(request, "delete_outboxevent")

    @admin.action(description="Send again what is set aside", permissions=["retry"])
    def send_again(self, request: HttpRequest, rows: QuerySet[OutboxEvent]) -> None:
        """Have rows that are set aside sent again, in their place."""
        count = relay(using=_written()).retry(*rows.values_list("id", flat=True))
        self.message_user(request, f"{count} wait to be sent again.", messages.SUCCESS)

    @admin.action(description="Discard what is set aside", permissions=["discard"])
    def discard(self, request: HttpRequest, rows: QuerySet[OutboxEvent]) -> None:
        """Delete rows that are set aside."""
        count = relay(using=_written()).discard(*rows.values_list("id", flat=True))
        self.message_user(request, f"{count} discarded.", messages.SUCCESS)


@admin.register(ProjectionState)
class ProjectionAdmin(ReadOnlyAdmin):
    """How far each projection is, and how far behind its store."""

    list_display = ("name", "stream", "sequence", "lag", "state")
    search_fields = ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProjectionState]:
        """Ask each store once how far it is."""
        ends = [When(stream=stream, then=Value(end)) for stream, end in _ends().items()]
        behind = Case(*ends, default=None, output_field=BigIntegerField()) - F("sequence")
        return super().get_queryset(request).annotate(behind=behind)

    @admin.display(description="lag", empty_value="unknown", ordering="behind")
    def lag(self, row: Any) -> int | None:
        """Events of all actors and types that the store has, and the projection does not."""
        return None if row.behind is None else max(0, row.behind)

    @admin.display(description="state")
    def state(self, row: ProjectionState) -> str:
        """What it does."""
        if row.stopped:
            return f"stopped: {row.reason}"
        return "active" if row.owner else "not running"


def _ends() -> dict[str, int]:
    found = {}
    for alias in aliases():
        store = get_store(alias)
        if isinstance(store, JetStreamEventStore):
            try:
                found[store.stream] = store.last_sequence(timeout=_ASKED)
            except AetherError:  # then the lag is not known
                continue
    return found


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnlyAdmin):
    """The dead letters of all handlers, which the stores keep; who may change them retries, who may delete discards."""

    change_list_template = "admin/aether_sync/deadletter/change_list.html"

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who has the permission may."""
        return _may(request, "view_deadletter")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show them, or do what was chosen."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            return self._act(request)
        context = {
            **self.admin_site.each_context(request),
            "title": "Dead letters",
            "opts": self.opts,
            "found": list(find_all(_SHOWN, _ASKED)),
            "may_retry": _may(request, "change_deadletter"),
            "may_discard": _may(request, "delete_deadletter"),
            **(extra_context or {}),
        }
        return TemplateResponse(request, self.change_list_template, context)

    def _act(self, request: HttpRequest) -> HttpResponse:
        acts = {"retry": ("change", self._retry), "discard": ("delete", self._discard)}
        right, act = acts.get(request.POST.get("action", ""), ("", None))
        if act is None or not _may(request, f"{right}_deadletter"):
            raise PermissionDenied
        chosen: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for one in request.POST.getlist("chosen"):
            alias, _, rest = one.partition("/")
            sequence, _, consumer = rest.partition("/")
            if sequence.isdecimal():
                chosen[alias, consumer].append(int(sequence))
        if not chosen:
            self.message_user(request, "Choose at least one dead letter.", messages.WARNING)
        for (alias, consumer), sequences in chosen.items():
            try:
                act(request, alias, consumer, sequences)
            except (AetherError, LookupError) as error:
                self.message_user(request, f"Handler {consumer!r}: {error}", messages.ERROR)
        return HttpResponseRedirect(request.get_full_path())

    def _discard(self, request: HttpRequest, alias: str, consumer: str, sequences: list[int]) -> None:
        count = discard(alias, consumer, sequences, _ASKED)
        self.message_user(request, f"{count} of {consumer!r} discarded.", messages.SUCCESS)

    def _retry(self, request: HttpRequest, alias: str, consumer: str, sequences: list[int]) -> None:
        done = retry(alias, consumer, sequences, _RETRIED)
        if done.handled:
            self.message_user(request, f"{len(done.handled)} of {consumer!r} handled.", messages.SUCCESS)
        for sequence, reason in done.failed.items():
            self.message_user(request, f"Event {sequence} of {consumer!r} has failed again: {reason}", messages.ERROR)
        if done.missing:
            text = f"{len(done.missing)} of {consumer!r} cannot be had just now: try again in half a minute."
            self.message_user(request, text, messages.WARNING)
        if done.gone:
            text = f"{len(done.gone)} of {consumer!r} gone already: handled or discarded by somebody else."
            self.message_user(request, text, messages.WARNING)
