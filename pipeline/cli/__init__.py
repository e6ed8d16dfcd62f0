"""The command line: builds, calls one function of the library, prints, and maps errors to exit codes."""

from pipeline.cli import caching, calibrating, estimating, folders, jobs, serving
from pipeline.cli.app import main

__all__ = ["caching", "calibrating", "estimating", "folders", "jobs", "main", "serving"]
