"""A Django project for the tests of this folder, in this process and in others; Django is set up at most once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aether_sync import NATSServer

from ...support.django import Project, set_up
from ...support.places import running_postgres

set_up()  # before modules of tests import models


@pytest.fixture(scope="session", autouse=True)  # before the guards that look for what a test leaves behind
def django_project(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The databases are files of SQLite, with all tables."""
    from django.core.management import call_command

    for alias in "default", "other":
        call_command("migrate", database=alias, run_syncdb=True, verbosity=0)


@pytest.fixture(scope="session")
def postgres_port() -> Iterator[str]:
    """The port of a PostgreSQL server for all tests that do not harm it."""
    with running_postgres() as port:
        yield port


@pytest.fixture(scope="session", autouse=True)
def _postgres_in_time(request: pytest.FixtureRequest) -> None:
    """Start PostgreSQL, if it is used at all, before the guards look for what a test leaves behind."""
    if any("postgres" in one.nodeid for one in request.session.items):
        request.getfixturevalue("postgres_port")


@pytest.fixture(autouse=True)
def database(django_project: None) -> Iterator[None]:
    """The tables are empty before and after, and no connection stays open."""
    from django.apps import apps
    from django.db import connections

    yield
    for alias in "default", "other":
        for name in "shop", "aether_sync":
            for model in apps.get_app_config(name).get_models():
                if model._meta.managed:
                    model._default_manager.using(alias).all().delete()
    connections.close_all()


@pytest.fixture
def aether(server: NATSServer, prefix: str) -> Iterator[None]:
    """The alias ``default`` of ``AETHER`` is at the server of all tests, under a name of the test's own."""
    from django.test import override_settings

    with override_settings(AETHER={"default": {"URL": server.url, "STREAM": prefix, "PREFIX": f"{prefix}-bus"}}):
        yield


@pytest.fixture
def project(server: NATSServer, prefix: str, tmp_path: Path) -> Iterator[Project]:
    """The project in a folder of its own, whose commands run as processes, on SQLite."""
    with Project(tmp_path, server.url, prefix) as project:
        yield project
