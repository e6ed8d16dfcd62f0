"""What a job file may say, how each slip in it is told, and what of it makes a run another run."""

import re
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from pipeline.errors import JobError
from pipeline.job import (
    LoadedJob,
    identity,
    job_limits,
    job_model,
    job_price,
    load_job,
    model_settings,
    resolve,
)
from pipeline.models import Limits, Price, Settings
from pipeline.schema_file import load_schema
from pipeline.sections import Job, LimitsSection, ModelSection, Section
from tests.conftest import as_nobody, open_to_all

TODAY = date(2026, 11, 22)
SCHEMA = """
from pydantic import BaseModel

class Sentiment(BaseModel):
    part: "Part"

class Part(BaseModel):
    label: str
"""
JOB = """\
name = "sentiment"
schema = "schemas/sentiment.py:Sentiment"

[input]
path = "data/reviews.csv"
key = ["review_id"]
format = "csv"

[prompt]
system = "You label product reviews."
row = "Review: {{ text }}"

[model]
id = "gemini-3.1-flash-lite"
thinking = "minimal"
max_output_tokens = 200
seed = 7
temperature = 0.2
timeout = 60
safety = { harassment = "off" }
price = { input = 0.25, output = 1.5, cached = 0.025 }

[limits]
tier = "free"
concurrency = 64

[output]
path = "out/sentiment.parquet"
prefix = "ai_"
"""
BOOL = "`{}` must be `true` or `false`, not `{}`"
SMALLEST = """\
name = "small"
schema = "schemas/sentiment.py:Sentiment"
input = { path = "a.csv" }
prompt = { row = "{{ text }}" }
model = { id = "flash-lite" }
output = { path = "out.csv" }
"""


def write(root: Path, job: str = JOB, schema: str = SCHEMA) -> Path:
    """Write a project of one job and one schema and return the path of the job."""
    for name, text in (("schemas/sentiment.py", schema), ("jobs/sentiment.toml", job)):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root / "jobs" / "sentiment.toml"


def refusal(path: Path) -> JobError:
    """Return the error that the job file is refused with; its message is one line."""
    with pytest.raises(JobError) as caught:
        load_job(path)
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value


def changed(root: Path, old: str, new: str) -> Path:
    """Write the full job with one piece of text replaced."""
    assert JOB.count(old) == 1
    return write(root, JOB.replace(old, new))


def model_of(**keys: object) -> ModelSection:
    """Return a `[model]` of these keys."""
    return ModelSection.model_validate({"id": "gemini-3.1-flash-lite", **keys})


def test_full_job_is_read_as_written(tmp_path: Path) -> None:
    """Every key of the file arrives in its section."""
    job = load_job(write(tmp_path)).job
    assert (job.name, job.input.key, job.input.format) == ("sentiment", ("review_id",), "csv")
    assert (job.prompt.system, job.prompt.row) == ("You label product reviews.", "Review: {{ text }}")
    assert (job.model.thinking, job.model.seed, job.model.timeout) == ("minimal", 7, 60)
    assert (job.limits.tier, job.limits.concurrency) == ("free", 64)
    assert (job.output.path, job.output.prefix) == ("out/sentiment.parquet", "ai_")


def test_defaults_are_the_safe_ones(tmp_path: Path) -> None:
    """A smallest job runs with a seed, a time limit and the limits of the free tier."""
    job = load_job(write(tmp_path, SMALLEST)).job
    assert (job.model.seed, job.model.deadline, job.model.temperature) == (0, 120, None)
    assert (job.limits.tier, job.limits.free, job.limits.rpm) == ("free", True, None)
    assert (job.prompt.system, job.input.key, job.output.prefix) == ("", (), "")


def test_job_cannot_be_changed(tmp_path: Path) -> None:
    """A loaded job stays what was read."""
    job = load_job(write(tmp_path)).job
    with pytest.raises(ValidationError, match="frozen"):
        job.name = "other"  # type: ignore[misc]  # the mistake that is tested


def test_project_is_the_folder_above_jobs(tmp_path: Path) -> None:
    """Paths of a job in `jobs/` start from the folder that holds it."""
    loaded = load_job(write(tmp_path))
    assert (loaded.project, loaded.path) == (tmp_path, tmp_path / "jobs" / "sentiment.toml")


