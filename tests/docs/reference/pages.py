"""The plan of the reference, and its pages."""

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import griffe

from .declarations import all_classes, declarations, field, fields, find, is_protocol, signature, target
from .docstrings import fenced, returned, sections, summary

__all__ = ["BRIDGES", "PAGES", "Page", "Reference"]

_PACKAGE = Path(__file__).parents[3] / "aether_sync"
_LAST_LINE = "<!-- Made from the docstrings by `python -m tests.docs.reference`: edit those. -->"
#: Modules with public names of their own, which `aether_sync` itself does not have.
BRIDGES = (
    "contrib.celery",
    "contrib.django",
    "contrib.eventsourcing",
    "contrib.flask",
    "contrib.gunicorn",
    "contrib.opentelemetry",
    "contrib.prometheus",
    "contrib.sqlalchemy",
    "contrib.sse",
    "outbox",
    "testing",
)
_BUILTINS = {"AttributeError", "Exception", "TimeoutError", "ValueError"}
_KINDS = {"__enter__": "a context manager", "__next__": "an iterator", "__anext__": "an asynchronous iterator"}

Kind = griffe.DocstringSectionKind


@dataclass(frozen=True)
class Page:
    """A page of the reference. A name stands where the longest path that it begins with is."""

    name: str
    title: str
    about: str
    paths: tuple[str, ...]  # modules, or names in them, in the order in which they are shown
    overview: str | None = None  # the module whose docstring is shown before them, without its first line


