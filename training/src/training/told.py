"""Who is told what happens next: the line with a spinner, or nobody."""

from collections.abc import Callable

Told = Callable[[str], None]
"""Takes a few words on what begins now. `note: ` before them says that they are to stay."""


def nobody(_: str) -> None:
    """Nobody is told."""
