"""A headless Chromium for tests, spoken to through its debugging pipe, which needs no package."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find():
    """The path of a browser, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """Opens one page and answers questions about it; a context manager.

    Args:
        profile: an empty folder for the browser's own files.
    """

    def __init__(self, profile: Path) -> None:
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()

        def connect():
            # The browser reads commands from descriptor 3 and writes answers to 4.
            os.dup2(to_read, 103)
            os.dup2(to_write, 104)
            os.dup2(103, 3)
            os.dup2(104, 4)

        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        options += [
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]
        self._process = subprocess.Popen(
            [find(), *options, "about:blank"],
            preexec_fn=connect,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._number, self._rest, self._events, self._session = 0, b"", [], None
        targets = self("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(30)
        os.close(self._to)
        os.close(self._from)

    def open(self, page: Path | str, width: int = 1200, height: int = 900) -> None:
        """Loads a file, or an address of this machine, and waits until all of it is there."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._events.clear()
        self("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._message())

    def ask(self, expression: str):
        """The value of a JavaScript expression in the page, run by the debugger and so not held by its policy."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 300) -> bool:
        """Whether a JavaScript expression becomes true in time."""
        until = time.monotonic() + seconds
        while not (found := self.ask(f"Boolean({expression})")) and time.monotonic() < until:
            time.sleep(0.2)
        return found

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        answer = self("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def pdf(self) -> bytes:
        """The page as it prints."""
        return base64.b64decode(self("Page.printToPDF")["data"])

    def requests(self) -> list[str]:
        """Addresses the page has asked for since it was opened."""
        events = [event for event in self._events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in events]

    def complaints(self) -> list[str]:
        """What the browser's console holds since the page was opened."""
        entries = [event["params"]["entry"] for event in self._events if event["method"] == "Log.entryAdded"]
        return [entry["text"] for entry in entries]

    def __call__(self, method: str, **parameters):
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._to, json.dumps(command).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._events.append(message)

    def _message(self) -> dict:
        while b"\0" not in self._rest:
            part = os.read(self._from, 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)
