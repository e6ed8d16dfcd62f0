"""What a job file may hold: each table as a frozen Pydantic model that refuses what it does not know."""

import codecs
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from pipeline import models

MOST_ROWS = 200  # of one request

Format = Literal["csv", "tsv", "parquet", "ndjson", "ipc"]
Level = Literal["minimal", "low", "medium", "high"]
Threshold = Literal["off", "block_none", "block_only_high", "block_medium_and_above", "block_low_and_above"]
Tier = Literal["free", "1", "2", "3"]
ServiceTier = Literal["flex", "standard", "priority"]
Mode = Literal["online", "batch"]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]

LONGEST_SPILL = 172_800.0  # seconds after which a job of the Batch API expires
LEAST_PROMPT = 100  # tokens: two short rows with their tags
TIMEOUT = 120.0
FLEX_TIMEOUT = 900.0  # the optimisation page names 1 to 15 minutes as the target of the flex tier


class Section(BaseModel):
    """A table of the job file: unknown keys are refused, and so are values of the wrong type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _known_encoding(name: str) -> str:
    try:
        codecs.getincrementaldecoder(name)
        b"a".decode(name)
    except UnicodeError:  # what one byte does not make a text of
        return name
    except (LookupError, ValueError) as exc:
        raise PydanticCustomError("encoding", "an encoding of text such as `cp1252` or `utf-16`") from exc
    return name


def _separates(sign: str) -> str:
    if len(sign) == 1 and sign.isascii() and not sign.isalnum() and sign not in ' "\r\n\0':
        return sign
    raise PydanticCustomError("separator", 'one sign between cells, such as `;` or a tab (`"\\t"`)')


class InputSection(Section):
    """`[input]`: a file, a glob or a folder; `key` names the columns that identify a row.

    `separator` stands between the cells of CSV and TSV files where that is no comma or tab, `encoding` is a
    codec of Python for text files that are not UTF-8, `bad_rows` says whether a row that
    cannot be asked about ends the run or is left out.
    """

    path: Text
    key: tuple[Text, ...] = Field(default=(), strict=False)  # TOML knows lists only
    format: Format | None = None
    separator: Annotated[str, AfterValidator(_separates)] | None = None
    encoding: Annotated[str, AfterValidator(_known_encoding)] | None = None
    encoding_errors: Literal["strict", "replace"] = "strict"
    bad_rows: Literal["refuse", "skip"] = "refuse"


class PromptSection(Section):
    """`[prompt]`: the system instruction and the template that is rendered for each row."""

    system: str = ""
    row: Text


class SafetySection(Section):
    """`[model] safety`: the threshold of each category; what is not named is not sent."""

    harassment: Threshold | None = None
    hate_speech: Threshold | None = None
    sexually_explicit: Threshold | None = None
    dangerous_content: Threshold | None = None


class PriceSection(Section):
    """`[model] price`: USD per million tokens; cached input costs as much as any other where it is absent.

    `storage` is of a million tokens in a cache for an hour, `priority` a factor on input and output.
    """

    input: Money
    output: Money
    cached: Money | None = None
    storage: Money | None = None
    priority: Money | None = None

    def period(self) -> models.PricePeriod:
        """Return it as a price that always holds."""
        return models.PricePeriod(
            self.input, self.output, self.cached, storage=self.storage, priority=self.priority
        )


class ModelSection(Section):
    """`[model]`: the model, its generation parameters and how it is served, which is no identity.

    `timeout` is seconds for one request, `context_cache` whether a long instruction is cached where it pays.
    """

    id: Text
    thinking: Level | None = None
    max_output_tokens: Count | None = None
    seed: int = Field(default=0, ge=-(2**31), lt=2**31)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    service_tier: ServiceTier = "standard"
    context_cache: Literal["auto", "off"] = "auto"
    safety: SafetySection = SafetySection()
    price: PriceSection | None = None

    @property
    def deadline(self) -> float:
        """Seconds for one request: `timeout`, or what the service tier needs."""
        return self.timeout or (FLEX_TIMEOUT if self.service_tier == "flex" else TIMEOUT)


class LimitsSection(Section):
    """`[limits]`: the usage tier, and numbers that replace those of the tier; `concurrency` is a cap.

    `spend_10min_usd` is USD in any ten minutes, `margin` the share by which all windows are counted longer,
    `project` a name for what shares these limits, where several keys do, `max_cost` the USD of one run.
    """

    tier: Annotated[Tier, BeforeValidator(lambda tier: str(tier) if type(tier) is int else tier)] = "free"
    rpm: Count | None = None
    tpm: Count | None = None
    rpd: Count | None = None
    concurrency: Count | None = None
    spend_10min_usd: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    margin: float = Field(default=models.MARGIN, ge=0, le=0.5, allow_inf_nan=False)
    project: Text | None = None
    max_cost: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @property
    def free(self) -> bool:
        """Whether the run is on the free tier, where tokens cost nothing."""
        return self.tier == "free"


def _pack_rows(rows: object) -> object:
    if rows == "auto" or (type(rows) is int and 1 <= rows <= MOST_ROWS):
        return rows
    raise PydanticCustomError("rows", "a whole number from 1 to {most}, or `auto`", {"most": MOST_ROWS})


class PackingSection(Section):
    """`[packing]`: how many rows share a request at most, and how many tokens of prompts and of answers.

    `rows` is `auto` for what `rowmill calibrate` has found, which only a plan knows.
    """

    rows: Annotated[int | Literal["auto"], PlainValidator(_pack_rows)] = 1
    prompt_tokens: int = Field(default=8_000, ge=LEAST_PROMPT)
    output_tokens: Count = 8_000


class CacheSection(Section):
    """`[cache]`: whether answers are shared by all jobs of the project, and how many MB they may take."""

    enabled: bool = True
    max_mb: Count = 1_024


def _duration(text: str) -> str:
    found = re.fullmatch(r"(\d{1,4})([smhd])", text)
    if found is None or not int(found[1]):
        raise PydanticCustomError(
            "duration", "a number of minutes, hours or days such as `90m`, `6h` or `2d`"
        )
    if seconds_of(text) > LONGEST_SPILL:
        raise PydanticCustomError("duration", "at most `2d`, since the API ends a job after 48 hours")
    return text


def seconds_of(duration: str) -> float:
    """Return a duration such as `90m` in seconds."""
    return float(duration[:-1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[duration[-1]]


class BatchSection(Section):
    """`[batch]`: how many requests a job of the Batch API holds at most, and how old it may get.

    What a job older than `spill` has not answered is asked one by one.
    """

    requests: int = Field(default=5_000, ge=1, le=100_000)
    spill: Annotated[str, AfterValidator(_duration)] = "24h"

    @property
    def spill_seconds(self) -> float:
        """The age in seconds."""
        return seconds_of(self.spill)


class OutputSection(Section):
    """`[output]`: the file of answers, its format by its ending; `prefix` begins the names of its columns.

    `escape_formulas` lets no cell of a CSV be run by a spreadsheet.
    """

    path: str = Field(pattern=r"(?i)[^/\\]\.(parquet|csv|ndjson|jsonl)$")
    prefix: str = ""
    escape_formulas: bool = False


class Job(Section):
    """A whole job file. `name` becomes a folder's name; `schema_path` is key `schema`: `file.py:Class`.

    `gold` names the column of the input that holds the right value of a field, for `rowmill calibrate`.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    schema_path: str = Field(alias="schema", pattern=r"^.+\.py:[^\W\d]\w*$")
    input: InputSection
    prompt: PromptSection
    model: ModelSection
    limits: LimitsSection = LimitsSection()
    packing: PackingSection = PackingSection()
    cache: CacheSection = CacheSection()
    gold: Mapping[str, Text] = {}
    mode: Mode = "online"
    batch: BatchSection = BatchSection()
    output: OutputSection
