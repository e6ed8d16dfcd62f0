"""Whether the input still is what it was, looked at while a run asks: no row of an old one is paid for."""

import time
from dataclasses import dataclass, field

from pipeline.input.source import Source

FEW = 100  # files that are looked at each time
EVERY = 30.0  # seconds between two looks at more of them


@dataclass(slots=True)
class Lookout:
    """Looks at the files of an input. One thread at a time."""

    source: Source
    changed: bool = False
    _next: float = field(default=0.0, repr=False)

    def look(self) -> bool:
        """Tell whether the input was changed since it was opened; of many files later."""
        if not self.changed and (len(self.source.files) <= FEW or time.monotonic() >= self._next):
            self.changed = self.source.changed
            self._next = time.monotonic() + EVERY
        return self.changed
