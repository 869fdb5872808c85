"""Who is told what happens next: the line with a spinner, or nobody; and the story of a run on one machine."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

Told = Callable[[str], None]
"""Takes a few words on what begins now. `note: ` before them says that they are to stay."""


def nobody(_: str) -> None:
    """Nobody is told."""


class Story:
    """Tells what happens, with the time since the beginning."""

    def __init__(self, console: Console) -> None:
        """Begins."""
        self._console, self._began = console, time.monotonic()

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def tell(self, text: str) -> None:
        """One line."""
        self._console.print(f"[dim]{self.now():6.1f} s[/]  {escape(text)}")
