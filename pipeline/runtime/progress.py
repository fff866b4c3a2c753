"""The last thing that a working tool wrote into its log, on the terminal: its progress bar with the
time left."""

from __future__ import annotations

import re
import shutil
import sys
import threading
import time
from pathlib import Path

EVERY_S, EVERY_S_IN_FILES = (
    1.0,
    60.0,
)  # a terminal's line is written over; in a file each is a line more
IN_RUN = "QUANTGATE_IN_RUN"  # set below `quantgate run`, which says itself that it was stopped
TAIL_BYTES = 4096
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0e-\x1f]")
CLEAR_LINE = "\r\x1b[2K"


class Progress:
    """Shows the last line of a log, with the minutes since the start, until it is stopped."""

    def __init__(self, label: str, log: Path) -> None:
        self._label, self._log, self._start = label, log, time.monotonic()
        self._live = sys.stderr.isatty()
        self._shown = ""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(EVERY_S if self._live else EVERY_S_IN_FILES):
            self._show(last_line(self._log))

    def _show(self, line: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        text = f"{self._label} {minutes}:{seconds:02}  {line}"
        if self._live:
            self._shown = text[: shutil.get_terminal_size().columns - 1]
            sys.stderr.write(f"{CLEAR_LINE}{self._shown}")
        else:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def stop(self) -> None:
        """Leaves nothing of a live line behind."""
        self._done.set()
        self._thread.join()
        if self._shown:
            sys.stderr.write(CLEAR_LINE)
            sys.stderr.flush()


def last_line(log: Path) -> str:
    """What stands last in a log; progress bars write over their line, so a carriage return ends one
    too."""
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - TAIL_BYTES))
        lines = re.split(r"[\r\n]", ESCAPES.sub("", file.read().decode(errors="replace")))
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
