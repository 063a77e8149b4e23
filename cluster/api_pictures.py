"""Make docs/images/api-*.png: the pages of the web interface, on a night that is made up.

    python -m cluster.api_pictures docs/images

Needs chromium and the extra ``api``. One group is really converted, so that its page has quick-look
plots.
"""

from __future__ import annotations

import asyncio
import io
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from cluster.browser import new_tab, open_browser
from contimg_dask.catalogue.groups import list_groups
from contimg_dask.catalogue.jobs import is_job_done
from contimg_dask.catalogue.opening import open_catalogue
from contimg_dask.simulate import Observation, simulate
from tests.api.site import serving
from tests.night import NODES, fill_night, seen_nodes
from tests.services import COMMAND, until

_COLOURS = 128
_SETTLED_S = 1.5


async def _take(address: str, url: str, picture: Path, width: int, height: int) -> None:
    tab = await new_tab(address)
    await tab.open(url, width, height, scheme="dark")
    await tab.until("document.readyState === 'complete'")
    await tab.evaluate("for (const image of document.images) image.loading = 'eager'")
    await tab.until("[...document.images].every((image) => image.naturalWidth > 0)")
    await asyncio.sleep(_SETTLED_S)
    taken = Image.open(io.BytesIO(await tab.picture(whole=True))).convert("RGB")
    await tab.close()
    # As the eye sees them, and a third of the bytes.
    taken.crop((0, 0, width, min(taken.height, height))).quantize(_COLOURS).save(
        picture, optimize=True
    )
    print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


def _convert_one(place: str, incoming: Path, products: Path) -> int:
    """Have a dispatcher convert a group; return its key."""
    simulate(incoming, Observation(groups=1, antennas=32, integrations=24, name_jitter=False))
    words = [COMMAND, "submit", incoming, products, "--label", "calibrators"]
    subprocess.run([*words, "--catalogue", place], check=True, stdout=subprocess.DEVNULL)
    dispatcher = subprocess.Popen(
        [COMMAND, "dispatch", "--workers", "2", "--catalogue", place], stderr=subprocess.DEVNULL
    )
    try:
        with open_catalogue(place) as catalogue:
            until(lambda: is_job_done(catalogue, 1), 120)
            (row,) = list_groups(catalogue)
    finally:
        dispatcher.send_signal(signal.SIGTERM)
        dispatcher.wait(timeout=60)
    return row.key


def make_pictures(directory: Path) -> None:
    """Take all of them."""
    with tempfile.TemporaryDirectory() as scratch:
        place = str(Path(scratch) / "catalogue.sqlite")
        site_directory = Path(scratch) / "site"
        key = _convert_one(place, site_directory / "incoming", site_directory / "products")
        with open_catalogue(place) as catalogue:
            fill_night(catalogue, dashboard="http://127.0.0.1:8787/status")
            seen_nodes(catalogue, full=NODES[2])
        with serving(site_directory, place) as site, open_browser() as address:
            pages = {
                "night": ("/", 1280, 1500),
                "phone": ("/", 360, 1500),
                "group": (f"/groups/{key}", 1280, 1900),
                "groups": ("/groups?state=failed&state=quarantined&state=running", 1280, 560),
            }
            for name, (page, width, height) in pages.items():
                picture = directory / f"api-{name}.png"
                asyncio.run(_take(address, f"{site.url}{page}", picture, width, height))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    make_pictures(Path(sys.argv[1]))
