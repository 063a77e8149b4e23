"""Make docs/images/api-*.png: the pages of the web interface, on a night that is made up.

    python -m cluster.api_pictures docs/images

Needs chromium and the extra ``api``. One group is really converted, so that its page has quick-look
plots.
"""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from cluster.browser import new_tab, open_browser
from contimg_dask.catalogue.opening import open_catalogue
from tests.api.site import serving
from tests.night import NODES, fill_night, seen_nodes

_COLOURS = 128
_SETTLED_S = 1.5


async def _take(address: str, url: str, picture: Path, width: int, height: int) -> None:
    tab = await new_tab(address)
    await tab.open(url, width, height, scheme="dark")
    await tab.until("document.readyState === 'complete'")
    await tab.until("[...document.images].every((image) => image.complete)")
    await asyncio.sleep(_SETTLED_S)
    taken = Image.open(io.BytesIO(await tab.picture(whole=True))).convert("RGB")
    await tab.close()
    # As the eye sees them, and a third of the bytes.
    taken.crop((0, 0, width, min(taken.height, height))).quantize(_COLOURS).save(
        picture, optimize=True
    )
    print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


def make_pictures(directory: Path) -> None:
    """Take all of them."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "catalogue.sqlite"
        with open_catalogue(str(path)) as catalogue:
            keys = fill_night(catalogue, dashboard="http://127.0.0.1:8787/status")
            seen_nodes(catalogue, full=NODES[2])
        with serving(Path(scratch) / "site", str(path)) as site, open_browser() as address:
            pages = {
                "night": ("/", 1280, 1500),
                "phone": ("/", 360, 1500),
                "group": (f"/groups/{keys['published'][-1]}", 1280, 1100),
                "groups": ("/groups?state=failed&state=quarantined&state=running", 1280, 620),
            }
            for name, (page, width, height) in pages.items():
                picture = directory / f"api-{name}.png"
                asyncio.run(_take(address, f"{site.url}{page}", picture, width, height))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    make_pictures(Path(sys.argv[1]))
