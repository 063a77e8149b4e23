"""Make docs/images/dashboard.png: the page in the dashboard, while simulated groups are converted.

    python -m cluster.screenshot docs/images/dashboard.png [WIDTH HEIGHT]

A test bed of four nodes (`testbed.py`; needs root) converts a backlog in which one file is wrong,
and two groups as if they had just been taken. Needs chromium and the extra ``metrics``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from cluster.browser import look_at
from cluster.testbed import Bed, bring_up
from contimg_dask.batch import Request, decide
from contimg_dask.convert import convert_in_order, recipe
from contimg_dask.execution.cluster import connected_cluster
from contimg_dask.execution.encryption import TlsFiles
from contimg_dask.execution.runner import AttemptRunner
from contimg_dask.faults import Fault
from contimg_dask.model import Attempt, ConversionPlan
from contimg_dask.python_api import find_groups
from contimg_dask.settings import load_settings
from contimg_dask.simulate import Observation, simulate
from contimg_dask.staging.owners import current_owner

_COMMAND = str(Path(sys.prefix) / "bin" / "contimg-dask")
_ROOT = Path(__file__).parents[1]
_SUBBANDS, _BACKLOG, _LIVE = 8, 20, 2


class _Nobody:
    """A listener that does not care."""

    def group_started(self, plan: ConversionPlan) -> None: ...
    def step_done(self, plan: ConversionPlan, name: str) -> None: ...
    def group_done(self, plan: ConversionPlan) -> None: ...


def make_picture(picture: Path, width: int, height: int) -> None:
    """Convert on a test bed of its own, and take the picture meanwhile."""
    settings = f"expected_subbands = {_SUBBANDS}\nstage_to_tmpfs = true"
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory,
        bring_up(Path(directory), tmpfs="384MiB", settings=settings) as bed,
    ):
        backlog, live = Path(directory) / "incoming", Path(directory) / "live"
        _simulate(backlog, _BACKLOG, "2025-10-05T03:12:06", "wrong-antennas:1:3")
        _simulate(live, _LIVE, "2025-10-06T04:02:11")
        output = bed.inventory.cluster.output_dir
        runs = [bed.popen(_COMMAND, "convert", backlog, output, stdout=subprocess.DEVNULL)]
        time.sleep(3)
        url = f"http://127.0.0.1:{bed.inventory.cluster.dashboard_port}/contimg"
        looking = _ourselves(bed, "look", url, picture.absolute(), width, height)
        runs.append(_ourselves(bed, "live", live, output))
        code = looking.wait(timeout=120)
        for run in runs:
            run.terminate()
            run.wait(timeout=60)
        assert code == 0


def _simulate(directory: Path, groups: int, start: str, *faults: str) -> None:
    wanted = Observation(
        start=start,
        groups=groups,
        subbands=_SUBBANDS,
        antennas=48,
        integrations=8,
        name_jitter=False,
    )
    simulate(directory, wanted, [Fault.parse(text) for text in faults])


def _ourselves(bed: Bed, *arguments: object) -> subprocess.Popen[str]:
    """Do a part of it on the scheduler's host: who looks and who submits has to be there."""
    words = (sys.executable, "-m", "cluster.screenshot", *map(str, arguments))
    return bed.popen(*words, cwd=_ROOT)


def convert_live(incoming: Path, output: Path) -> None:
    """Convert groups as the dispatcher does those just taken: ahead of the backlog, and named so."""
    settings = load_settings({}).settings
    plans = decide(find_groups(incoming, _SUBBANDS), Request(output_dir=output, settings=settings))
    tls = TlsFiles(
        ca_file=settings.tls_ca_file,
        cert_file=settings.tls_cert_file,
        key_file=settings.tls_key_file,
    )
    with connected_cluster(str(settings.scheduler), tls=tls) as cluster:
        runner = AttemptRunner(cluster, recipe, convert_in_order, _Nobody())
        for plan, node in zip(plans, cluster.nodes, strict=False):
            assert isinstance(plan, ConversionPlan)
            name = f"{plan.group_id}.1.{uuid.uuid4().hex[:8]}"
            attempt = Attempt(number=1, name=name, submitted_s=time.time(), owner=current_owner())
            runner.start(plan, attempt, node, priority=1000, last_try=True, live=True)
        while runner.running:
            list(runner.poll(0.5))


def main(arguments: list[str]) -> None:
    match arguments:
        case ["live", incoming, output]:
            convert_live(Path(incoming), Path(output))
        case ["look", url, picture, width, height]:
            words = ("live", "backlog", "part", "subbands-disagree")
            _, found, _ = look_at(url, *words, width=int(width), height=int(height))
            Path(picture).write_bytes(found)
        case [picture, width, height]:
            make_picture(Path(picture), int(width), int(height))
        case [picture]:
            make_picture(Path(picture), 1200, 1040)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
