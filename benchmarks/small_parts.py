"""`rowmill` with small parts, so that short runs write many of them: for `kills.py`.

python benchmarks/small_parts.py ROWS run JOB.toml ...
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline import cli
from pipeline.executors import online
from pipeline.store import journal as cache

if __name__ == "__main__":
    rows = int(sys.argv.pop(1))
    online.PART_ROWS, cache.OFTEN = rows, rows // 2
    cli.main()