def test_project_is_the_jobs_own_folder_elsewhere(tmp_path: Path) -> None:
    """A job that lies beside its schemas starts from there."""
    path = write(tmp_path).rename(tmp_path / "job.toml")
    assert load_job(path).project == tmp_path


def test_relative_path_to_the_job_gives_an_absolute_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job named from inside `jobs/` has the same project as from anywhere."""
    write(tmp_path)
    monkeypatch.chdir(tmp_path / "jobs")
    assert load_job(Path("sentiment.toml")).project == tmp_path


def test_paths_resolve_against_the_project(tmp_path: Path) -> None:
    """A relative path starts from the project, an absolute one stays."""
    absolute = str(tmp_path / "in" / "*.csv")
    assert resolve(Path("/project"), "data/*.csv") == Path("/project/data/*.csv")
    assert resolve(Path("/project"), absolute) == Path(absolute)
    assert resolve(Path("/project"), "~/in.csv") == Path.home() / "in.csv"


def test_overrides_replace_single_keys(tmp_path: Path) -> None:
    """What is given wins, down to one category; what is None or not named stays."""
    overrides: dict[str, dict[str, object]] = {
        "model": {"seed": 9, "thinking": None, "safety": {"hate_speech": "off"}},
        "limits": {"tier": "1", "rpm": 100},
        "output": {"path": None},
    }
    job = load_job(write(tmp_path), overrides).job
    assert (job.model.seed, job.model.thinking, job.model.max_output_tokens) == (9, "minimal", 200)
    assert (job.model.safety.harassment, job.model.safety.hate_speech) == ("off", "off")
    assert (job.limits.tier, job.limits.rpm, job.limits.concurrency) == ("1", 100, 64)
    assert job.output.path == "out/sentiment.parquet"


def test_overrides_may_add_a_section(tmp_path: Path) -> None:
    """A section that the file leaves out can come from the command line."""
    assert load_job(write(tmp_path, SMALLEST), {"limits": {"rpm": 3}}).job.limits.rpm == 3


def test_overrides_do_not_hide_a_section_that_is_no_table(tmp_path: Path) -> None:
    """A mistake in the file is told even where a flag overrides that section."""
    path = changed(tmp_path, '[limits]\ntier = "free"\nconcurrency = 64\n', "")
    path.write_text('limits = "free"\n' + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(JobError, match='`limits` must be a table, not `"free"`'):
        load_job(path, {"limits": {"rpm": 3}})


@pytest.mark.parametrize("tier", ['"1"', "1"])
def test_tier_is_a_number_or_a_text(tmp_path: Path, tier: str) -> None:
    """Both spellings of a paid tier are the same tier, and it is not free."""
    limits = load_job(changed(tmp_path, 'tier = "free"', f"tier = {tier}")).job.limits
    assert (limits.tier, limits.free) == ("1", False)


def test_byte_order_mark_is_no_syntax_error(tmp_path: Path) -> None:
    """A file saved by an editor that marks UTF-8 is read."""
    path = write(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_job(path).job.name == "sentiment"


def test_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    """A mistyped job name is answered with the job that is there."""
    write(tmp_path)
    error = refusal(tmp_path / "jobs" / "sentimnet.toml")
    assert error.message.endswith("sentimnet.toml` does not exist")
    assert error.hint == f"did you mean `{tmp_path / 'jobs' / 'sentiment.toml'}`?"

    error = refusal(tmp_path / "jobs" / "invoices.toml")
    assert "did you mean" not in error.hint


@pytest.mark.parametrize("name", ["jobs/sentiment.toml", "schemas/sentiment.py"])
def test_what_may_not_be_read_is_told_alike(tmp_path: Path, name: str) -> None:
    """Job and schema are files like the input."""
    job = write(tmp_path)
    (tmp_path / name).chmod(0)
    open_to_all(tmp_path)
    with as_nobody():
        error = refusal(job)
    assert error.message.endswith("` cannot be read: permission denied")
    assert error.hint == "check the path and the right to read it"


def test_missing_folder_is_a_missing_file(tmp_path: Path) -> None:
    """Where there is no folder either, the hint shows how a job is named."""
    assert "jobs/sentiment.toml" in refusal(tmp_path / "nowhere" / "job.toml").hint


def test_folder_is_not_a_job(tmp_path: Path) -> None:
    """A path that cannot be read as a file is told as such."""
    assert re.search("cannot be read: is a directory", refusal(tmp_path).message, re.IGNORECASE)


def test_syntax_error_names_the_line(tmp_path: Path) -> None:
    """A file that is not TOML is told with the line of the mistake."""
    error = refusal(changed(tmp_path, "seed = 7", "seed = "))
    assert re.search(r"is not TOML: [a-z].*line 17", error.message)


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    """A file that is not UTF-8 is told as such, not as a traceback."""
    path = write(tmp_path)
    path.write_bytes(JOB.replace("label", "läbel").encode("latin-1"))
    assert refusal(path).message.endswith("is not UTF-8 text")


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("max_output_tokens", "max_output_token", "`max_output_token` in [model]", "`max_output_tokens`"),
        ("harassment", "harasment", "`harasment` in [model.safety]", "`harassment`"),
        ("cached", "cache", "`cache` in [model.price]", "`cached`"),
        ('row = "R', 'rows = "R', "`rows` in [prompt]", "`row`"),
    ],
)
def test_unknown_key_names_its_table_and_the_nearest_key(
    tmp_path: Path, old: str, new: str, message: str, hint: str
) -> None:
    """A mistyped key is refused where it stands, also if the right one is then missing."""
    error = refusal(changed(tmp_path, old, new))
    assert error.message == f"unknown key {message}"
    assert error.hint == f"did you mean {hint}?"


def test_unknown_key_at_the_top_names_the_file(tmp_path: Path) -> None:
    """A mistyped key above the tables is found by the key's name in the file."""
    error = refusal(changed(tmp_path, "schema =", "shema ="))
    assert re.fullmatch(r"unknown key `shema` in `.*sentiment\.toml`", error.message)
    assert error.hint == "did you mean `schema`?"


