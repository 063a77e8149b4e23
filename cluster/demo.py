"""Show a cluster that loses hosts and no group: a scheduler's host and four nodes on this machine.

Submits two backlogs to a dispatcher, one whose files every node sees and one whose files lie on the
nodes that recorded them; kills a node, pulls another one's cable, mends both, and counts products.

    python -m cluster.demo            # from the directory above this one, as root; make cluster-demo
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.testbed import Bed, bring_up
from contimg_dask.catalogue.groups import list_groups
from contimg_dask.catalogue.opening import Catalogue, open_catalogue
from contimg_dask.simulate import Observation, simulate

COMMAND = str(Path(sys.executable).with_name("contimg-dask"))
SUBBANDS = 4
LONGEST_S = 150.0
SETTINGS = f"""expected_subbands = {SUBBANDS}
stage_to_tmpfs = true
retry_delay_s = 1
node_wait_s = 100"""


class Story:
    """Tells people what happens, with the seconds since the beginning."""

    def __init__(self) -> None:
        self._begun_s = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._begun_s

    def say(self, text: str) -> None:
        """Print a line."""
        print(f"{self.seconds:6.1f} s  {text}", flush=True)


def record(bed: Bed, incoming: Path) -> None:
    """Put each file on the node that is to have recorded it."""
    for path in sorted(incoming.glob("*.hdf5")):
        node = bed.nodes[int(path.stem.rpartition("sb")[2]) % len(bed.nodes)]
        place = bed.directory / "disks" / node / "incoming"
        shutil.copy2(path, place / path.name)


def submit(bed: Bed, story: Story, incoming: Path, placement: str) -> None:
    """Submit a backlog, or end the demonstration."""
    out = bed.directory / "products" / placement
    done = bed.run(COMMAND, "submit", incoming, out, "--placement", placement)
    if done.returncode:
        raise SystemExit(f"the backlog was not taken: {done.stderr.strip()}")
    where = "on a file system of all" if placement == "group" else "each on its node"
    story.say(f"submitted groups with their files {where}, --placement {placement}")


@contextmanager
def dispatching(bed: Bed) -> Iterator[Path]:
    """Run a dispatcher on the scheduler's host; yields its log."""
    log = bed.directory / "logs" / "dispatcher.log"
    with log.open("w") as file:
        process = bed.popen(COMMAND, "dispatch", stdout=file, stderr=subprocess.STDOUT)
        try:
            yield log
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def states(catalogue: Catalogue) -> Counter[str]:
    """Count the groups by state."""
    return Counter(group.state for group in list_groups(catalogue))


def watch(
    catalogue: Catalogue, story: Story, enough: Callable[[Counter[str]], bool], until_s: float
) -> Counter[str]:
    """Say how the groups fare until that is enough, or so many seconds are over."""
    told: Counter[str] = Counter()
    while True:
        found = states(catalogue)
        if found != told:
            words = ", ".join(f"{count} {state}" for state, count in sorted(found.items()))
            story.say(f"groups: {words or 'none yet'}")
            told = found
        if enough(found) or story.seconds > until_s:
            return found
        time.sleep(0.5)


def lose_and_mend(bed: Bed, story: Story, catalogue: Catalogue, total: int) -> Counter[str]:
    """Kill a node and cut another one off in the middle of the work; return how it ended."""

    def is_done(found: Counter[str]) -> bool:
        return sum(found.values()) == total and not found["queued"] and not found["running"]

    watch(catalogue, story, lambda found: found["published"] > 0, LONGEST_S)
    story.say("node2 is killed, as by a power cut")
    bed.stop("node2")
    if bed.network.isolated:
        story.say("node3's cable is pulled")
        bed.cut("node3")
    watch(catalogue, story, is_done, story.seconds + 15)
    story.say("node2 is switched on again; groups with files there have waited for it")
    bed.start("node2")
    if bed.network.isolated:
        story.say("node3's cable is plugged in again")
        bed.restore("node3")
    return watch(catalogue, story, is_done, LONGEST_S)


def left_behind(bed: Bed) -> list[Path]:
    """Return what is staged anywhere."""
    places = [*(bed.directory / "disks").glob("*/*"), *(bed.directory / "products").glob("*")]
    return [path for place in places for path in place.glob(".contimg-staging/*")]


def play(directory: Path, groups: int) -> int:
    """Show it all; return the exit code."""
    story, incoming = Story(), directory / "incoming"
    simulate(
        incoming,
        Observation(groups=groups, subbands=SUBBANDS, antennas=24, integrations=4, channels=48,
                    name_jitter=False),
    )  # fmt: skip
    story.say(f"simulated {groups} groups of {SUBBANDS} subband files; bringing up five hosts")
    with bring_up(directory / "bed", worker_ttl_s=5, settings=SETTINGS) as bed:
        if bed.word:
            print(f"{bed.word.strip()}; so no cable is pulled", flush=True)
        story.say(f"scheduler at {bed.scheduler_address}, workers on {', '.join(bed.nodes)}")
        record(bed, incoming)
        url = f"{bed.directory}/catalogue.sqlite"
        with dispatching(bed) as log, open_catalogue(url) as catalogue:
            for placement in ("group", "subband"):
                submit(bed, story, incoming, placement)
            found = lose_and_mend(bed, story, catalogue, 2 * groups)
            while (left := left_behind(bed)) and story.seconds < LONGEST_S:
                time.sleep(1)
        return end(story, bed, log, found, left, 2 * groups)


def end(
    story: Story, bed: Bed, log: Path, found: Counter[str], left: list[Path], total: int
) -> int:
    """Say how it ended and where to look; return the exit code."""
    products = sorted((bed.directory / "products").glob("*/science/*/*.ms"))
    well = found["published"] == len(products) == total and not left
    story.say(
        f"{'All' if well else 'NOT ALL'} published: {len(products)} products of {total} groups, "
        f"{len(left)} things left in staging"
    )
    print(f"  products:   {bed.directory / 'products'}")
    print(f"  dispatcher: {log}")
    print(f"  attempts:   {COMMAND} groups --catalogue {bed.directory}/catalogue.sqlite")
    return 0 if well else 1


def main() -> None:
    """Run the demonstration as a command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--directory", type=Path, default=Path("demo/cluster"))
    parser.add_argument("--groups", type=int, default=5)
    options = parser.parse_args()
    if shutil.which("openssl") is None:
        sys.exit("the demonstration makes certificates and needs openssl: apt install openssl")
    shutil.rmtree(options.directory, ignore_errors=True)
    try:
        code = play(options.directory.absolute(), options.groups)
    except KeyboardInterrupt:
        sys.exit(130)
    except TimeoutError as error:
        sys.exit(f"the hosts did not come up: {error}")
    sys.exit(code)


if __name__ == "__main__":
    main()
