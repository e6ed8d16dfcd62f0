"""The results of a batch: downloaded as a file of the run folder, and read from there into the journal."""

from pathlib import Path

from pipeline.batch import Batch
from pipeline.disk import whole_file
from pipeline.errors import StoreError
from pipeline.executors.intake import Intake, Taken
from pipeline.flow import Failure
from pipeline.gemini.batches import Absent, Batches
from pipeline.store.batches import Paths

FILE_LIFE = 172_800.0  # seconds that the API keeps files
LARGER = 4  # times that results are expected to be as large as requests, at most


def is_past(batch: Batch, now: float) -> bool:
    """Tell whether a job ended so long ago that the API no longer has its results."""
    return now - (batch.ended or batch.since) > FILE_LIFE


class Results:
    """Fetches results, and takes in what was fetched. Both methods raise StoreError when the disk fails."""

    def __init__(self, api: Batches, paths: Paths, intake: Intake) -> None:
        self._api = api
        self._paths = paths
        self._intake = intake

    async def fetch(self, batch: Batch) -> Absent | Failure | None:
        """Download the results of a batch, or say why not; the file appears whole or not at all."""
        target = self._paths.results(batch.number)
        try:
            with whole_file(target) as draft:
                failure = await self._api.fetch(batch.results, draft, LARGER * batch.size)
                if failure is not None:
                    raise _NotFetchedError(failure)
        except _NotFetchedError as error:
            return error.failure
        except OSError as exc:
            raise _unusable(target, exc) from exc
        return None

    def take(self, batch: Batch) -> Taken:
        """Put the results of a batch into the journal; nothing where it has none or their file is gone."""
        if not batch.results:
            return Taken()
        path = self._paths.results(batch.number)
        try:
            return self._intake.take(batch, path)
        except FileNotFoundError:
            return Taken()
        except OSError as exc:
            raise _unusable(path, exc) from exc


class _NotFetchedError(Exception):
    """Leaves no file behind."""

    def __init__(self, failure: Absent | Failure) -> None:
        super().__init__()
        self.failure = failure


def _unusable(path: Path, exc: OSError) -> StoreError:
    return StoreError(
        f"`{path}` cannot be used: {exc}",
        "free some space if the disk is full, then run the same command again: results can be fetched again",
    )