def test_unknown_key_like_no_other_lists_the_known_ones(tmp_path: Path) -> None:
    """Without a near key the hint lists what the table takes."""
    error = refusal(changed(tmp_path, "concurrency", "zzz"))
    assert (
        error.hint
        == "known keys: `tier`, `rpm`, `tpm`, `rpd`, `concurrency`, `spend_10min_usd`, `margin`, `project`, "
        "`max_cost`"
    )


def test_a_key_of_another_table_is_shown_there(tmp_path: Path) -> None:
    """What stands above the tables, or in a wrong one, is told where it belongs."""
    error = refusal(changed(tmp_path, "schema =", 'service_tier = "flex"\nschema ='))
    assert error.hint == "`service_tier` belongs into [model]"
    assert refusal(changed(tmp_path, "seed = 7", 'spill = "6h"')).hint == "`spill` belongs into [batch]"


def test_batch_as_a_flag_is_shown_the_mode(tmp_path: Path) -> None:
    """The table [batch] is easily taken for a switch."""
    error = refusal(changed(tmp_path, "schema =", "batch = true\nschema ="))
    assert error.message == "`batch` must be a table, not `true`"
    assert '`mode = "batch"`' in error.hint


def test_a_flag_is_blamed_for_its_own_value(tmp_path: Path) -> None:
    """The file may say something else, and that may be right."""
    path = write(tmp_path)
    for rows, said in [(0, "`--pack` must be a whole number"), (None, "`packing.rows` must be")]:
        if rows is None:
            path.write_text(JOB + "\n[packing]\nrows = 0\n")
        with pytest.raises(JobError) as caught:
            load_job(path, {"packing": {"rows": rows}, "limits": {"rpm": None}})
        assert caught.value.message.startswith(said)
        assert ("--pack" in caught.value.hint) == (rows is not None)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            '[batch]\nspill = "60d"',
            "`batch.spill` must be at most `2d`, since the API ends a job after 48 hours",
        ),
        ('[batch]\nspill = "49h"', "`batch.spill` must be at most `2d`"),
        ("[packing]\nprompt_tokens = 10", "`packing.prompt_tokens` must be at least 100, not `10`"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, section: str, said: str) -> None:
    """A job that the API has ended is never too old, and no two rows fit into ten tokens."""
    path = write(tmp_path)
    path.write_text(f"{JOB}\n{section}\n")
    assert refusal(path).message.startswith(said)


