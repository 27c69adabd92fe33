"""What nanos2t/cli/exercises.py calls: the command, and a student's functions for --with."""

from exercises.commands import run
from exercises.loading import load_folder
from exercises.targets import student

__all__ = ["load_folder", "run", "student"]