PAGES = (
    Page(
        "bus",
        "The event bus",
        "`EventBus` connects the threads of one process, and `NATSEventBus` connects all nodes of a cluster.",
        ("bus", "nats_bus", "_bus.store_watch.VersionListener"),
    ),
    Page(
        "subscription",
        "Subscriptions",
        "A subscription is what `subscribe()` returns: an iterator over the events that it was asked for.",
        ("subscription",),
    ),
    Page(
        "events",
        "Events",
        "An event is an immutable fact about an actor.",
        ("events.Event", "events"),
    ),
    Page(
        "event-types",
        "Event types",
        "These are the classes of a program's events, their versions, and how older data becomes newer data.",
        ("event_types",),
    ),
    Page(
        "patterns",
        "Patterns and filters",
        "A filter says which events of its namespaces a subscription takes.",
        ("patterns.SubscriptionFilter", "patterns"),
    ),
    Page(
        "connection",
        "Connections",
        "A connection to a NATS cluster may be shared by several buses and stores.",
        ("connection.Connection", "connection"),
    ),
    Page(
        "metrics",
        "Metrics and reports",
        "These are the counts that `metrics()` and `stats()` return, and the report that `close()` returns.",
        ("metrics.Metrics", "metrics"),
    ),
    Page(
        "health",
        "Health and notices",
        "These are what `health()` returns, the web application that answers probes with it, and what callbacks get.",
        ("health.Health", "health", "notices"),
    ),
    Page(
        "stores",
        "Event stores",
        "An event store keeps the events of actors, in memory for one process or in JetStream for all nodes.",
        ("stores.event_store.EventStore", "stores.jetstream", "stores.memory", "stores.base.Follower", "stores"),
    ),
    Page(
        "repository",
        "Repositories",
        "A repository makes the states of actors of their events, and lets functions decide on them.",
        ("sourcing.repository.Repository", "sourcing.repository", "sourcing.scenario"),
    ),
    Page(
        "doctor",
        "The doctor",
        "The doctor looks at a server and at what a bus and a store need of it.",
        ("stores.doctor.diagnosis", "stores.doctor"),
    ),
    Page(
        "consumers",
        "Durable consumers",
        "A durable consumer delivers each event of a store to one of the processes that share its name.",
        (
            "stores.event_store.Consumer",
            *(f"stores.consumers{name}" for name in (".delivery", ".consumption", ".runner", "")),
        ),
    ),
    Page(
        "worker",
        "Workers",
        "A worker has the handlers, projections and periodic work of a program, which begin and end together.",
        ("worker.worker", "worker", "subscription_runner"),
    ),
    Page(
        "projections",
        "Projections",
        "A projection makes rows in a database of yours of the events of a store, each of which takes effect once.",
        (
            *(f"stores.projections.{name}" for name in ("projection", "sqlite", "dbapi", "checkpoints", "base")),
            "stores.projections",
        ),
    ),
    Page(
        "observing",
        "Context and instrumentation",
        "While an event is handled, log records and spans say which event it is. An observer sees all operations.",
        ("handling_context", "instrumentation"),
    ),
    Page(
        "errors",
        "Errors",
        "Every error that the library raises is an `AetherError`.",
        ("errors",),
        overview="errors",
    ),
    Page(
        "server",
        "A local server",
        "`NATSServer` and `NATSCluster` run nats-server for tests and development.",
        ("server.server", "server"),
    ),
    Page(
        "testing",
        "Testing",
        "`aether_sync.testing` has these names; the fixtures of the pytest plugin are objects of these classes.",
        ("testing._published", "testing._logs", "testing._link", "testing"),
    ),
    Page(
        "process",
        "The whole process",
        "These names are about the whole process: the end of iterations, the log, and the version.",
        ("_runtime", "_version"),
    ),
    Page(
        "read-your-writes",
        "Read your writes",
        "WSGI middleware by which a client reads what it has just written.",
        ("sourcing.read_your_writes",),
    ),
    Page(
        "flask",
        "Flask",
        "`aether_sync.contrib.flask` has this name; it needs the extra `flask`.",
        ("contrib.flask",),
    ),
    Page(
        "sqlalchemy",
        "SQLAlchemy",
        "`aether_sync.contrib.sqlalchemy` has these names; it needs the extra `sqlalchemy`.",
        ("contrib.sqlalchemy",),
    ),
    Page(
        "celery",
        "Celery",
        "`aether_sync.contrib.celery` has these names; it needs the extra `celery`.",
        ("contrib.celery._aether", "contrib.celery"),
    ),
    Page(
        "django",
        "Django",
        "`aether_sync.contrib.django` has these names; it needs the extra `django`. What is for tests, in "
        "`aether_sync.contrib.django.testing`, is shown in the [guide](../django.md#tests).",
        (
            "contrib.django.registry",
            "contrib.django._connections",
            "contrib.django._commits",
            "contrib.django._sse",
            "contrib.django._database",
            "contrib.django.outbox",
        ),
    ),
    Page(
        "outbox",
        "Outbox",
        "`aether_sync.outbox` has these names: the relay, and what it needs of a database.",
        ("outbox.relay", "outbox.sending", "outbox.rows", "outbox.database", "outbox"),
    ),
    Page(
        "eventsourcing",
        "The package eventsourcing",
        "`aether_sync.contrib.eventsourcing` has these names; it needs the extra `eventsourcing`.",
        ("contrib.eventsourcing._factory", "contrib.eventsourcing._datastore", "contrib.eventsourcing"),
    ),
    Page(
        "sse",
        "Server-sent events",
        "`aether_sync.contrib.sse` has these names, and `aether_sync.contrib.gunicorn` has `post_worker_init()`.",
        (
            *(f"contrib.sse{name}" for name in ("", "._stream", "._store_stream", "._stopping", "._counts")),
            "contrib.gunicorn",
        ),
    ),
    Page(
        "prometheus",
        "Prometheus",
        "`aether_sync.contrib.prometheus` has these names; it needs the extra `prometheus`.",
        ("contrib.prometheus._registration.register", "contrib.prometheus._http", "contrib.prometheus"),
    ),
    Page(
        "opentelemetry",
        "OpenTelemetry",
        "`aether_sync.contrib.opentelemetry` has this name; it needs the extra `opentelemetry`.",
        ("contrib.opentelemetry",),
    ),
)


