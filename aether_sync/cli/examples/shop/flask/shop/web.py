"""The web server: orders are placed and shipped here, and the page shows them while that happens."""

from collections.abc import Callable
from functools import partial

from aether_sync import Repository, RetryableError, UnknownOutcomeError
from aether_sync.contrib.flask import Aether
from flask import Blueprint, Flask, Response, request

from . import table
from .orders import Order, OrderError, actor_of, evolve, place, ship, types

aether = Aether(types=types)
shop = Blueprint("shop", __name__, static_folder="page", static_url_path="/page")


def create_app() -> Flask:
    app = Flask(__name__, static_folder=None)
    app.config["AETHER_STREAM"] = "shop"
    app.config.from_prefixed_env()  # FLASK_AETHER_URL=nats://...
    aether.init_app(app)
    app.register_blueprint(shop)
    with app.app_context():
        orders = table.projection(aether.store)
    app.register_blueprint(aether.health_blueprint(partial(table.health, orders)))  # /healthz and /livez
    table.create()
    return app


@shop.get("/")
def index() -> Response:
    return shop.send_static_file("index.html")


@shop.get("/orders")
def orders() -> dict[str, object]:
    newest = table.newest()
    return {"orders": newest, "after": newest[0]["sequence"] if newest else 0}


@shop.get("/events")
def events() -> Response:
    return aether.sse(actors="order-*", after=request.args.get("after"))


@shop.post("/orders/<int:number>")
def place_order(number: int) -> tuple[str, int]:
    form = request.form
    return decide(number, place, form["customer"], form.get("items", 0, int), form["article"])


@shop.post("/orders/<int:number>/ship")
def ship_order(number: int) -> tuple[str, int]:
    return decide(number, ship)


def decide(number: int, decision: Callable[..., object], *args: object) -> tuple[str, int]:
    repository = Repository(aether.store, initial=Order, evolve=evolve)
    key = request.headers.get("Idempotency-Key", "")  # a request that is sent again has no further effect
    repository.decide(actor_of(number), decision, *args, command_id=key, timeout=2.0)
    return "", 204


@shop.errorhandler(OrderError)
def refused(error: OrderError) -> tuple[str, int]:
    return str(error), 409


@shop.errorhandler(RetryableError)
@shop.errorhandler(UnknownOutcomeError)
def unavailable(error: Exception) -> tuple[str, int]:
    return "The shop cannot be reached. Try again.", 503