def test_missing_key_names_its_table(tmp_path: Path) -> None:
    """What has no default must be there."""
    error = refusal(changed(tmp_path, 'row = "Review: {{ text }}"\n', ""))
    assert (error.message, error.hint) == ("`prompt.row` is missing", "add `row` to [prompt]")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 7", 'seed = "7"', '`model.seed` must be a whole number, not `"7"`'),
        ("seed = 7", "seed = true", "`model.seed` must be a whole number, not `true`"),
        ("seed = 7", "seed = 2147483648", "`model.seed` must be less than 2147483648, not `2147483648`"),
        ("= 200", "= 0", "`model.max_output_tokens` must be at least 1, not `0`"),
        ("= 0.2\n", "= 2.5\n", "`model.temperature` must be at most 2, not `2.5`"),
        ("timeout = 60", "timeout = 0", "`model.timeout` must be more than 0, not `0`"),
        ("timeout = 60", "timeout = inf", "`model.timeout` must be a finite number, not `Infinity`"),
        ("input = 0.25", "input = nan", "`model.price.input` must be a finite number, not `NaN`"),
        ('["review_id"]', '"review_id"', '`input.key` must be a list, not `"review_id"`'),
        ('["review_id"]', "[1]", "`input.key.0` must be text, not `1`"),
        ('"data/reviews.csv"', '""', '`input.path` must be text that is not empty, not `""`'),
        ('{ harassment = "off" }', '"off"', '`model.safety` must be a table, not `"off"`'),
        (
            '"csv"',
            '"xlsx"',
            '`input.format` must be `csv`, `tsv`, `parquet`, `ndjson` or `ipc`, not `"xlsx"`',
        ),
        ('prefix = "ai_"', 'escape_formulas = "yes"', BOOL.format("output.escape_formulas", '"yes"')),
        ('prefix = "ai_"', "[cache]\nenabled = 1", BOOL.format("cache.enabled", "1")),
        ('"minimal"', '"off"', '`model.thinking` must be `minimal`, `low`, `medium` or `high`, not `"off"`'),
        ('"free"', "4", '`limits.tier` must be `free`, `1`, `2` or `3`, not `"4"`'),
        ("concurrency = 64", "concurrency = 1.5", "`limits.concurrency` must be a whole number, not `1.5`"),
    ],
)
def test_wrong_value_is_told_in_plain_words(tmp_path: Path, old: str, new: str, message: str) -> None:
    """The dotted key, what it takes and what stands there, in one line."""
    error = refusal(changed(tmp_path, old, new))
    assert error.message == message
    assert error.hint.startswith(f"correct {message.split(maxsplit=1)[0]} in `")


@pytest.mark.parametrize(
    "value", [True, 1, 1.5, "?", [1], {"a": 1}, TODAY, datetime(2026, 11, 22, tzinfo=UTC)]
)
def test_no_wrong_value_is_told_in_the_words_of_pydantic(tmp_path: Path, value: object) -> None:
    """Whatever stands at whichever key: it says what the key takes, never `Input should`."""
    path, told = write(tmp_path), list[str]()
    for name, field in Job.model_fields.items():
        kind = field.annotation
        keys = kind.model_fields if isinstance(kind, type) and issubclass(kind, Section) else ()
        tables: list[dict[str, object]] = [{field.alias or name: value}]
        tables.extend({name: {key: value}} for key in keys)
        for keyed in tables:
            try:
                load_job(path, keyed)
            except JobError as error:
                told.append(error.message)
    assert len(told) > 20
    assert not [message for message in told if "should" in message]


def test_a_key_of_the_top_is_shown_there(tmp_path: Path) -> None:
    """What stands in a table and belongs above all of them, and a key that two tables have."""
    error = refusal(changed(tmp_path, "seed = 7", 'mode = "batch"'))
    assert error.hint == "`mode` stands at the top, before the first [table]"
    assert (
        refusal(changed(tmp_path, "seed = 7", 'path = "a"')).hint == "`path` belongs into [input] or [output]"
    )
    assert (
        refusal(changed(tmp_path, "seed = 7", "cache = {}")).hint == "`cache` is a table of its own, [cache]"
    )