class Reference:
    """All that is public, and the pages that describe it.

    Attributes:
        faults: What is wrong with the docstrings: one that griffe cannot read, a name that has none or has no page.
            Those of the texts are known when the pages have been made.
    """

    def __init__(self, package: Path = _PACKAGE, without: str = "contrib.celery") -> None:
        self.faults: list[str] = []
        # Things are told apart by their names, and two frameworks have an `Aether`: Celery has a reference of its own.
        self._of_celery = Reference(package, without="contrib.flask") if without == "contrib.celery" else self
        self._package = griffe.load(
            package.name, search_paths=[package.parent], try_relative_path=False, allow_inspection=False
        )
        self._public: dict[str, griffe.Object] = {}
        self._page_of: dict[str, Page] = {}
        places: dict[str, tuple[int, int]] = {}
        modules = [
            self._package,
            *(self._package[one] for one in BRIDGES if one != without and one.split(".")[0] in self._package.members),
        ]
        for module, name in ((one, str(name)) for one in modules for name in one.exports or ()):
            thing = target(module.members[name])
            found = _place(thing)
            if found is None:
                self.faults.append(f"{name}: no page of PAGES has {thing.canonical_path}")
                continue
            at, page = found
            self._public[name], self._page_of[name], places[name] = thing, page, (at, thing.lineno or 0)
        self._names = {
            page: sorted((name for name, own in self._page_of.items() if own is page), key=places.__getitem__)
            for page in PAGES
        }
        self._members = {
            name: self._described(thing) for name, thing in self._public.items() if isinstance(thing, griffe.Class)
        }

    def pages(self) -> dict[str, str]:
        """Return the text of each page, by the name of its file."""
        with _Complaints(self.faults):
            made = {page.name: _joined(self._for(page)._page(page)) for page in PAGES}
            self.faults += [one for one in self._of_celery.faults if one not in self.faults]
            return {f"{name}.md": text for name, text in {"index": _joined(self._index()), **made}.items()}

    # -- pages

    def _for(self, page: Page) -> "Reference":
        return self._of_celery if page.name == "celery" else self

    def _index(self) -> Iterator[str]:
        yield "# API reference"
        yield "Names are imported from `aether_sync`, unless their page names another module. Each is described here."
        for page in PAGES:
            yield f"## [{page.title}]({page.name}.md)"
            lines, own = [], self._for(page)
            for name in own._names[page]:
                text = own._text(summary(own._public[name]), name, "index")
                lines.append(f"- {own._link(name, 'index')}: {text}")
            yield "\n".join(lines)

    def _page(self, page: Page) -> Iterator[str]:
        yield f"# {page.title}"
        yield page.about
        if page.overview is not None:
            docstring = self._package[page.overview].docstring
            yield self._text(docstring.value.partition("\n")[2], "", page.name)
        for name in self._names[page]:
            thing = self._public[name]
            if thing.docstring is None:
                self.faults.append(f"{name}: {thing.canonical_path} has no docstring")
            yield f"## `{name}`"
            if isinstance(thing, griffe.Class):
                yield from self._class(name, thing, page.name)
            elif isinstance(thing, griffe.Module):
                yield from self._module(name, thing, page.name)
            else:
                yield _code(*declarations(thing, name))
                yield from self._documentation(thing, name, page.name)

    def _module(self, name: str, thing: griffe.Module, page: str) -> Iterator[str]:
        yield from self._documentation(thing, name, page)
        for function in map(str, thing.exports or ()):
            yield f"### `{name}.{function}`"
            yield _code(*declarations(target(thing.members[function]), function))
            yield from self._documentation(target(thing.members[function]), name, page)

    def _class(self, name: str, thing: griffe.Class, page: str) -> Iterator[str]:
        constructor = find(thing, "__init__")
        if isinstance(constructor, griffe.Function) and _is_made_by_users(thing, constructor):
            yield _code(signature(constructor, name))
        bases = [str(base).rpartition(".")[2] for base in thing.bases]
        shown = [self._link(one, page) for one in bases if one in self._public]
        shown += [f"`{one}`" for one in bases if one in _BUILTINS]
        if shown:
            yield f"Derives from {_enumerated(shown)}."
        yield from self._documentation(thing, name, page)
        if kinds := [kind for method, kind in _KINDS.items() if find(thing, method) is not None]:
            yield f"It is {_enumerated(kinds)}."
        for owner in dict.fromkeys(self._members[name].values()):
            if owner != name:
                same = (one for one in self._members[owner] if self._members[name].get(one) == owner)
                links = ", ".join(self._link(f"{owner}.{one}", page) for one in same)
                yield f"As in {self._link(owner, page)}: {links}."
        for member, owner in self._members[name].items():
            if owner == name:
                one = self._member(name, member)
                yield f"### `{name}.{member}`"
                yield _code(*declarations(one, member))
                yield from self._documentation(one, name, page)

    # -- docstrings

    def _documentation(self, thing: griffe.Object, scope: str, page: str) -> Iterator[str]:
        """Yield the parts of a docstring, and of a class the fields that it says nothing of."""
        found = sections(thing)
        for section in found:
            if section.kind is Kind.text:
                yield self._text(section.value, scope, page)
            elif section.kind is Kind.parameters:
                items = ((f"`{one.name}`", one.description) for one in section.value)
                yield self._list("Parameters", items, scope, page)
            elif section.kind is Kind.attributes:
                items = ((f"`{field(thing, one.name)}`", one.description) for one in section.value)
                yield self._list("Attributes", items, scope, page)
            elif section.kind is Kind.returns:
                text = " ".join(returned(thing, one) for one in section.value)
                yield f"Returns: {self._text(text, scope, page)}"
            elif section.kind is Kind.raises:
                items = ((self._text(f"``{one.annotation}``", scope, page), one.description) for one in section.value)
                yield self._list("Raises", items, scope, page)
            else:
                self.faults.append(f"{thing.path}: nothing is known of a section {section.kind.value!r}")
        says_fields = any(one.kind is Kind.attributes for one in found)
        if isinstance(thing, griffe.Class) and not says_fields and (names := fields(thing)):
            yield "\n".join(["Fields:", "", *(f"- `{field(thing, name)}`" for name in names)])

    def _list(self, title: str, items: Iterable[tuple[str, str]], scope: str, page: str) -> str:
        lines = (f"- {name}: {self._text(text, scope, page, indent='  ')}" for name, text in items)
        return "\n".join([f"{title}:", "", *lines])

    def _text(self, text: str, scope: str, page: str, indent: str = "") -> str:
        """Turn text into Markdown: what stands in double backticks becomes code, and a link if it is a public name."""
        linked: set[str] = set()

        def shown(found: re.Match[str]) -> str:
            key = self._meant(found[1], scope)
            if key is None or key in linked:
                return f"`{found[1]}`"
            linked.add(key)
            return self._link(key, page, found[1])

        paragraphs = []
        for paragraph in re.split(r"\n{2,}", fenced(text)):
            if not paragraph.startswith("```"):
                pieces = re.split(r"(``.+?``)", paragraph, flags=re.DOTALL)
                pieces[::2] = [one.replace("<", r"\<") for one in pieces[::2]]
                paragraph = "".join([re.sub(r"^``(.+)``$", shown, one, flags=re.DOTALL) for one in pieces])
            paragraphs.append(paragraph.replace("\n", f"\n{indent}"))
        return f"\n\n{indent}".join(paragraphs)

    def _meant(self, code: str, scope: str) -> str | None:
        """Return the public name that code in the docstring of a class or function stands for, its own aside."""
        name = code.removesuffix("()")
        owner, _, member = name.rpartition(".")
        described = self._members.get(owner or scope, {})
        if member in described:
            is_function = isinstance(self._member(described[member], member), griffe.Function)
            is_meant = is_function is code.endswith("()")  # `start` is an argument, where there is a `start()`
            return f"{described[member]}.{member}" if is_meant else None
        if name not in self._public or name == scope:
            return None
        is_word = name.islower() and not isinstance(self._public[name], griffe.Function)  # `bus` is mostly an argument
        return None if is_word else name

    # -- names

    def _described(self, thing: griffe.Class) -> dict[str, str]:
        """Return the public members that have a docstring, each with the name of the public class that describes it.

        A class that has all members of a protocol is described by it, too. What only a private class describes is shown
        with the most basic public class derived from that.
        """
        classes = all_classes(thing)
        names = dict.fromkeys(name for one in classes for name in one.members if not name.startswith("_"))
        others = [one for one in self._public.values() if isinstance(one, griffe.Class) and one not in classes]
        classes += [one for one in others if is_protocol(one) and _public_members(one) <= set(names)]
        classes.sort(key=lambda one: not self._is_public(one))
        found = {}
        for name in names:
            for one in classes:
                if name in one.members and one.members[name].docstring is not None:
                    owners = (other for other in classes if self._is_public(other) and one in all_classes(other))
                    *_, found[name] = (other.name for other in owners)
                    break
        return found

    def _is_public(self, thing: griffe.Object) -> bool:
        return self._public.get(thing.name) is thing

    def _member(self, owner: str, name: str) -> griffe.Object:
        thing = self._public[owner]
        assert isinstance(thing, griffe.Class)
        with_it = (target(one.members[name]) for one in all_classes(thing) if name in one.members)
        return next(one for one in with_it if one.docstring is not None)

    def _link(self, key: str, page: str, code: str | None = None) -> str:
        """Return a link to where a public name or a member of one is described."""
        owner, _, member = key.partition(".")
        if code is None:
            code = key
            if member:
                code = f"{member}()" if isinstance(self._member(owner, member), griffe.Function) else member
        there = self._page_of[owner].name
        anchor = re.sub(r"[^\w-]", "", key.lower())  # as GitHub makes it of a heading
        return f"[`{code}`]({'' if there == page else f'{there}.md'}#{anchor})"


