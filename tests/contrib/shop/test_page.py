"""The live page of the shop in Chromium: through restarts and cuts, each event is there once, and in order."""

import signal
from collections.abc import Callable, Iterator

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from aether_sync.testing import BrokenLink

from ...support.common import becomes, eventually
from .serving import Shop, browsing, serving

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.timeout(600)]

WATCH = """
window.states = [document.body.dataset.state];
new MutationObserver(() => states.push(document.body.dataset.state)).observe(
    document.body, {attributes: true, attributeFilter: ["data-state"]});
"""


class Page:
    """What somebody sees who looks at the page."""

    def __init__(self, browser: Chrome, url: str) -> None:
        self._browser = browser
        browser.get(url)
        self.becomes("live")
        browser.execute_script(WATCH)  # type: ignore[no-untyped-call]

    def becomes(self, state: str) -> None:
        """Wait until the page says so."""
        becomes(lambda: self._run("return document.body.dataset.state"), state)

    def states(self) -> list[str]:
        """The states since it was opened, each change once."""
        found: list[str] = self._run("return states")
        return [one for before, one in zip(["", *found], found, strict=False) if one != before]

    def said(self) -> str:
        return str(self._browser.find_element(By.ID, "state").text)

    def events(self) -> list[int]:
        """The events that are shown, from the first to the newest."""
        shown = "return [...document.querySelectorAll('#events li')].map(one => +one.dataset.id).reverse()"
        return self._run(shown)  # type: ignore[no-any-return]

    def orders(self) -> dict[str, str]:
        """The status of each order that is shown."""
        rows = "return [...document.querySelectorAll('#orders li')].map(one => [one.id, one.dataset.status])"
        found = self._run(rows)
        assert len(dict(found)) == len(found), "an order is there twice"
        return dict(found)

    def _run(self, script: str) -> object:
        return self._browser.execute_script(script)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module", params=["flask", "django"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A shop that runs."""
    with serving(tmp_path_factory.mktemp("shop"), request.param) as shop:
        yield shop


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Chromium."""
    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def link(shop: Shop) -> Iterator[BrokenLink]:
    """Stands between the browser and the web server."""
    with BrokenLink(f"nats://127.0.0.1:{shop.port}") as link:
        yield link


def restart_nats(shop: Shop, link: BrokenLink, page: Page) -> None:
    shop.server.stop()
    page.becomes("away")
    assert "A part of the shop is away" in page.said()
    shop.server.start()


def restart_workers(shop: Shop, link: BrokenLink, page: Page) -> None:
    shop.web.send_signal(signal.SIGHUP)
    page.becomes("lost")


def restart_gunicorn(shop: Shop, link: BrokenLink, page: Page) -> None:
    shop.end_web()
    page.becomes("lost")
    assert "Connection lost" in page.said()
    shop.start_web()
    shop.await_answer()


def cut(shop: Shop, link: BrokenLink, page: Page) -> None:
    link.cut()
    page.becomes("lost")
    link.restore()


def stall(shop: Shop, link: BrokenLink, page: Page) -> None:
    link.stall()  # as on a phone in a tunnel: nobody is told that the connection is dead
    page.becomes("lost")
    link.restore()


@pytest.mark.parametrize("fail", [restart_nats, restart_workers, restart_gunicorn, cut, stall])
def test_each_event_is_shown_once_and_in_order(
    shop: Shop, browser: Chrome, link: BrokenLink, fail: Callable[[Shop, BrokenLink, Page], None]
) -> None:
    page = Page(browser, f"http://127.0.0.1:{link.port}/")
    before = shop.ask("/orders")["after"]
    first, last = before + 1, before + 100_000  # numbers of orders that no other test has
    with shop.ordering(first):
        eventually(lambda: len(page.events()) > 3, "events on the page")
        fail(shop, link, page)
        page.becomes("live")
        shown = len(page.events())
        eventually(lambda: len(page.events()) > shown + 3, "further events on the page")
    shop.place(last)
    eventually(lambda: f"order-{last}" in page.orders(), "the last order")
    found = page.events()
    eventually(lambda: shop.ask("/orders")["after"] == found[-1], "the table")
    assert found == list(range(before + 1, found[-1] + 1))
    numbers = {int(name.removeprefix("order-")): status for name, status in page.orders().items()}
    assert {status for number, status in numbers.items() if first <= number < first + 1_000} == {"shipped"}
    assert page.states()[0] == page.states()[-1] == "live"
    assert set(page.states()) & {"lost", "away"}


def test_an_order_is_placed_and_shipped_on_the_page(shop: Shop, browser: Chrome) -> None:
    page = Page(browser, shop.url)
    before = page.orders()
    browser.find_element(By.NAME, "customer").send_keys("<b>Eve</b>")
    browser.find_element(By.CSS_SELECTOR, "form button").click()
    eventually(lambda: len(page.orders()) == len(before) + 1, "the order")
    (name,) = page.orders().keys() - before.keys()
    assert "coffee\n<b>Eve</b>" in browser.find_element(By.ID, name).text
    browser.find_element(By.CSS_SELECTOR, f"#{name} .ship").click()
    eventually(lambda: page.orders()[name] == "shipped", "that it is shipped")
    eventually(lambda: "Dear <b>Eve</b>" in shop.log, "the mail")
    browser.refresh()
    becomes(lambda: page.orders().get(name), "shipped")


def test_what_the_shop_does_not_take_is_said(shop: Shop, browser: Chrome) -> None:
    page = Page(browser, shop.url)
    shop.end_web()
    try:
        page.becomes("lost")
        browser.find_element(By.NAME, "customer").send_keys("Ada")
        browser.find_element(By.CSS_SELECTOR, "form button").click()
        becomes(lambda: browser.find_element(By.ID, "answer").text, "No answer has come. Try again.")
    finally:
        shop.start_web()
        shop.await_answer()
    page.becomes("live")
    before = page.orders()
    browser.find_element(By.CSS_SELECTOR, "form button").click()
    eventually(lambda: len(page.orders()) == len(before) + 1, "the order")
    becomes(lambda: browser.find_element(By.ID, "answer").text, "")