def test_long_wrong_value_is_cut(tmp_path: Path) -> None:
    """A message stays readable when a prompt stands where a number belongs."""
    error = refusal(changed(tmp_path, "seed = 7", f'seed = "{"x" * 500}"'))
    assert len(error.message) < 130


@pytest.mark.parametrize("path", ["out.xlsx", "out/csv", "out/.csv", "out.csv.gz", "out.csv/"])
def test_output_of_another_ending_is_refused(tmp_path: Path, path: str) -> None:
    """Only formats that can be written are accepted, before anything is paid for."""
    error = refusal(changed(tmp_path, "out/sentiment.parquet", path))
    assert error.message.startswith("`output.path` must be a path that ends in `.parquet`, `.csv`")


@pytest.mark.parametrize("path", ["out.parquet", "out.CSV", "a/b.ndjson", "c.jsonl"])
def test_output_of_a_known_ending_is_accepted(tmp_path: Path, path: str) -> None:
    """All four endings are known, in any case."""
    assert load_job(changed(tmp_path, "out/sentiment.parquet", path)).job.output.path == path


@given(st.text(max_size=70))
def test_accepted_name_is_one_plain_folder_name(name: str) -> None:
    """Whatever name is accepted stays inside the folder that it is put in."""
    tables = {"schema": "a.py:A", "input": {"path": "a"}, "prompt": {"row": "a"}, "model": {"id": "a"}}
    try:
        job = Job.model_validate({"name": name, **tables, "output": {"path": "a.csv"}})
    except ValidationError:
        assert not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", name)
    else:
        assert Path("runs", job.name).parts == ("runs", name)
        assert re.fullmatch(r"[ -~]{1,64}", name)


@pytest.mark.parametrize("name", ["..", "a/b", "a b", "", "a\\\\b", "-a", ".hidden", "a.", "a\\n"])
def test_name_unfit_for_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    """No name leads out of the run folder or hides in it."""
    path = changed(tmp_path, 'name = "sentiment"', f'name = "{name}"')
    assert refusal(path).message.startswith("`name` must be 1 to 64 letters, digits")


def test_schema_class_resolves_its_forward_references(tmp_path: Path) -> None:
    """A class that refers to a later one in its file validates."""
    schema = load_job(write(tmp_path)).schema
    assert schema.model_validate({"part": {"label": "good"}}).model_dump() == {"part": {"label": "good"}}


def test_schema_leaves_the_import_path_alone(tmp_path: Path) -> None:
    """A user's folder never hides or offers modules to anyone else."""
    before = list(sys.path)
    load_job(write(tmp_path))
    assert sys.path == before
    assert "sentiment" not in sys.modules


def test_schemas_of_the_same_name_do_not_mix(tmp_path: Path) -> None:
    """Two projects may both have a `schemas/sentiment.py`."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, schema=f"{SCHEMA}    {name}: int\n")
    found = [load_job(tmp_path / name / "jobs" / "sentiment.toml").schema for name in ("one", "two")]
    parts = [schema.model_json_schema()["$defs"]["Part"]["required"] for schema in found]
    assert parts == [["label", "one"], ["label", "two"]]


def test_missing_schema_file_names_the_nearest_one(tmp_path: Path) -> None:
    """A mistyped file is answered with the one that is there."""
    error = refusal(changed(tmp_path, "schemas/sentiment.py", "schemas/sentimnt.py"))
    assert error.message.startswith("schema file `schemas/sentimnt.py` does not exist in `")
    assert error.hint == "did you mean `schemas/sentiment.py`?"


@pytest.mark.parametrize(
    ("schema", "cause"),
    [
        ("\n\nx = missing", "NameError at line 3: name 'missing' is not defined"),
        ("x = 1\nclass A(:\n", "SyntaxError at line 2: invalid syntax"),
        ("def f():\n    raise ValueError('a\\nb')\nf()", "ValueError at line 2: a b"),
        (
            "import no_such_module_here",
            "ModuleNotFoundError at line 1: No module named 'no_such_module_here'",
        ),
        (
            "from . import other",
            "ImportError at line 1: attempted relative import with no known parent package",
        ),
        ("import json\njson.loads('{')", "JSONDecodeError at line 2: Expecting property name"),
        ("raise SystemExit(3)", "SystemExit at line 1: 3"),
    ],
)
def test_schema_that_does_not_import_names_the_line(tmp_path: Path, schema: str, cause: str) -> None:
    """Whatever the user's code raises is told with its line in that file, and nothing half-made stays."""
    before = set(sys.modules)
    message = refusal(write(tmp_path, schema=schema)).message
    assert message.startswith(f"schema file `schemas/sentiment.py` does not import: {cause}")
    assert not [name for name in set(sys.modules) - before if name.startswith("rowmill_schema")]


