"""The commands about the response cache: cache stats, cache prune."""

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from pipeline.cli.app import rowmill
from pipeline.cli.folders import agrees, place
from pipeline.cli.numbers import Whole
from pipeline.cli.talk import console, tell
from pipeline.errors import UsageError
from pipeline.plan import RUNS
from pipeline.progress import many
from pipeline.removal import age
from pipeline.runs import size
from pipeline.sections import CacheSection
from pipeline.store.answers import ALWAYS, FILE, Stock, disk_size, extent, stock, surplus
from pipeline.store.answers import prune as prune_answers
from pipeline.store.folder import check_readable

PAID_AGAIN = "Run folders and tables stay. What no run folder holds will be paid for again when it is needed."

BOUND = "  each run that adds to it keeps it below {most:,} MB, or below `max_mb` under [cache] in its job"
ALL_OR_SOME = "leave `--all` out to keep the others, or give it alone to remove every answer"
NO_PROJECT = (
    "{folder} is no project: it holds neither run folders nor jobs; go to the folder that has `jobs`, or "
    "name the run folders with `--runs-dir`"
)

where = click.option("--runs-dir", type=click.Path(path_type=Path), help="Where run folders are kept.")


@rowmill.group(short_help="Show or prune the answers that all jobs share.")
def cache() -> None:
    """Show or prune the answers that all jobs of a project share."""


@cache.command(short_help="Say what is in it.")
@where
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def stats(runs_dir: Path | None, *, as_json: bool) -> None:
    """Say how many answers the cache holds, of which models, how old they are and what room they take."""
    path = _file(runs_dir)
    if runs_dir is None and not as_json and not _is_project(path.parent.parent):
        click.echo(NO_PROJECT.format(folder=path.parent.parent))
        return
    found = stock(path)
    if as_json:
        click.echo(json.dumps({"cache": str(path), **found.as_json()}, indent=2, ensure_ascii=False))
    else:
        tell(_sentences(path, found))


@cache.command(short_help="Remove answers from it, after asking.")
@where
@click.option("--max-mb", type=Whole(min=1), metavar="N", help="Until they take no more than this.")
@click.option("--older-than", metavar="AGE", help="What was not used for so long: `30d`, `12h`, `90m`, `2w`.")
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune(
    runs_dir: Path | None, *, max_mb: int | None, older_than: str | None, everything: bool, yes: bool
) -> None:
    """Remove answers from the cache: those first that have not been used for longest."""
    if max_mb is None and older_than is None and not everything:
        raise UsageError("nothing says what is to go", "give `--max-mb N`, `--older-than 30d` or `--all`")
    if everything and (max_mb is not None or older_than is not None):
        bound = "--max-mb" if older_than is None else "--older-than"
        raise UsageError(f"`--all` and `{bound}` contradict each other", ALL_OR_SOME)
    before = None if older_than is None else int((datetime.now(UTC) - age(older_than)).timestamp())
    path = _file(runs_dir)
    most = None if max_mb is None else max_mb * 10**6
    number = surplus(path, most, ALWAYS if everything else before)
    if not number:
        console.print(f"nothing to remove: {_held(path)}", markup=False, soft_wrap=True)
        return
    answers = many(number, "answer")
    console.print(PAID_AGAIN, soft_wrap=True)
    if yes or agrees(f"remove {answers} of the cache {path}?"):
        prune_answers(path, number)
        console.print(f"removed {answers}, {size(disk_size(path))} left", markup=False, soft_wrap=True)


def _file(runs_dir: Path | None) -> Path:
    """Return where the cache is, or would be. Raises StoreError where that cannot be told."""
    folder = place(None, runs_dir)[0]
    check_readable(folder)
    return folder / FILE


def _held(path: Path) -> str:
    """Say what there is, and which of it would go first."""
    entries, oldest = extent(path)
    if oldest is None:
        return f"no answers in {path}"
    return (
        f"{path} holds {many(entries, 'answer')}, {size(disk_size(path))}; what was not used for longest was "
        f"used at {oldest.astimezone():%F %H:%M}"
    )


def _is_project(folder: Path) -> bool:
    """Tell whether a folder holds run folders or jobs."""
    return (folder / RUNS).is_dir() or any(folder.glob("jobs/*.toml")) or any(folder.glob("*.toml"))


def _sentences(path: Path, found: Stock) -> list[str]:
    if not found.entries:
        return [f"no answers in {path}"]
    lines = [f"{path}: {many(found.entries, 'answer')}, {size(found.size)}"]
    if found.oldest and found.newest and found.used:
        oldest, newest, used = (
            f"{one.astimezone():%F %H:%M}" for one in (found.oldest, found.newest, found.used)
        )
        lines.append(f"  from {oldest} to {newest}, last used {used}")
    lines += [f"  {model}: {many(number, 'answer')}" for model, number in found.models.most_common()]
    lines.append(BOUND.format(most=CacheSection().max_mb))
    return lines + ([f"  damaged, never served: {found.damaged:,}"] if found.damaged else [])
