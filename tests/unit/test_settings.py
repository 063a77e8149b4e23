"""Where settings come from, which wins, and what is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contimg_dask import settings
from contimg_dask.errors import UsageError
from contimg_dask.settings import LoadedSettings, Settings, describe, load_settings, size_bytes


@pytest.fixture(autouse=True)
def empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


def toml(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_without_any_source_all_values_are_defaults() -> None:
    loaded = load_settings({}, environ={})
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {"default"}
    assert set(loaded.origins) == {item.name for item in dataclasses.fields(Settings)}


def test_settings_and_origins_cannot_be_changed() -> None:
    loaded = load_settings({}, environ={})
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.settings.workers = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        loaded.origins["workers"] = "elsewhere"  # type: ignore[index]


def test_each_source_wins_over_the_one_before(tmp_path: Path) -> None:
    path = toml(tmp_path / "c.toml", "workers = 2\nmin_subbands = 12\nexpected_subbands = 14\n")
    loaded = load_settings(
        {"workers": 4, "min_subbands": None},
        config=path,
        environ={"CONTIMG_DASK_WORKERS": "3", "CONTIMG_DASK_MIN_SUBBANDS": "13"},
    )
    assert loaded.settings == Settings(workers=4, min_subbands=13, expected_subbands=14)
    assert loaded.origins["workers"] == "option --workers"
    assert loaded.origins["min_subbands"] == "environment CONTIMG_DASK_MIN_SUBBANDS"
    assert loaded.origins["expected_subbands"] == f"file {path}"
    assert loaded.origins["direct_ms"] == "default"


def test_an_option_of_false_is_given_and_one_of_none_is_not() -> None:
    loaded = load_settings({"direct_ms": False, "parallel_subband": None}, environ={})
    assert loaded.settings == Settings(direct_ms=False)
    assert loaded.origins["direct_ms"] == "option --direct-ms"


def test_the_configuration_file_is_looked_for_in_order(
    tmp_path: Path, empty_working_directory: Path
) -> None:
    home = tmp_path / "home"
    environ = {"HOME": str(home)}

    def workers() -> int | None:
        return load_settings({}, environ=environ).settings.workers

    toml(home / ".config/contimg-dask/config.toml", "workers = 1")
    assert workers() == 1
    toml(empty_working_directory / "contimg-dask.toml", "workers = 2")
    assert workers() == 2
    environ["CONTIMG_DASK_CONFIG"] = str(toml(tmp_path / "named.toml", "workers = 3"))
    assert workers() == 3
    given_path = toml(tmp_path / "given.toml", "workers = 4")
    assert load_settings({}, config=given_path, environ=environ).settings.workers == 4


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path, by_environment: bool) -> None:
    missing = tmp_path / "none.toml"
    environ = {"CONTIMG_DASK_CONFIG": str(missing)} if by_environment else {}
    with pytest.raises(UsageError, match=r"none\.toml.*No such file"):
        load_settings({}, config=None if by_environment else missing, environ=environ)


@pytest.mark.parametrize(
    "content",
    [b"workers = = 2", b"\xff\xfe", b"workers = " + b"9" * 5000, b"workers = " + b"[" * 20000],
)
def test_a_file_that_is_not_toml_is_an_error_with_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"c\.toml: not a readable TOML file") as caught:
        load_settings({}, config=path, environ={})
    assert caught.value.path == str(path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("worker = 4", ["worker", "not a setting", "workers"]),
        ("[cluster]\nworkers = 4", ["cluster", "not a setting"]),
        ("workers = true", ["workers is true", "whole number from 1 to 1000", "or none"]),
        ("workers = 0", ["workers is 0", "whole number from 1 to 1000"]),
        ("workers = 99999999999999999999", ["from 1 to 1000"]),
        ("collecting_timeout_s = 1000000001", ["from 0 to 1000000000"]),
        ("workers = 2.0", ["workers is 2.0"]),
        ('workers = "2"', ['workers is "2"']),
        ("direct_ms = 1", ["direct_ms is 1", "true | false"]),
        ('on_existing = "overwrite"', ['on_existing is "overwrite"', "skip | fail | replace"]),
        ('telescope_name = " "', ["telescope_name", "not empty"]),
        ('tmpfs_path = "shm"', ['tmpfs_path is "shm"', "an absolute path"]),
        ('worker_memory_limit = "much"', ["worker_memory_limit", "4GiB"]),
        ('worker_memory_limit = "0GiB"', ["worker_memory_limit", "4GiB"]),
        ('dashboard_address = "8787"', ["dashboard_address", "HOST:PORT"]),
        ('dashboard_address = "localhost:99999"', ["dashboard_address", "HOST:PORT"]),
        ("phase_centre = []", ["phase_centre", "auto | meridian | keep"]),
        ('tmpfs_budget = "half"', ["tmpfs_budget", "4GiB", "or none"]),
        ('tmpfs_budget = "0B"', ["tmpfs_budget", "4GiB"]),
        ("product_mode = 664", ["product_mode is 664", "octal", "664"]),
        ('product_mode = "rw-rw-r--"', ['product_mode is "rw-rw-r--"', "octal"]),
        ('product_mode = "2775"', ["product_mode", "octal"]),
        ('product_mode = "468"', ["product_mode", "octal"]),
        ('product_mode = "444"', ["product_mode", "u=rw at least"]),
        ('product_group = ""', ["product_group", "not empty"]),
        ('on_published = ""', ["on_published", "not empty"]),
        ("on_published_timeout_s = 0", ["on_published_timeout_s is 0", "from 1 to"]),
        ("on_published_timeout_s = 0.5", ["on_published_timeout_s is 0.5"]),
        ('event_log = "events"', ['event_log is "events"', "an absolute path"]),
        ("keep_failed = 1", ["keep_failed is 1", "true | false"]),
    ],
)
def test_a_wrong_line_in_the_file_is_refused_with_file_key_value_and_what_is_allowed(
    tmp_path: Path, line: str, words: list[str]
) -> None:
    path = toml(tmp_path / "c.toml", line)
    with pytest.raises(UsageError) as caught:
        load_settings({}, config=path, environ={})
    for word in [str(path), *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("DIRECT_MS", "no", False),
        ("DIRECT_MS", "False", False),
        ("STAGE_TO_TMPFS", "1", True),
        ("STAGE_TO_TMPFS", "on", True),
        ("WORKERS", " 8 ", 8),
        ("WORKERS", "none", None),
        ("SCRATCH_DIR", "/ssd", "/ssd"),
        ("SCRATCH_DIR", "none", None),
        ("IMAGING_COLUMNS", "none", "none"),
        ("SCHEDULER", "tls://10.0.0.1:8786", "tls://10.0.0.1:8786"),
        ("DASHBOARD_ADDRESS", "[::1]:8787", "[::1]:8787"),
        ("TMPFS_BUDGET", "20GB", "20GB"),
        ("PRODUCT_MODE", "0664", "0664"),
        ("PRODUCT_GROUP", "observers", "observers"),
        ("ALLOW_GAP", "yes", True),
        ("KEEP_FAILED", "on", True),
        ("ON_PUBLISHED", "archive --now", "archive --now"),
        ("ON_PUBLISHED", "none", None),
        ("ON_PUBLISHED_TIMEOUT_S", "20", 20),
        ("EVENT_LOG", "/var/log/contimg.ndjson", "/var/log/contimg.ndjson"),
    ],
)
def test_environment_variables_are_read_by_the_type_of_the_field(
    variable: str, text: str, value: object
) -> None:
    loaded = load_settings({}, environ={f"CONTIMG_DASK_{variable}": text})
    assert getattr(loaded.settings, variable.lower()) == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DIRECT_MS", "maybe"),
        ("DIRECT_MS", ""),
        ("WORKERS", ""),
        ("WORKERS", "4.0"),
        ("WORKERS", "1e2"),
        ("WORKERS", "-1"),
        ("EXPECTED_SUBBANDS", "none"),
        ("ON_EXISTING", "SKIP"),
    ],
)
def test_environment_variables_are_read_strictly(variable: str, text: str) -> None:
    name = f"CONTIMG_DASK_{variable}"
    with pytest.raises(UsageError, match=name):
        load_settings({}, environ={name: text})


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(UsageError, match="not a setting"):
        load_settings({"wokers": 3}, environ={})


def test_more_subbands_needed_than_expected_is_refused_with_both_numbers_and_origins() -> None:
    with pytest.raises(UsageError) as caught:
        load_settings({"min_subbands": 17}, environ={})
    for word in ("17", "16", "option --min-subbands", "default"):
        assert word in str(caught.value)


def test_relative_paths_are_from_the_working_directory_on_the_command_line_only(
    empty_working_directory: Path,
) -> None:
    loaded = load_settings({"scratch_dir": Path("ssd")}, environ={})
    assert loaded.settings.scratch_dir == str(empty_working_directory / "ssd")
    with pytest.raises(UsageError, match="absolute path"):
        load_settings({}, environ={"CONTIMG_DASK_SCRATCH_DIR": "ssd"})
    loaded = load_settings({"event_log": "events"}, environ={})
    assert loaded.settings.event_log == str(empty_working_directory / "events")


def test_an_option_with_a_name_of_its_own_is_named_as_people_give_it() -> None:
    loaded = load_settings({"product_mode": "640", "product_group": "observers"}, environ={})
    assert loaded.origins["product_mode"] == "option --mode"
    assert loaded.origins["product_group"] == "option --group"
    with pytest.raises(UsageError, match="option --mode"):
        load_settings({"product_mode": "9"}, environ={})


def test_describe_lists_every_setting_with_value_origin_and_help() -> None:
    rows = describe(load_settings({"workers": 2}, environ={}))
    by_name = {name: rest for name, *rest in rows}
    assert list(by_name) == [item.name for item in dataclasses.fields(Settings)]
    assert by_name["workers"][:2] == ["2", "option --workers"]
    assert by_name["min_subbands"][:2] == ["none", "default"]
    assert by_name["direct_ms"][0] == "true"
    assert by_name["telescope_name"][0] == '"DSA_110"'
    assert all(len(help_text) > 10 for *_, help_text in rows)
    assert "skip | fail | replace" in by_name["on_existing"][2]


def test_what_config_show_prints_can_be_written_to_a_file(tmp_path: Path) -> None:
    rows = describe(load_settings({}, environ={}))
    lines = [f"{name} = {value}" for name, value, *_ in rows if value != "none"]
    path = toml(tmp_path / "c.toml", "\n".join(lines))
    loaded: LoadedSettings = load_settings({}, config=path, environ={})
    assert loaded.settings == Settings()


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 * 2**30), ("500 MB", 500_000_000), ("1.5KiB", 1536), ("7B", 7), ("1TB", 10**12)],
)
def test_sizes_are_read_with_their_unit(text: str, size: int) -> None:
    assert size_bytes(text) == size


@given(st.text())
def test_a_size_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        assert size_bytes(text) >= 0
    except ValueError as error:
        assert "4GiB" in str(error)  # noqa: PT017 - both outcomes are right


def test_the_process_environment_is_set_only_where_the_user_left_it_unset() -> None:
    environ = {"OMP_NUM_THREADS": "8", "PATH": "/bin"}
    settings.apply_process_environment(environ)
    assert environ == {
        "PATH": "/bin",
        "OMP_NUM_THREADS": "8",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "NUMBA_DISABLE_JIT": "1",
    }
    assert settings.process_environment(environ)["OMP_NUM_THREADS"] == "8"
    assert settings.process_environment({})["OMP_NUM_THREADS"] is None


def test_misspelt_variables_are_told() -> None:
    environ = {"CONTIMG_DASK_WORKER": "2", "CONTIMG_DASK_WORKERS": "2", "CONTIMG_DASK_CONFIG": ""}
    assert settings.unknown_environment(environ) == ["CONTIMG_DASK_WORKER"]


def test_the_module_loads_no_numerical_library_before_the_environment_is_set() -> None:
    program = (
        "import sys, types\n"
        # The package's own __init__ is left out: it is the public face, and may load everything.
        "package = types.ModuleType('contimg_dask'); package.__path__ = [sys.argv[1]]\n"
        "sys.modules['contimg_dask'] = package\n"
        "import contimg_dask.settings\n"
        "print(sorted({'numpy', 'h5py', 'casacore', 'dask', 'astropy'} & set(sys.modules)))\n"
    )
    directory = str(Path(settings.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program, directory], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
