"""The embedded default: a scripted teacher and a shipped student for the pocket tasks (`tasks/pocket.py`)."""

from pathlib import Path

STUDENT = Path(__file__).with_name("student")
