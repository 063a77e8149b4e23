"""Options that several commands share, each said once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contimg_dask.cli_errors import refuse
from contimg_dask.errors import ContimgError, UsageError
from contimg_dask.settings import LARGEST_WHOLE_NUMBER, Settings, load_settings

if TYPE_CHECKING:
    from contimg_dask.catalogue.opening import Catalogue

Option = Callable[[Any], Any]

NUMBER = click.IntRange(1, LARGEST_WHOLE_NUMBER)
"""Of a job, or of rows."""

_CLUSTER: tuple[Option, ...] = (
    click.option("--workers", type=int, metavar="N", help="Embedded worker processes [cores]."),
    click.option("--scheduler", metavar="ADDRESS", help="Use this running Dask scheduler."),
    click.option("--tls-ca", "tls_ca_file", metavar="FILE", help="Its certificate authority."),
    click.option("--tls-cert", "tls_cert_file", metavar="FILE", help="Certificate to show to it."),
    click.option("--tls-key", "tls_key_file", metavar="FILE", help="Key of that certificate."),
    click.option(
        "--allow-plain-tcp/--no-allow-plain-tcp",
        default=None,
        help="Use a scheduler elsewhere without encryption [no].",
    ),
)
_PRODUCT: tuple[Option, ...] = (
    click.option("--direct-ms/--no-direct-ms", default=None,
                 help="Write into the product, or parts to concatenate [direct]."),
    click.option("--parallel-subband/--no-parallel-subband", default=None,
                 help="A task per subband, or one per group [parallel]."),
    click.option("--max-readers", type=int, metavar="N",
                 help="Processes of a node reading one input device [no bound]."),
    click.option("--on-existing", type=click.Choice(["skip", "fail", "replace"]),
                 help="When the product is there already [skip]."),
    click.option("--telescope-name", metavar="NAME", help="In OBSERVATION [DSA_110]."),
    click.option("--imaging-columns", type=click.Choice(["zero", "copy", "none"]),
                 help="MODEL_DATA zero, CORRECTED_DATA zero or a copy of DATA [zero]."),
    click.option("--spw", type=click.Choice(["subband", "single"]),
                 help="A spectral window per subband, or a single one [subband]."),
    click.option("--phase-centre", type=click.Choice(["auto", "meridian", "keep"]),
                 help="Meridian per integration, or the tracked centre [auto: as the data are]."),
    click.option("--quicklook/--no-quicklook", default=None,
                 help="Keep a small quick-look in the product [yes]."),
    click.option("--stage-to-tmpfs/--no-stage-to-tmpfs", default=None,
                 help="Stage products in memory, where they fit [no]."),
    click.option("--tmpfs-path", metavar="DIR", help="Where that is [/dev/shm]."),
    click.option("--tmpfs-budget", metavar="SIZE", help="The most they may take there together."),
    click.option("--scratch-dir", metavar="DIR", help="Stage products on this disk."),
    click.option("--disk-reserve", metavar="SIZE", help="Leave so much free on the disk of products."),
    click.option("--kind", type=click.Choice(["science", "calibrator"]), default="science",
                 help="Branch of the layout: science/ or calibrators/ [science]."),
    click.option("--mode", "product_mode", metavar="OCTAL",
                 help="Permissions of a product's files, such as 664 [umask]."),
    click.option("--group", "product_group", metavar="NAME", help="Group that owns products."),
    click.option("--allow-gap/--no-allow-gap", default=None,
                 help="Replace also where directories cannot be exchanged [no]."),
    click.option("--keep-failed/--no-keep-failed", default=None,
                 help="Keep what a failed group got to, below failed/ [no]."),
)  # fmt: skip
_LISTENERS: tuple[Option, ...] = (
    click.option("--on-published", metavar="CMD",
                 help="Run once per product, its record on standard input."),
    click.option("--event-log", metavar="FILE", help="Append a line of JSON per event."),
)  # fmt: skip
_REPORT: tuple[Option, ...] = (
    click.option("--dry-run", is_flag=True, help="Only print what would be done."),
    click.option("--strict", is_flag=True, help="Exit 1 also for incomplete groups."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output."),
)
CONFIG: Option = click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="TOML file."
)
CATALOGUE: Option = click.option(
    "--catalogue",
    metavar="FILE|URL",
    help="SQLite file or database URL [~/.local/state/contimg-dask/catalogue.sqlite].",
)
JSON: Option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object on standard output."
)
NOT_SETTINGS = frozenset({"config", "dry_run", "strict", "as_json", "kind"})


def shared(*options: Option | tuple[Option, ...]) -> Callable[[Callable[..., None]], Any]:
    """Return a decorator that adds these options, in order."""
    flat = [one for some in options for one in (some if isinstance(some, tuple) else (some,))]

    def decorate(command: Callable[..., None]) -> Any:
        for option in reversed(flat):
            command = option(command)
        return command

    return decorate


conversion_options = shared(_CLUSTER, _PRODUCT, _LISTENERS, CONFIG, _REPORT)
"""What both conversions take."""
PLACEMENT: Option = click.option(
    "--placement",
    type=click.Choice(["group", "subband"]),
    help="A group on one node, or parts on the nodes that have the files [group].",
)
product_options = shared(_PRODUCT, PLACEMENT, CATALOGUE, CONFIG)
"""What goes with a job."""
_LOG: Option = click.option(
    "--log-format", type=click.Choice(["text", "json"]), help="Lines as text, or JSON [text]."
)
dispatcher_options = shared(_CLUSTER, _LISTENERS, _LOG, CATALOGUE, CONFIG)
"""What is the dispatcher's own."""
stream_options = shared(_CLUSTER, _PRODUCT, _LISTENERS, _LOG, CATALOGUE, CONFIG)
"""What goes with the groups of a stream, and what is the dispatcher's."""


def settings_of(options: dict[str, Any], **more: Any) -> Settings:
    """Return the settings of a command, or refuse them in one line."""
    chosen = {name: value for name, value in options.items() if name not in NOT_SETTINGS}
    try:
        return load_settings(chosen | more, options.get("config")).settings
    except ContimgError as error:
        refuse(error)


def required(found: Catalogue | None, place: str) -> Catalogue:
    """Return the catalogue of a command that has nothing to do without one.

    Raises
    ------
    UsageError
        There is none.
    """
    if found is not None:
        return found
    kind, is_url, _ = place.partition("://")
    raise UsageError(
        f"{f'{kind}://…' if is_url else place}: there is no catalogue: 'contimg-dask submit' makes "
        f"one; give another with --catalogue"
    )
