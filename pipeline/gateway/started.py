"""A server that the gateway starts, and starts again when it has ended; each time only of files
that are what was signed."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

from pipeline.engines import server
from pipeline.engines.server import Served
from pipeline.runtime import process

FIRST_S, LONGEST_S = 1.0, 60.0  # before it is started again
LONG_S = 300.0  # after which an end counts as the first again


class Started:
    """Of one tier. Its log is in a folder of its own, as long as the gateway runs. `key`: by which
    the server knows the gateway from other users of this machine. `damage` reads all files and says
    what is wrong with them."""

    def __init__(self, what: Served, damage: Callable[[], str | None]) -> None:
        self.url, self.key = "", secrets.token_urlsafe()
        self._what, self._damage = what, damage
        self._kept = ExitStack()
        self._folder = Path(self._kept.enter_context(tempfile.TemporaryDirectory()))
        self._process: subprocess.Popen[bytes] | None = None
        self._since = self._again_at = 0.0
        self._wait_s, self._last_words = FIRST_S, ""

    def keep_running(self, ready: bool) -> str | None:
        """Starts it unless it runs, and anew if it does not become `ready`. Why it does not run
        now; None if it does. Raises SetupError, EvaluationError for what cannot be started."""
        now = monotonic()
        if self._process is not None:
            stuck = not ready and now - self._since > server.START_TIMEOUT_S
            if self._process.poll() is None and not stuck:
                return None
            self._ended(self._process, now)
        if now < self._again_at:
            return self._last_words
        if wrong := self._damage():
            self._last_words = wrong
            self._later()
            return wrong
        port = server.free_port()  # another each time: somebody may have taken the last one
        self._process = server.started(self._what, port, self._folder, self._log, self.key)
        self.url, self._since = f"http://{server.HOST}:{port}/v1", now
        return None

    def _ended(self, ended: subprocess.Popen[bytes], now: float) -> None:
        server.stop(ended)  # whatever is left of its group
        self._process = None
        self._last_words = (
            f"the server ended with exit code {ended.returncode}. {process.last_words(self._log)}"
        )
        if now - self._since > LONG_S:
            self._wait_s = FIRST_S / 2
        self._later()

    def _later(self) -> None:
        """The next start is tried after a while, twice as long each time."""
        self._wait_s = min(2 * self._wait_s, LONGEST_S)
        self._again_at = monotonic() + self._wait_s

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"

    async def stop(self) -> None:
        """Waits for what it still answers, as long as the server itself does."""
        if self._process is not None:
            await asyncio.to_thread(server.stop, self._process)
            self._process = None
        self._kept.close()
