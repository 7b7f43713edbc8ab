"""Which view answers what. A web server in front of this one would answer for the files of the page."""

from pathlib import Path

from django.urls import path
from django.views.static import serve

from . import views

PAGE = {"document_root": Path(__file__).parent / "page"}

urlpatterns = [
    path("", serve, {**PAGE, "path": "index.html"}),
    path("page/<path:path>", serve, PAGE),
    path("orders", views.newest),
    path("orders/<int:number>", views.place),
    path("orders/<int:number>/ship", views.ship),
    path("events", views.events),
    path("healthz", views.health),
]
