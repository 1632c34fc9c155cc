"""A page in headless Chromium, driven over the pipe of its DevTools protocol.

`Browser.open` shows a file as a device would; a `Shown` page answers expressions of JavaScript and
knows which requests and messages there were.
"""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIMIT_S = 300.0  # for an answer
PROGRAMS = ("chromium-headless-shell", "chromium")


def program() -> str | None:
    """Return the path of a Chromium; None if there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """A running Chromium.

    Parameters
    ----------
    send, receive : int
        File descriptors of its pipe.
    log : Path
        What it writes to standard error, for the message if it ends.
    """

    def __init__(self, send: int, receive: int, log: Path) -> None:
        self._log = log
        self._send, self._receive, self._number, self._rest = send, receive, 0, b""
        self.events: list[dict[str, Any]] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        pages = [one["targetId"] for one in targets if one["type"] == "page"]
        target = pages[0] if pages else self.call("Target.createTarget", url="about:blank")
        target = target if isinstance(target, str) else target["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a command of the protocol; keep the events before it."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return dict(found["result"])
            self.events.append(found)

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + LIMIT_S
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._receive], [], [], max(end - time.monotonic(), 0))
            assert ready, f"no answer of Chromium within {LIMIT_S} s"
            chunk = os.read(self._receive, 1 << 20)
            assert chunk, f"Chromium has ended: {self._log.read_text(errors='replace')}"
            self._rest += chunk
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def open(self, path: Path, width: int, height: int, scheme: str = "light") -> None:
        """Show a file in a window of some size, for a reader who prefers light or dark."""
        self.events.clear()
        is_phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=2 if is_phone else 1, mobile=is_phone,
        )  # fmt: skip
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self.call("Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + LIMIT_S
        while not any(one.get("method") == "Page.loadEventFired" for one in self.events):
            assert time.monotonic() < end
            self.events.append(self._next())

    def ask(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    @property
    def requests(self) -> list[str]:
        """The addresses that the page has asked for, itself included; not what is in it."""
        sent = [one for one in self.events if one.get("method") == "Network.requestWillBeSent"]
        addresses = [one["params"]["request"]["url"] for one in sent]
        return [one for one in addresses if not one.startswith("data:")]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What the page, or Chromium about it, has written to the console."""
        methods = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [one for one in self.events if one.get("method") in methods]

    def press(self, key: str) -> None:
        """Press a key and release it."""
        code = {"Tab": 9, "Enter": 13}[key]
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key,
                windowsVirtualKeyCode=code, **text,
            )  # fmt: skip

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(found["data"]))

    def print(self) -> bytes:
        """Return the page as a PDF file."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True)["data"])


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Yield a Chromium that keeps its files in a folder, without a network of its own."""
    to_browser, from_browser = os.pipe(), os.pipe()
    command = [
        program() or "", "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
        "--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}", "about:blank",
    ]  # fmt: skip

    def give_pipes() -> None:  # Chromium reads descriptor 3, and writes to 4
        os.setsid()
        # Above 4 first, each to a free descriptor, as one of them may be 3 or 4 already.
        high = [fcntl.fcntl(one, fcntl.F_DUPFD, 5) for one in (to_browser[0], from_browser[1])]
        for one, wanted in zip(high, (3, 4), strict=True):
            os.dup2(one, wanted)

    with open(folder / "chromium.log", "wb") as log:
        process = subprocess.Popen(
            command, preexec_fn=give_pipes, close_fds=False, stderr=log,
            env=os.environ | {"HOME": str(folder)},
        )  # fmt: skip
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        yield Browser(to_browser[1], from_browser[0], folder / "chromium.log")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(to_browser[1])
        os.close(from_browser[0])
