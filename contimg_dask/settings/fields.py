"""Every setting of the program, in one frozen object that is read at the edge and passed down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from contimg_dask.model import (
    ImagingColumns,
    OnExisting,
    PhaseCentre,
    SpectralWindows,
)

Placement = Literal["group", "subband"]
LogFormat = Literal["text", "json"]

LARGEST_WHOLE_NUMBER = 10**9
"""What a setting takes at most, where nothing less is said: databases and timers can hold it."""
_MOST_SUBBANDS = 1000
_MOST_PROCESSES = 1000


def _takes(help_text: str, **limits: Any) -> dict[str, Any]:
    """Say of a field what it is for (its line in ``config show``) and what values it takes."""
    if "minimum" in limits:
        limits.setdefault("maximum", LARGEST_WHOLE_NUMBER)
    return {"help": help_text, **limits}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be chosen; the meaning of each field stands beside it and in ``config show``.

    Notes
    -----
    The constructor checks nothing: values from outside come in by `load_settings`, which does.
    """

    expected_subbands: int = field(
        default=16,
        metadata=_takes("subbands of a complete group", minimum=1, maximum=_MOST_SUBBANDS),
    )
    min_subbands: int | None = field(
        default=None,
        metadata=_takes(
            "convert a group with at least this many subbands; none: all expected",
            minimum=1,
            maximum=_MOST_SUBBANDS,
        ),
    )
    workers: int | None = field(
        default=None,
        metadata=_takes(
            "worker processes of the embedded cluster; none: one per core",
            minimum=1,
            maximum=_MOST_PROCESSES,
        ),
    )
    scheduler: str | None = field(
        default=None,
        metadata=_takes("address of a running Dask scheduler; none: an embedded cluster"),
    )
    tls_ca_file: str | None = field(
        default=None,
        metadata=_takes(
            "certificate authority of the Dask cluster; none: as Dask's own configuration has it",
            form="path",
            option="--tls-ca",
        ),
    )
    tls_cert_file: str | None = field(
        default=None,
        metadata=_takes("certificate to show to it", form="path", option="--tls-cert"),
    )
    tls_key_file: str | None = field(
        default=None, metadata=_takes("key of that certificate", form="path", option="--tls-key")
    )
    allow_plain_tcp: bool = field(
        default=False,
        metadata=_takes("use a scheduler on another machine also without encryption"),
    )
    direct_ms: bool = field(
        default=True,
        metadata=_takes("write subbands straight into the product, without parts to concatenate"),
    )
    parallel_subband: bool = field(
        default=True, metadata=_takes("spread the subbands of a group over the workers")
    )
    on_existing: OnExisting = field(
        default="skip", metadata=_takes("what to do when the product is already there")
    )
    telescope_name: str = field(
        default="DSA_110",
        metadata=_takes("TELESCOPE_NAME of the product; CASA's listobs knows OVRO_MMA"),
    )
    imaging_columns: ImagingColumns = field(
        default="zero",
        metadata=_takes("MODEL_DATA zero, CORRECTED_DATA zero or a copy of DATA; none: neither"),
    )
    phase_centre: PhaseCentre = field(
        default="auto",
        metadata=_takes("meridian of each integration, or the tracked centre; auto: as it came"),
    )
    max_readers: int | None = field(
        default=None,
        metadata=_takes("processes of a node reading one input device; none: no bound", minimum=1),
    )
    spw: SpectralWindows = field(
        default="subband", metadata=_takes("a spectral window per subband, or a single one")
    )
    quicklook: bool = field(
        default=True,
        metadata=_takes("keep a small quick-look (amplitudes, flags, uv coverage) in the product"),
    )
    stage_to_tmpfs: bool = field(
        default=False, metadata=_takes("write the product in memory first, then copy it out")
    )
    tmpfs_path: str = field(
        default="/dev/shm",  # noqa: S108 - the mount; each attempt makes its own directory in it
        metadata=_takes("where memory staging goes", form="path"),
    )
    scratch_dir: str | None = field(
        default=None,
        metadata=_takes("staging directory on a local disk; none: beside the product", form="path"),
    )
    worker_memory_limit: str = field(
        default="4GiB",
        metadata=_takes("memory of one worker, above which Dask restarts it", form="size"),
    )
    dashboard_address: str = field(
        default="127.0.0.1:0",
        metadata=_takes(
            "where the dashboard listens; it has no login; port 0: any", form="address"
        ),
    )
    tmpfs_budget: str | None = field(
        default=None,
        metadata=_takes(
            "the most that groups may take of it together; none: no bound", form="size"
        ),
    )
    keep_failed: bool = field(
        default=False,
        metadata=_takes("keep the half-made Measurement Set of a failed group beside its record"),
    )
    allow_gap: bool = field(
        default=False,
        metadata=_takes(
            "replace a product also where the file system cannot exchange two directories, "
            "although readers may find neither for a moment"
        ),
    )
    product_mode: str | None = field(
        default=None,
        metadata=_takes(
            "permissions of a product's files, in octal; none: what the umask leaves",
            form="mode",
            option="--mode",
        ),
    )
    product_group: str | None = field(
        default=None,
        metadata=_takes(
            "group that owns products; none: that of the process, or of a directory with the "
            "set-group-id bit",
            option="--group",
        ),
    )
    on_published: str | None = field(
        default=None,
        metadata=_takes("command run once per published product, its record on standard input"),
    )
    on_published_timeout_s: int = field(
        default=300,
        metadata=_takes("seconds such a command may take before it is stopped", minimum=1),
    )
    event_log: str | None = field(
        default=None,
        metadata=_takes("file that gets a line of JSON for everything that happens", form="path"),
    )
    groups_in_flight: int | None = field(
        default=None,
        metadata=_takes("groups at the same time per node; none: 2", minimum=1),
    )
    catalogue: str | None = field(
        default=None,
        metadata=_takes(
            "file of an SQLite catalogue, or a database URL; none: "
            "$XDG_STATE_HOME/contimg-dask/catalogue.sqlite, usually below ~/.local/state"
        ),
    )
    retry_delay_s: int = field(
        default=10,
        metadata=_takes(
            "seconds a dispatcher waits before a second attempt; six and thirty times as long "
            "before the third and fourth",
            minimum=0,
        ),
    )
    stop_timeout_s: int = field(
        default=60,
        metadata=_takes(
            "seconds in which a dispatcher that is stopped finishes what runs; then it is given back",
            minimum=0,
        ),
    )
    dispatcher_lease_s: int = field(
        default=30,
        metadata=_takes(
            "seconds after which another dispatcher may take over from one that has gone silent",
            minimum=5,
        ),
    )
    placement: Placement = field(
        default="group",
        metadata=_takes(
            "group: all of a group on one node, which sees its files; subband: files lie on the "
            "nodes that recorded them, and parts are made there"
        ),
    )
    node_wait_s: int = field(
        default=600,
        metadata=_takes(
            "seconds a group waits for a node that has files of it and is gone; then it goes on "
            "without them, or fails",
            minimum=0,
        ),
    )
    api_host: str = field(
        default="127.0.0.1",
        metadata=_takes("IP address that the web interface listens on", option="--host"),
    )
    api_port: int = field(
        default=8790, metadata=_takes("its port", minimum=1, maximum=65535, option="--port")
    )
    api_names: str | None = field(
        default=None,
        metadata=_takes(
            "host names, divided by commas, by which browsers may call it besides its address; "
            "none: only the loopback's"
        ),
    )
    api_token_file: str | None = field(
        default=None,
        metadata=_takes(
            "file with the token that whoever changes something there has to know; none: nothing "
            "can be changed",
            form="path",
            option="--token-file",
        ),
    )
    input_roots: str | None = field(
        default=None,
        metadata=_takes(
            "directories, divided by colons, below which a job of the web interface may read; "
            "none: it takes no jobs",
            form="paths",
        ),
    )
    output_roots: str | None = field(
        default=None,
        metadata=_takes(
            "directories, divided by colons, below which it may show products, and have jobs "
            "write; none: it takes no jobs, and shows those of every known OUTPUT",
            form="paths",
        ),
    )
    disk_reserve: str | None = field(
        default=None,
        metadata=_takes(
            "free space to leave on the disk of products; a dispatcher waits when a group would "
            "take it; none: a fifth of what is free then",
            form="size",
        ),
    )
    collecting_timeout_s: int = field(
        default=600,
        metadata=_takes(
            "seconds a stream waits for the missing subbands of a group after the last one came",
            minimum=0,
            option="--collecting-timeout",
        ),
    )
    settle_s: int = field(
        default=2,
        metadata=_takes(
            "seconds a file must not change before a stream takes it for finished, if it was not "
            "renamed into its place",
            minimum=0,
        ),
    )
    rescan_s: int = field(
        default=60,
        metadata=_takes(
            "seconds between two looks at the whole input directory of a stream", minimum=1
        ),
    )
    poll: bool = field(
        default=False,
        metadata=_takes("watch by looking alone, every two seconds: for network file systems"),
    )
    live_within_s: int = field(
        default=3600,
        metadata=_takes(
            "seconds for which a stream's group goes before every backlog, after its last file came",
            minimum=0,
        ),
    )
    keep_events_days: int = field(
        default=90,
        metadata=_takes("days after which a stream removes events from the catalogue", minimum=1),
    )
    log_format: LogFormat = field(
        default="text", metadata=_takes("lines of services: text, or a JSON object each")
    )
