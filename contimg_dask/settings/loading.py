"""Read settings from file, environment and command line, and check them.

Only this package looks at environment variables.
"""

from __future__ import annotations

import os
import re
import tomllib
import types
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from contimg_dask.errors import UsageError
from contimg_dask.settings.fields import Settings

ENVIRONMENT_PREFIX = "CONTIMG_DASK_"
CONFIG_VARIABLE = "CONTIMG_DASK_CONFIG"

_SIZE_UNITS = {
    unit: factor
    for power, letter in enumerate("KMGT", start=1)
    for unit, factor in ((f"{letter}B", 1000**power), (f"{letter}iB", 1024**power))
} | {"B": 1}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,3})?) ?([KMGT]i?B|B)", re.ASCII)
_MODE = re.compile(r"0?[0-7]{3}", re.ASCII)
_ADDRESS = re.compile(r"[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")

_FORMS = {
    None: "a text that is not empty",
    "path": "an absolute path",
    "paths": "absolute paths, divided by colons",
    "size": "a size such as 4GiB",
    "address": "HOST:PORT",
    "mode": "octal permissions with u=rw at least, such as 664",
}
_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSettings:
    """Settings and where each value comes from.

    Parameters
    ----------
    settings
        The values.
    origins
        Field name to ``default``, ``file PATH``, ``environment NAME`` or ``option --NAME``.
    """

    settings: Settings
    origins: Mapping[str, str]


