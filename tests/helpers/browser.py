"""A headless Chromium for tests, driven over the WebDriver protocol with nothing but the standard library."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Without them Chromium looks for servers of its maker at every start.
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


@dataclass(frozen=True)
class Browser:
    """One session.

    Args:
        address: Of the session at the driver.
    """

    address: str

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return _ask(method, f"{self.address}/{path}", body)

    def open(self, page: Path, *, width: int, dark: bool = False) -> None:
        """Show a page in a window of so many CSS pixels."""
        self.visit(page.absolute().as_uri(), width=width, dark=dark)

    def visit(self, address: str, *, width: int, dark: bool = False) -> None:
        """Show the page at an address in a window of so many CSS pixels."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setDeviceMetricsOverride", size)
        self._devtools("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.ask("POST", "url", {"url": address})

    def run(self, script: str) -> Any:
        """Return what a script in the page returns."""
        return self.ask("POST", "execute/sync", {"script": script, "args": []})

    def wait(self, script: str, *, seconds: float = 60) -> Any:
        """Return the first true answer of a script in the page; fail if there is none within so many seconds."""
        end = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < end, f"{script} stayed {found!r}; the page says: {self.text('body')}"
            time.sleep(0.1)
        return found

    def text(self, selector: str) -> str:
        """Return the visible text of the first element of a selector."""
        return str(self.run(f"return document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def click(self, selector: str) -> None:
        """Click on the first element of a selector, as a visitor does."""
        self.ask("POST", f"element/{self._element(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Empty the first field of a selector, and type a text into it."""
        element = self._element(selector)
        select_all = "\ue009a\ue000"  # Control and A, then no key
        self.ask("POST", f"element/{element}/value", {"text": f"{select_all}\ue003{text}"})

    def _element(self, selector: str) -> str:
        found = self.ask("POST", "element", {"using": "css selector", "value": selector})
        return str(next(iter(found.values())))

    def complaints(self) -> list[str]:
        """Return what the console says since it was last asked: script errors, refused or missing resources."""
        return [entry["message"] for entry in self.ask("POST", "se/log", {"type": "browser"})]

    def screenshot(self) -> bytes:
        """Return the whole page, not only what the window shows, as a PNG file."""
        found = self._devtools("Page.captureScreenshot", {"captureBeyondViewport": True})
        return base64.b64decode(found["data"])

    def _devtools(self, command: str, params: Mapping[str, Any]) -> Any:
        return self.ask("POST", "goog/cdp/execute", {"cmd": command, "params": params})


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """Start a browser with an empty profile in a folder, and end it again.

    Raises:
        FileNotFoundError: If there is no Chromium or no ChromeDriver.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        raise FileNotFoundError(
            f"expected chromium and chromedriver on PATH, found {chromium} and {driver}; "
            "Debian has them in the packages chromium and chromium-driver"
        )
    log = folder / "driver.log"
    process = subprocess.Popen([driver, "--port=0", f"--log-path={log}"], stdout=subprocess.PIPE, text=True)
    try:
        address = f"http://127.0.0.1:{_port(process)}/session"
        options = {"binary": chromium, "args": [*ARGUMENTS, f"--user-data-dir={folder / 'profile'}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = _ask("POST", address, {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        browser = Browser(f"{address}/{session}")
        yield browser
        browser.ask("DELETE", "")
    finally:
        process.terminate()
        process.wait(timeout=20)


def _port(process: subprocess.Popen[str]) -> int:
    """Return the port that the driver says it chose."""
    assert process.stdout is not None
    end = time.monotonic() + 60
    for line in process.stdout:
        if "started successfully on port" in line:
            return int(line.rstrip(". \n").rpartition(" ")[2])
        if time.monotonic() > end:
            break
    raise RuntimeError("expected ChromeDriver to say its port, found that it ended or said nothing")


def _ask(method: str, address: str, body: Mapping[str, Any] | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        address.rstrip("/"), data=data, method=method, headers={"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=120) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{method} {address}: {error.read().decode()}") from error
