"""Files of text as they can be read: checked, and without their bad records where the job leaves these out.

A file is read once as long as nothing is wrong with it. Else its bad records are found, and a copy without
them is read in its place.
"""

from pathlib import Path

from pipeline.errors import ChangedError, InputError
from pipeline.input.bad import BadRows
from pipeline.input.delimited import Delimited, check, stray
from pipeline.input.faults import Faults
from pipeline.input.files import Files, translated
from pipeline.input.ndjson import sift_ndjson
from pipeline.input.sifting import Sifted, add_doubtful, sift
from pipeline.scratch import Column


def checked(files: Files) -> tuple[list[Delimited], dict[Path, Column]]:
    """Check CSV or TSV files; return what was found, and the bad records of each file that has any."""
    if files.bad is None:
        return [_check(files, path) for path in files.paths], {}
    found, sifting = dict[Path, Delimited](), _Sifting(files, files.bad)
    for path in files.paths:
        try:
            found[path] = _check(files, path)
        except ChangedError:
            raise
        except InputError as error:
            sifting.sift(path, error)
    strays = {path: one.stray for path, one in found.items() if one.stray is not None}
    for path, line in strays.items():
        if found[path].quoted:  # perhaps by a record that is bad itself
            sifting.sift(path, stray(path, line))
    if sifting.quoted or any(one.quoted for path, one in found.items() if path not in sifting.left):
        for path in strays.keys() - sifting.left.keys():
            sifting.sift(path, stray(path, strays[path]))
        sifting.add_doubtful()
    gone = sifting.leave_out()
    return [_check(files, path) if path in sifting.left else found[path] for path in files.paths], gone


def without_bad_lines(files: Files, path: Path, error: InputError) -> Column:
    """Read a copy of an NDJSON file without its bad lines from now on, and return where these stood.

    Raises the error for which the file could not be read where that does not help.
    """
    if files.bad is None or isinstance(error, ChangedError):
        raise error
    read = files.copies.of(path)
    faults = Faults(files.copies.fault(path, error), files.bad, files.copies.named)
    with translated(files, read):
        faults.refuse_most(sift_ndjson(read, faults))
    if not len(faults):
        raise error
    files.copies.leave_out(path, faults.found)
    return faults.found


def _check(files: Files, path: Path) -> Delimited:
    read = files.copies.of(path)
    with translated(files, read):
        return check(read, files.separator)


class _Sifting:
    """The files that are not read as they stand."""

    def __init__(self, files: Files, bad: BadRows) -> None:
        self.left: dict[Path, Sifted] = {}
        self._files = files
        self._bad = bad
        self._faults: dict[Path, Faults] = {}

    @property
    def quoted(self) -> bool:
        """Whether a cell stands in quotes in what is left of any of them."""
        return any(left.quoted for left in self.left.values())

    def sift(self, path: Path, error: InputError) -> None:
        """Find the bad records of a file, for which it was refused with this error."""
        read = self._files.copies.of(path)
        copies = self._files.copies
        faults = self._faults[path] = Faults(copies.fault(path, error), self._bad, copies.named)
        with translated(self._files, read):
            self.left[path] = sift(read, self._files.separator, faults)

    def add_doubtful(self) -> None:
        """Leave out records, too, that are bad because cells stand in quotes elsewhere."""
        for path, left in self.left.items():
            read = self._files.copies.of(path)
            with translated(self._files, read):
                add_doubtful(read, self._faults[path], left)

    def leave_out(self) -> dict[Path, Column]:
        """Read copies from now on; return where bad records stood. Raises InputError where most are bad."""
        for path, left in self.left.items():
            self._faults[path].refuse_most(left.records)
        gone = {path: faults.found for path, faults in self._faults.items() if len(faults)}
        for path, found in gone.items():
            self._files.copies.leave_out(path, found)
        return gone
