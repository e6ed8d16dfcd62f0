"""Points in time as the API writes them."""

from datetime import UTC, datetime


def stamp(wall: float) -> str:
    """Write Unix time as RFC 3339 in UTC with nine decimals, such as `2026-07-02T14:40:59.019821594Z`."""
    whole, rest = divmod(wall, 1)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{int(rest * 1e9):09d}Z"


def moment(text: str) -> float:
    """Read such a time, with or without decimals; ValueError for anything else."""
    plain, dot, rest = text.removesuffix("Z").partition(".")
    whole = datetime.fromisoformat(plain).replace(tzinfo=UTC).timestamp()
    return whole + (float(f"0.{rest}") if dot else 0.0)


def seconds(text: str) -> float:
    """Read a duration such as `3600s` or `1.5s`; ValueError for anything else."""
    if not text.endswith("s"):
        raise ValueError(f"`{text}` is no duration")
    return float(text[:-1])
