"""`python -m training`."""

from training.cli import entry

entry()
