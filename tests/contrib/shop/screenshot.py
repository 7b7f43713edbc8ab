"""Takes the pictures of the live page: ``python -m tests.contrib.shop.screenshot [FOLDER]``.

The guide's own is renewed; with a folder, pictures of all that is worth a look are written there instead.
"""

import base64
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from selenium.webdriver import Chrome

import aether_sync

from ...support.common import becomes
from .serving import Shop, browsing, serving

GUIDE = Path(aether_sync.__file__).parent / "guide"
NAME = "order-service.webp"
ORDERS = [
    ("Ada", 3, "coffee"),
    ("Grace", 1, "tea"),
    ("Alan", 12, "cocoa"),
    ("Barbara", 2, "coffee"),
    ("Edsger", 1, "tea"),
]


def take(browser: Chrome, path: Path) -> None:
    """Write what is to be seen, as WebP."""
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "webp", "quality": 85})  # type: ignore[no-untyped-call]
    path.write_bytes(base64.b64decode(shot["data"]))
    print(f"{path}: {path.stat().st_size:,} bytes")


def show(browser: Chrome, width: int, height: int, *, dark: bool = False, scale: float = 1) -> None:
    """Make the browser look like a device."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)  # type: ignore[no-untyped-call]
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    features = [scheme, {"name": "prefers-reduced-motion", "value": "reduce"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})  # type: ignore[no-untyped-call]


def open_page(browser: Chrome, shop: Shop) -> None:
    """Open the page, and let things happen."""
    browser.get(shop.url)
    state(browser, "live")
    for number, (customer, items, article) in enumerate(ORDERS, 1):
        shop.place(48_210 + number, customer, items, article)
    for number in (1, 2, 4):
        shop.ask(f"/orders/{48_210 + number}/ship", {})
    becomes(lambda: browser.execute_script("return document.querySelectorAll('#events li').length"), 8)  # type: ignore[no-untyped-call]


def state(browser: Chrome, wanted: str) -> None:
    """Wait until the page says that it is connected, or that it is not."""
    becomes(lambda: browser.execute_script("return document.body.dataset.state"), wanted)  # type: ignore[no-untyped-call]


def main(folder: Path | None) -> None:
    """Take them."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shop, browser = stack.enter_context(serving(place / "shop", "flask")), stack.enter_context(browsing(place))
        show(browser, 1_000, 740)
        open_page(browser, shop)
        if folder is None:
            take(browser, GUIDE / NAME)
            return
        take(browser, folder / "desktop-light.webp")
        show(browser, 1_000, 740, dark=True)
        take(browser, folder / "desktop-dark.webp")
        for dark in (False, True):
            show(browser, 390, 844, dark=dark, scale=2)
            take(browser, folder / f"phone-{'dark' if dark else 'light'}.webp")
        shop.end_web()
        state(browser, "lost")
        take(browser, folder / "phone-dark-lost.webp")
        show(browser, 1_000, 740)
        take(browser, folder / "desktop-light-lost.webp")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
