"""A headless Chromium of Debian's with one page, driven over a pipe.

SCREENSHOTS=FOLDER keeps pictures of the pages there that tests take pictures of.
Chrome DevTools Protocol (https://chromedevtools.github.io/devtools-protocol/): commands, answers and events are JSON
objects that end with NUL, on descriptors 3 and 4 of the browser (--remote-debugging-pipe): no port, no library.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from native.errors import StackError
from tests.support.processes import kill_tree

_SECONDS = 60
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    # All frames in one process: one session sees the requests of each.
    *("--disable-features=IsolateOrigins,site-per-process", "--disable-site-isolation-trials"),
    "--remote-debugging-pipe",
)


class Chromium:
    """As a context manager it runs for the block. Every host name leads to `port` on this machine.

    `events` are the page's so far, in order. Raises StackError where there is no Chromium, or a command fails.
    """

    def __init__(self, profile: Path, port: int) -> None:
        self._options = (f"--user-data-dir={profile}", f"--host-resolver-rules=MAP * 127.0.0.1:{port}")
        self.events: list[dict[str, Any]] = []
        self._number = 0
        self._rest = b""
        self._session: dict[str, str] = {}

    def __enter__(self) -> Self:
        if shutil.which("chromium") is None:
            raise StackError("Chromium is not installed: apt-get install chromium")
        (browser_in, to), (from_, browser_out) = os.pipe(), os.pipe()
        # Away from 3 and 4, which the shell gives to the browser.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (browser_in, browser_out)]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "-", "chromium", *_OPTIONS, *self._options],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (browser_in, browser_out, *ends):
            os.close(end)
        self._to, self._from = os.fdopen(to, "wb"), from_
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        except BaseException:
            self.__exit__()
            raise
        self._session = {"sessionId": attached["sessionId"]}
        return self

    def __exit__(self, *_: object) -> None:
        kill_tree(self._process)
        self._process.wait()
        self._to.close()
        os.close(self._from)

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """What the browser answers to a command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        deadline = time.monotonic() + _SECONDS
        while (answer := self._next(deadline)) is None or answer.get("id") != self._number:
            if time.monotonic() > deadline:
                raise StackError(f"Chromium did not answer {method} within {_SECONDS} s")
        if "error" in answer:
            raise StackError(f"Chromium refused {method}: {answer['error']}")
        return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; a promise's where it is one."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise StackError(f"the page raised {result['exceptionDetails']}")
        return result["result"].get("value")

    def picture(self, name: str, width: int = 1400, height: int = 900) -> None:
        """Keep a picture of the whole page, in a window of this size, where SCREENSHOTS names a folder."""
        if folder := os.environ.get("SCREENSHOTS"):
            size = {"width": width, "height": height, "screenWidth": width, "screenHeight": height}
            self.call("Emulation.setDeviceMetricsOverride", deviceScaleFactor=1, mobile=False, **size)
            shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
            Path(folder, f"{name}.png").write_bytes(base64.b64decode(shot))

    def settle(self, seconds: float) -> None:
        """Wait until nothing was heard of the page for so long."""
        deadline = time.monotonic() + _SECONDS
        while self._next(time.monotonic() + seconds) is not None:
            if time.monotonic() > deadline:
                raise StackError(f"the page was never quiet for {seconds} s")

    def _next(self, deadline: float) -> dict[str, Any] | None:
        """The next message; one without a number is an event and kept. None at the deadline."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            if not (read := os.read(self._from, 1 << 20)):
                raise StackError("Chromium ended")
            self._rest += read
        raw, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        if "id" not in message:
            self.events.append(message)
        return message