def load_settings(
    options: Mapping[str, object],
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> LoadedSettings:
    """Gather the settings: default, then TOML file, then environment, then command line.

    Parameters
    ----------
    options
        Values from the command line or a call, by field name; None stands for "not given".
    config
        TOML file; None looks at ``$CONTIMG_DASK_CONFIG``, then ``./contimg-dask.toml``, then
        ``~/.config/contimg-dask/config.toml``.
    environ
        Environment to read; None is that of the process.

    Raises
    ------
    UsageError
        A file that cannot be read, a key that is no setting, a value of the wrong type or out of
        range: the message names the place, the key, the value found and what is allowed.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origins = dict.fromkeys(_FIELDS, "default")
    for source in (_from_file(config, environ), _from_environment(environ), _given(options)):
        for name, (origin, value) in source.items():
            values[name] = _checked(name, value, origin)
            origins[name] = origin
    settings = Settings(**values)
    _check_together(settings, origins)
    return LoadedSettings(settings=settings, origins=types.MappingProxyType(origins))


def describe(loaded: LoadedSettings) -> list[tuple[str, str, str, str]]:
    """List each setting for people: name, value as TOML would have it, origin, help."""
    return [
        (
            name,
            _shown(getattr(loaded.settings, name)),
            loaded.origins[name],
            f"{declared.metadata['help']} ({_allowed(name)})",
        )
        for name, declared in _FIELDS.items()
    ]


def catalogue_place(settings: Settings, environ: Mapping[str, str] | None = None) -> str:
    """Return where the catalogue is: as configured, else the usual file of this user."""
    if settings.catalogue is not None:
        return settings.catalogue
    environ = os.environ if environ is None else environ
    state = environ.get("XDG_STATE_HOME") or str(
        Path(environ.get("HOME", "/var/lib")) / ".local" / "state"
    )
    return str(Path(state) / "contimg-dask" / "catalogue.sqlite")


def size_bytes(text: str) -> int:
    """Read a size such as ``4GiB`` or ``500 MB``.

    Raises
    ------
    ValueError
        The text is not a number with one of the units B, KB … TB, KiB … TiB.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a size such as 4GiB or 500MB")
    return int(float(found[1]) * _SIZE_UNITS[found[2]])


def check_value(name: str, value: object, origin: str) -> object:
    """Return the value if the setting takes it.

    Raises
    ------
    UsageError
        There is no such setting, or it does not take this; the message begins with ``origin``.
    """
    return _checked(name, value, origin)


def toml_value(value: object) -> str:
    """Return a value as it stands in a TOML file; None, which TOML has not, as ``none``."""
    return _shown(value)


def unknown_environment(environ: Mapping[str, str] | None = None) -> list[str]:
    """List variables that look like settings of ours but are none, such as misspelt ones."""
    environ = os.environ if environ is None else environ
    ours = {name for name in environ if name.startswith(ENVIRONMENT_PREFIX)}
    return sorted(ours - {CONFIG_VARIABLE} - {_variable(name) for name in _FIELDS})


_Sourced = dict[str, tuple[str, object]]


def _from_file(config: Path | None, environ: Mapping[str, str]) -> _Sourced:
    path = _config_path(config, environ)
    if path is None:
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: also of a giant number
        raise UsageError(f"{path}: not a readable TOML file: {error}", path=str(path)) from error
    return {name: (f"file {path}", value) for name, value in content.items()}


def _config_path(config: Path | None, environ: Mapping[str, str]) -> Path | None:
    # A file that was named must be there; one at a usual place may be.
    if config is not None:
        return config
    if named := environ.get(CONFIG_VARIABLE):
        return Path(named)
    usual = [Path("contimg-dask.toml")]
    if home := environ.get("HOME"):
        usual.append(Path(home) / ".config" / "contimg-dask" / "config.toml")
    return next((path for path in usual if path.is_file()), None)


def _from_environment(environ: Mapping[str, str]) -> _Sourced:
    found: _Sourced = {}
    for name in _FIELDS:
        variable = _variable(name)
        if variable in environ:
            origin = f"environment {variable}"
            found[name] = (origin, _parsed(name, environ[variable], origin))
    return found


def _given(options: Mapping[str, object]) -> _Sourced:
    return {
        name: (f"option {_option(name)}", _from_here(name, value))
        for name, value in options.items()
        if value is not None
    }


def _option(name: str) -> str:
    usual = f"--{name.replace('_', '-')}"
    return str(_FIELDS[name].metadata.get("option", usual)) if name in _FIELDS else usual


def _from_here(name: str, value: object) -> object:
    # On a command line a relative path is one from the working directory. In a file or in the
    # environment of a service it is not, and is refused.
    is_path = name in _FIELDS and _FIELDS[name].metadata.get("form") == "path"
    if is_path and isinstance(value, str | os.PathLike) and os.fspath(value):
        return str(Path(value).expanduser().absolute())
    return value


def _parsed(name: str, text: str, origin: str) -> object:
    """Turn the text of an environment variable into a value of the field's type."""
    kinds = _kinds(name)
    if type(None) in kinds and text.strip().lower() == "none":
        return None
    if bool in kinds:
        if (word := text.strip().lower()) in _TRUE + _FALSE:
            return word in _TRUE
        raise _refusal(name, text, origin)
    if int in kinds:
        if re.fullmatch(r"[+-]?\d{1,20}", text.strip()):
            return int(text)
        raise _refusal(name, text, origin)
    return text


def _checked(name: str, value: object, origin: str) -> object:
    """Return the value if the field takes it, else raise a UsageError."""
    if name not in _FIELDS:
        known = ", ".join(_FIELDS)
        raise UsageError(f"{origin}: {name!r} is not a setting. Settings are: {known}")
    if value is None and type(None) in _kinds(name):
        return None
    # bool is an int to isinstance, but `workers = true` is a mistake.
    if type(value) not in _kinds(name) or not _within_limits(name, value):
        raise _refusal(name, value, origin)
    return value


def _within_limits(name: str, value: Any) -> bool:
    limits = _FIELDS[name].metadata
    if choices := _choices(name):
        return value in choices
    if "minimum" in limits:
        return bool(limits["minimum"] <= value <= limits["maximum"])
    return _well_formed(limits.get("form"), value) if isinstance(value, str) else True


def _well_formed(form: str | None, text: str) -> bool:
    if form == "path":
        return Path(text).is_absolute()
    if form == "paths":
        return all(Path(part).is_absolute() for part in text.split(":"))
    if form == "size":
        return _SIZE.fullmatch(text) is not None and size_bytes(text) > 0
    if form == "mode":
        return _MODE.fullmatch(text) is not None and int(text, 8) & 0o600 == 0o600
    if form == "address":
        return _ADDRESS.fullmatch(text) is not None and int(text.rpartition(":")[2]) <= 65535
    return bool(text.strip())


def _check_together(settings: Settings, origins: Mapping[str, str]) -> None:
    if settings.min_subbands is not None and settings.min_subbands > settings.expected_subbands:
        raise UsageError(
            f"min_subbands is {settings.min_subbands} ({origins['min_subbands']}), more than "
            f"expected_subbands, {settings.expected_subbands} ({origins['expected_subbands']}). "
            f"Lower the first or raise the second."
        )


def _refusal(name: str, value: object, origin: str) -> UsageError:
    return UsageError(f"{origin}: {name} is {_shown(value)}, allowed is {_allowed(name)}")


def _allowed(name: str) -> str:
    limits, kinds = _FIELDS[name].metadata, _kinds(name)
    if choices := _choices(name):
        text = " | ".join(choices)
    elif bool in kinds:
        text = "true | false"
    elif int in kinds:
        text = f"a whole number from {limits['minimum']} to {limits['maximum']}"
    else:
        text = _FORMS[limits.get("form")]
    return f"{text}, or none" if type(None) in kinds else text


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _variable(name: str) -> str:
    return f"{ENVIRONMENT_PREFIX}{name.upper()}"


def _kinds(name: str) -> tuple[type, ...]:
    """Return the plain types a field takes: of ``int | None``, int and NoneType."""
    hint = _HINTS[name]
    if get_origin(hint) is Literal:
        return (str,)
    return get_args(hint) or (hint,)


def _choices(name: str) -> tuple[str, ...]:
    hint = _HINTS[name]
    return get_args(hint) if get_origin(hint) is Literal else ()


_FIELDS: dict[str, Field[Any]] = {declared.name: declared for declared in fields(Settings)}
_HINTS: dict[str, Any] = get_type_hints(Settings)
