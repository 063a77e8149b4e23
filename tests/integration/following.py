"""A directory that is followed without a dispatcher: files come, change and go in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from contimg_dask.catalogue import events, groups, jobs, queue
from contimg_dask.catalogue.opening import Catalogue, open_catalogue
from contimg_dask.catalogue.records import GroupRow
from contimg_dask.dispatching.requests import request_of
from contimg_dask.model import GroupRecord
from contimg_dask.settings import Settings
from contimg_dask.stream.arrivals import Arrivals
from contimg_dask.stream.housekeeping import Housekeeping
from contimg_dask.stream.ingest import Ingest
from contimg_dask.stream.reading import FileReader
from contimg_dask.submitting import Backlog, job_of_stream
from tests.integration.catalogue.nouns import begun, product_of
from tests.services import until

SUBBANDS = 3
STARTED = "2025-10-05T03:12:06"


class Follower:
    """Follows a directory as the daemon does, and knows what came of it."""

    def __init__(self, site: Path, made: Path, **settings: Any) -> None:
        self.made = made
        self.incoming = site / "incoming"
        self.incoming.mkdir(exist_ok=True)
        self.out = site / "products"
        usual = {"expected_subbands": SUBBANDS, "settle_s": 1, "rescan_s": 0.2}
        self.settings = Settings(**usual | settings)
        self.catalogue: Catalogue = open_catalogue(str(site / "catalogue.sqlite"))
        self.lines: list[dict[str, Any]] = []
        self.failed: list[GroupRecord] = []
        backlog = Backlog(
            input_dir=self.incoming, output_dir=self.out, settings=self.settings, label="stream"
        )
        self.job = jobs.open_stream(self.catalogue, job_of_stream(backlog))
        request = replace(request_of(self.job), settings=self.settings)
        self._arrivals = Arrivals(self.catalogue, self.job, request, self._hear, self.failed.append)
        self.ingest = Ingest(
            self.incoming,
            self.settings,
            reader=FileReader(self.catalogue),
            arrivals=self._arrivals,
            housekeeping=Housekeeping(
                self.catalogue, self.incoming, self.settings.keep_events_days, self._hear
            ),
            on_line=self._hear,
        )

    def _hear(self, text: str, /, **fields: object) -> None:
        self.lines.append({"text": text, **fields})

    def said(self, action: str) -> list[str]:
        """What was said of this kind."""
        return [line["text"] for line in self.lines if line.get("action") == action]

    # -- what happens to files ------------------------------------------------------------------

    def name(self, subband: int, group: int = 0) -> str:
        """The name of a simulated file."""
        return sorted(path.name for path in self.made.glob(f"*_sb{subband:02d}.hdf5"))[group]

    def bring(self, *subbands: int, group: int = 0, name: str | None = None) -> list[Path]:
        """Have files arrive as they do: under another name first, then renamed."""
        brought = []
        for subband in subbands:
            source = self.made / self.name(subband, group)
            target = self.incoming / (name or source.name)
            hidden = self.incoming / f".{target.name}.aBcDeF"
            shutil.copyfile(source, hidden)
            hidden.rename(target)
            brought.append(target)
        return brought

    def spoil(self, subband: int, group: int = 0) -> Path:
        """Have a file arrive that is cut short."""
        source = self.made / self.name(subband, group)
        target = self.incoming / source.name
        hidden = self.incoming / f".{target.name}.aBcDeF"
        hidden.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
        hidden.rename(target)
        return target

    # -- what is known of groups ----------------------------------------------------------------

    def rows(self) -> list[GroupRow]:
        """Every group."""
        return groups.list_groups(self.catalogue)

    def states(self) -> list[str]:
        """The state of every group, in time order."""
        return [row.state for row in self.rows()]

    def the_group(self) -> GroupRow:
        """The only group."""
        (row,) = self.rows()
        return row

    def paths(self, key: int) -> list[str]:
        """Names of a group's files."""
        group = groups.get_group(self.catalogue, key).group
        return sorted(Path(subband.header.path).name for subband in group.subbands)

    def until_state(self, *states: str) -> list[GroupRow]:
        """Wait for groups in exactly these states, in time order."""
        until(lambda: self.states() == list(states), 20, every_s=0.05)
        return self.rows()

    def until_present(self, count: int) -> GroupRow:
        """Wait until the only group has so many readable subbands."""
        until(lambda: [row.present for row in self.rows()] == [count], 20, every_s=0.05)
        return self.the_group()

    def until_said(self, action: str) -> str:
        """Wait for a line of this kind; return the first."""
        until(lambda: self.said(action), 20, every_s=0.05)
        return self.said(action)[0]

    def looked_twice(self) -> None:
        """Wait until the whole directory has been looked at twice from now on."""
        rests = self.settings.rescan_s + 0.15
        time.sleep(2 * rests)

    def begin(self, row: GroupRow) -> str:
        """Have a dispatcher begin with a group."""
        return begun(self.catalogue, row.key, f"try-{row.key}-{row.attempts}")

    def publish(self, row: GroupRow) -> GroupRow:
        """Have a dispatcher publish a group."""
        attempt = row.attempt if row.state == "running" else self.begin(row)
        product = product_of(path=f"{self.out}/science/{row.id[:10]}/{row.id}.ms")
        assert queue.publish(
            self.catalogue, row.key, attempt, product, seconds={}, node="10.0.0.1", facts={}
        )
        return groups.get_row(self.catalogue, row.key)

    def failed_record(self, group_id: str) -> Path:
        """Where the record of a failed group is."""
        return self.out / "failed" / group_id[:10] / f"{group_id}.json"

    def told(self) -> list[str]:
        """Kinds of everything that happened, in order."""
        return [event.event for event in events.list_events(self.catalogue)]

    def close(self) -> None:
        """Stop, and let the catalogue go."""
        self.ingest.stop()
        assert self.ingest.healthy
        self.catalogue.close()


@contextmanager
def following(site: Path, made: Path, *, start: bool = True, **settings: Any) -> Iterator[Follower]:
    """Follow a directory while the block runs."""
    site.mkdir(exist_ok=True)
    follower = Follower(site, made, **settings)
    try:
        if start:
            follower.ingest.start()
            assert follower.ingest.scanned.wait(20)
        yield follower
    finally:
        follower.close()