def test_missing_class_names_the_nearest_one(tmp_path: Path) -> None:
    """A mistyped class is answered with one that the file defines."""
    error = refusal(changed(tmp_path, ".py:Sentiment", ".py:Sentimnt"))
    assert error.message == "schema file `schemas/sentiment.py` has no class `Sentimnt`"
    assert error.hint == "did you mean `Sentiment`?"


def test_missing_class_like_no_other_lists_what_is_there(tmp_path: Path) -> None:
    """Without a near name the hint lists the file's own classes, not what it imports."""
    assert refusal(changed(tmp_path, ".py:Sentiment", ".py:Zzz")).hint == "it has `Sentiment`, `Part`"


@pytest.mark.parametrize("schema", ["class Sentiment: pass", "Sentiment = 3"])
def test_class_that_is_no_pydantic_model_is_refused(tmp_path: Path, schema: str) -> None:
    """Only a Pydantic model can be a schema."""
    error = refusal(write(tmp_path, schema=schema))
    assert error.message == "`Sentiment` in `schemas/sentiment.py` is not a Pydantic model"


@pytest.mark.parametrize("schema", ["schemas/sentiment.py", "sentiment:Sentiment", "a.py:", "a.py:B-C", ":A"])
def test_schema_without_file_and_class_is_refused(tmp_path: Path, schema: str) -> None:
    """The key `schema` names a file and a class."""
    error = refusal(changed(tmp_path, "schemas/sentiment.py:Sentiment", schema))
    assert error.message.startswith("`schema` must be a file and a class, as in `schemas/")


def test_schema_by_absolute_path(tmp_path: Path) -> None:
    """A schema may lie outside of the project."""
    write(tmp_path)
    spec = f"{tmp_path}/schemas/sentiment.py:Sentiment"
    assert issubclass(load_schema(Path("/"), spec), BaseModel)