def _place(thing: griffe.Object) -> tuple[int, Page] | None:
    """Return the page of a thing, and how far down it stands there."""
    path = f"{thing.canonical_path.partition('.')[2]}."
    fitting = [
        (len(one), at, page) for page in PAGES for at, one in enumerate(page.paths) if path.startswith(f"{one}.")
    ]
    if not fitting:
        return None
    _, at, page = max(fitting, key=lambda one: one[0])
    return at, page


def _public_members(thing: griffe.Class) -> set[str]:
    return {name for name in thing.members if not name.startswith("_")}


def _is_made_by_users(thing: griffe.Class, constructor: griffe.Function) -> bool:
    """Whether the docstring of a class says how to make one; of one without parameters it need not."""
    needs_nothing = len(constructor.parameters) == 1 and constructor.parent is thing
    return needs_nothing or any(one.kind is Kind.parameters for one in sections(thing))


def _enumerated(items: list[str]) -> str:
    *others, last = items
    return f"{', '.join(others)} and {last}" if others else last


def _code(*lines: str) -> str:
    return "\n".join(["```py", *lines, "```"])


def _joined(parts: Iterable[str]) -> str:
    return "\n\n".join([*filter(None, parts), _LAST_LINE]) + "\n"


class _Complaints(logging.Handler):
    """Collects what griffe says of docstrings that it cannot read, within a ``with``."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() not in self._found:
            self._found.append(record.getMessage())

    def __enter__(self) -> None:
        logging.getLogger("griffe").addHandler(self)

    def __exit__(self, *error: object) -> None:
        logging.getLogger("griffe").removeHandler(self)
