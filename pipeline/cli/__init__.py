"""The command line: builds, calls one function of the library, prints, and maps errors to exit codes."""

import sys

try:
    from pipeline.cli import caching, calibrating, cancelling, estimating, folders, jobs, serving
    from pipeline.cli.app import main
except KeyboardInterrupt:  # libraries take a second to load, and nobody else listens yet
    sys.stderr.write("stopped before anything was done: run the same command again\n")
    sys.exit(3)

__all__ = ["caching", "calibrating", "cancelling", "estimating", "folders", "jobs", "main", "serving"]