def named(root: Path, overrides: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """Return the identity of the full job with these overrides."""
    return identity(load_job(write(root), overrides), {"type": "object"}, "api")


@pytest.mark.parametrize(
    "overrides",
    [
        {"prompt": {"system": "Other."}},
        {"prompt": {"row": "{{ text }}"}},
        {"model": {"id": "flash-lite"}},
        {"model": {"thinking": "low"}},
        {"model": {"max_output_tokens": 201}},
        {"model": {"seed": 8}},
        {"model": {"temperature": 0.3}},
        {"model": {"safety": {"harassment": "block_none"}}},
    ],
)
def test_identity_changes_with_what_changes_answers(
    tmp_path: Path, overrides: Mapping[str, Mapping[str, object]]
) -> None:
    """Each setting that the model sees makes another run."""
    assert named(tmp_path, overrides) != named(tmp_path, {})


@pytest.mark.parametrize(
    "overrides",
    [
        {"input": {"path": "other.csv", "key": ["id"], "format": "tsv"}},
        {"limits": {"tier": "1", "rpm": 1, "tpm": 1, "rpd": 1, "concurrency": 1}},
        {"output": {"path": "other.csv", "prefix": "x"}},
        {"model": {"timeout": 9.0, "price": {"input": 9.0}}},
        {"model": {"id": "models/flash-lite-3.1"}},
    ],
)
def test_identity_stays_with_tuning(tmp_path: Path, overrides: Mapping[str, Mapping[str, object]]) -> None:
    """Paths, limits, prices, time limits and another name of the same model go on with the same run."""
    assert named(tmp_path, overrides) == named(tmp_path, {})


def test_identity_has_schema_and_endpoint(tmp_path: Path) -> None:
    """Another JSON schema or another server is another run."""
    loaded: LoadedJob = load_job(write(tmp_path))
    base = identity(loaded, {"type": "object"}, "api")
    assert base != identity(loaded, {"type": "array"}, "api")
    assert base != identity(loaded, {"type": "object"}, "emulator")


def test_settings_are_spelled_as_the_api_does() -> None:
    """Levels, categories and thresholds arrive in the API's own words."""
    section = model_of(thinking="low", max_output_tokens=9, safety={"hate_speech": "off"}, temperature=1.0)
    assert model_settings(section, job_model(section, TODAY)) == Settings(
        model="gemini-3.1-flash-lite",
        seed=0,
        max_output_tokens=9,
        temperature=1.0,
        thinking_level="LOW",
        safety=(("HARM_CATEGORY_HATE_SPEECH", "OFF"),),
    )


def test_settings_send_nothing_unasked_but_a_seed() -> None:
    """The model's own defaults stay where the job is silent."""
    section = model_of()
    settings = model_settings(section, job_model(section, TODAY))
    assert settings == Settings(model="gemini-3.1-flash-lite", seed=0)


def test_temperature_that_is_ignored_is_refused() -> None:
    """A setting without effect is not accepted in silence."""
    section = model_of(id="gemini-3.5-flash-lite", temperature=0.0)
    with pytest.raises(JobError, match="ignores `temperature`") as caught:
        model_settings(section, job_model(section, TODAY))
    assert "`model.seed`" in caught.value.hint


def test_more_output_than_the_model_writes_is_refused() -> None:
    """The model's own limit is told before the API does."""
    section = model_of(max_output_tokens=65_536)
    with pytest.raises(JobError, match="is 65536, more than") as caught:
        model_settings(section, job_model(section, TODAY))
    assert caught.value.hint == "set it to 65535 or less, or leave it out"


def test_unknown_model_with_a_price_gets_what_the_job_asks_for() -> None:
    """Nothing is known of it, so everything is passed on."""
    section = model_of(id="gemini-9-lite", price={"input": 1, "output": 2}, thinking="high", temperature=0.5)
    settings = model_settings(section, job_model(section, TODAY))
    assert (settings.model, settings.thinking_level, settings.temperature) == ("gemini-9-lite", "HIGH", 0.5)


def test_own_price_is_for_the_model_that_was_asked() -> None:
    """An answer routed to another known model costs what that one costs."""
    section = model_of(price={"input": 1, "output": 2})
    assert job_price(section, "gemini-3.1-flash-lite-001", TODAY, "batch") == Price(0.5, 1, 1)
    assert job_price(section, "gemini-3.5-flash-lite", TODAY, "") == Price(0.3, 2.5, 0.03, storage=1)
    assert job_price(model_of(), "gemini-3.1-flash-lite", TODAY, "") == Price(0.25, 1.5, 0.025, 0.5, 0.05, 1)


@pytest.mark.parametrize(
    ("section", "numbers"),
    [
        (LimitsSection(), (15, 250_000, 500)),
        (LimitsSection(rpd=1_000), (15, 250_000, 1_000)),
        (LimitsSection(tier="2", rpm=10, tpm=20), (10, 20, None)),
        (LimitsSection(tier="3", rpm=10, tpm=20, rpd=30), (10, 20, 30)),
    ],
)
def test_limits_of_the_job_replace_those_of_the_tier(
    section: LimitsSection, numbers: tuple[int, int, int | None]
) -> None:
    """Each number that is given wins; the rest is the tier's."""
    limits: Limits = job_limits(section, job_model(model_of(), TODAY))
    assert (limits.rpm, limits.tpm, limits.rpd) == numbers


def test_half_of_the_limits_of_an_unknown_tier_is_refused() -> None:
    """Without tokens per minute nothing would hold the run back."""
    with pytest.raises(JobError, match="in tier `2` are not known") as caught:
        job_limits(LimitsSection(tier="2", rpm=10), job_model(model_of(), TODAY))
    assert "give `--rpm`, `--tpm` and `--rpd`" in caught.value.hint


def test_vertex_has_no_tiers() -> None:
    """There the system's cap holds and no spend limit, unless the job gives numbers."""
    model = job_model(model_of(), TODAY)
    found = job_limits(LimitsSection(tier="3"), model, vertex=True)
    assert (found.rpm, found.tpm, found.rpd, found.spend_10min_usd) == (30_000, None, None, None)
    assert job_limits(LimitsSection(tpm=2_000_000), model, vertex=True).tpm == 2_000_000
