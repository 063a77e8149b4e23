"""Catalogue against disk, both ways, with real products: the disk decides, and is never touched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from contimg_dask import convert_subband_groups_to_ms
from contimg_dask.catalogue import groups, products, queue
from contimg_dask.catalogue.opening import Catalogue, open_catalogue
from contimg_dask.catalogue.records import GroupRow, ProductRow
from contimg_dask.dispatching.reading import read_job
from contimg_dask.errors import UsageError
from contimg_dask.publishing.manifest import MANIFEST_NAME, read_manifest
from contimg_dask.reconciling import Difference, reconcile
from contimg_dask.settings import Settings
from contimg_dask.submitting import Backlog, submit
from tests.acceptance.conftest import make_groups, run
from tests.integration.catalogue.nouns import begun
from tests.integration.test_tiers import mounted
from tests.unit.products import bulk_file, state_of

TINY = {"subbands": 2, "antennas": 3, "integrations": 2, "channels": 4}
IDS = ("2025-10-05T03:12:06", "2025-10-05T03:17:15", "2025-10-05T03:22:24")
ELSEWHERE = "2025-10-04"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three groups and the products a plain conversion made of them; tests copy both."""
    directory = tmp_path_factory.mktemp("made")
    make_groups(directory / "incoming", groups=3, **TINY)
    records = convert_subband_groups_to_ms(
        directory / "incoming", directory / "out", expected_subbands=2, max_workers=1
    )
    assert [record["outcome"] for record in records] == ["published"] * 3
    return directory


@dataclass(kw_only=True)
class Site:
    """An output with products, its input, and a catalogue that knows of nothing yet."""

    catalogue: Catalogue
    place: Path
    incoming: Path
    out: Path

    def path(self, number: int, date: str = "2025-10-05") -> Path:
        """Where the n-th product stands."""
        return self.out / "science" / date / f"{IDS[number]}.ms"

    def reconcile(self, **how: Any) -> list[Difference]:
        return reconcile(self.catalogue, self.out, **how)

    def found(self, **how: Any) -> list[tuple[str, str]]:
        """What reconciling says, without its words."""
        return [(one.what, one.path) for one in self.reconcile(**how)]

    def submit(self, **settings: Any) -> int:
        """Submit the input and have it read; return the id of the job."""
        backlog = Backlog(
            input_dir=self.incoming,
            output_dir=self.out,
            settings=Settings(expected_subbands=2, **settings),
        )
        job = submit(self.catalogue, backlog)
        read_job(self.catalogue, job)
        return job.id

    def group(self, number: int) -> GroupRow:
        (row,) = groups.find_groups(self.catalogue, IDS[number], str(self.out))
        return row

    def product(self, number: int, date: str = "2025-10-05") -> ProductRow:
        row = products.get_product(self.catalogue, str(self.path(number, date)))
        assert row is not None
        return row

    def everything(self) -> tuple[list[GroupRow], list[ProductRow]]:
        return (
            groups.list_groups(self.catalogue),
            list(products.iterate_products(self.catalogue, str(self.out))),
        )

    def move(self, number: int, date: str = ELSEWHERE) -> Path:
        """Move a product to another date, as a person may."""
        target = self.path(number, date)
        target.parent.mkdir(exist_ok=True)
        self.path(number).rename(target)
        return target


@pytest.fixture
def site(made: Path, tmp_path: Path) -> Iterator[Site]:
    shutil.copytree(made, tmp_path / "site")
    place = tmp_path / "catalogue.sqlite"
    with open_catalogue(str(place)) as catalogue:
        yield Site(
            catalogue=catalogue,
            place=place,
            incoming=tmp_path / "site" / "incoming",
            out=tmp_path / "site" / "out",
        )


def agrees_with_manifest(row: ProductRow) -> bool:
    """Tell whether a row says what the product's manifest says."""
    manifest = read_manifest(Path(row.path))
    assert manifest is not None
    pointing = manifest["pointing"]
    names = ("begin_mjd", "middle_mjd", "end_mjd", "ra_deg", "dec_deg", "declination_deg")
    return (
        row.group_id, row.kind, row.start_mjd, row.plan_hash, row.attempt,
        *(getattr(row, name) for name in names),
    ) == (
        manifest["group"], manifest["kind"], manifest["start_mjd"], manifest["plan_hash"],
        manifest["attempt"], *(pointing[name] for name in names),
    )  # fmt: skip


# ------------------------------------------------------------------------------ what is found there


def test_products_of_a_plain_conversion_are_adopted_and_their_groups_published(site: Site) -> None:
    assert site.found() == [("adopted", str(site.path(number))) for number in range(3)]
    for number in range(3):
        row = site.product(number)
        assert agrees_with_manifest(row)
        group = site.group(number)
        assert (group.state, group.path, group.key) == ("published", row.path, row.group_key)
        assert (group.present, group.expected, group.missing) == (2, 2, ())
    assert site.reconcile() == []


def test_a_submitted_group_whose_product_is_there_is_published_without_a_conversion(
    site: Site,
) -> None:
    site.submit()
    assert site.group(1).state == "queued"
    site.reconcile()
    assert [site.group(number).state for number in range(3)] == ["published"] * 3
    assert [group.attempts for group in groups.list_groups(site.catalogue)] == [0] * 3


def test_a_group_that_is_submitted_after_its_product_was_adopted_stays_published(
    site: Site,
) -> None:
    site.reconcile()
    before = [site.group(number).key for number in range(3)]
    job = site.submit()
    rows = groups.list_groups(site.catalogue, job=job)
    assert [(row.key, row.state) for row in rows] == [(key, "published") for key in before]


def test_a_product_of_other_options_is_a_group_of_its_own(site: Site) -> None:
    site.submit(imaging_columns="none")
    site.reconcile()
    states = [row.state for row in groups.list_groups(site.catalogue)]
    assert sorted(states) == ["published"] * 3 + ["queued"] * 3


def test_a_copy_within_the_output_is_one_more_product_of_the_same_group(site: Site) -> None:
    site.reconcile()
    copy = site.path(0, ELSEWHERE)
    shutil.copytree(site.path(0), copy)
    assert site.found() == [("adopted", str(copy))]
    assert site.product(0, ELSEWHERE).group_key == site.product(0).group_key
    assert site.group(0).path == str(site.path(0))
    assert site.reconcile() == []
    shutil.rmtree(copy)
    shutil.rmtree(site.path(0))
    assert sorted(site.found()) == [("removed", str(copy)), ("removed", str(site.path(0)))]
    assert site.reconcile() == []


# ------------------------------------------------------------------------------- moved, and removed


def test_a_product_that_was_moved_within_the_output_is_followed(site: Site) -> None:
    site.reconcile()
    before = site.product(1)
    target = site.move(1)
    assert site.found() == [("moved", str(target))]
    assert site.product(1, ELSEWHERE) == replace(before, path=str(target))
    assert site.group(1).path == str(target)
    assert products.get_product(site.catalogue, str(site.path(1))) is None
    assert site.reconcile() == []


def test_a_product_that_is_gone_is_removed_and_not_converted_again_unless_asked(
    site: Site, tmp_path: Path
) -> None:
    site.reconcile()
    site.submit()
    site.path(1).rename(tmp_path / "taken away")
    assert site.found() == [("removed", str(site.path(1)))]
    assert (site.product(1).status, site.group(1).state) == ("removed", "removed")
    assert site.reconcile() == []
    site.submit()
    assert site.group(1).state == "removed"
    assert queue.retry_groups(site.catalogue) == 0, "retry --all is not about what was removed"
    assert queue.retry_groups(site.catalogue, [site.group(1).key]) == 1
    assert site.group(1).state == "queued"


def test_a_product_that_is_brought_back_is_restored(site: Site, tmp_path: Path) -> None:
    site.reconcile()
    before = site.product(2)
    site.path(2).rename(tmp_path / "taken away")
    site.reconcile()
    (tmp_path / "taken away").rename(site.path(2))
    assert site.found() == [("restored", str(site.path(2)))]
    assert site.product(2) == before
    assert (site.group(2).state, site.group(2).path) == ("published", str(site.path(2)))
    assert site.reconcile() == []


def test_a_product_that_is_brought_back_to_another_place_is_taken_in_there(
    site: Site, tmp_path: Path
) -> None:
    site.reconcile()
    site.path(2).rename(tmp_path / "taken away")
    site.reconcile()
    target = site.path(2, ELSEWHERE)
    target.parent.mkdir()
    (tmp_path / "taken away").rename(target)
    assert site.found() == [("adopted", str(target))]
    assert (site.group(2).state, site.group(2).path) == ("published", str(target))
    assert site.reconcile() == []


@pytest.mark.parametrize("how", ["there is none", "nothing is mounted there"])
def test_an_output_that_is_not_there_marks_nothing(site: Site, how: str, tmp_path: Path) -> None:
    site.reconcile()
    before = site.everything()
    site.out.rename(tmp_path / "unmounted")
    if how == "nothing is mounted there":
        site.out.mkdir()
    with pytest.raises(UsageError, match="mount it first"):
        site.reconcile()
    assert site.everything() == before
    if not site.out.exists():
        site.out.mkdir()
    (site.out / "science").mkdir()
    assert len(site.reconcile()) == 3, "somebody says that they are gone"


def test_a_file_system_that_is_mounted_and_unmounted_again_takes_nothing_with_it(
    made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with open_catalogue(str(tmp_path / "catalogue.sqlite")) as catalogue:
        with mounted(out, 64 << 20):
            shutil.copytree(made / "out", out, dirs_exist_ok=True)
            assert len(reconcile(catalogue, out)) == 3
        with pytest.raises(UsageError, match="3 product"):
            reconcile(catalogue, out)
        assert {row.status for row in products.list_products(catalogue)} == {"published"}


# ----------------------------------------------------------------------------------- what is not so


@pytest.mark.parametrize(
    "wrong",
    [
        {"ra_deg": 1.0},
        {"begin_mjd": None, "declination_deg": -3.0},
        {"plan_hash": "another", "attempt": "nobody's"},
        {"kind": "calibrator"},
    ],
)
def test_a_row_that_is_not_as_the_manifest_is_corrected(site: Site, wrong: dict[str, Any]) -> None:
    site.reconcile()
    right = site.product(0)
    products.repair(site.catalogue, right.path, replace(right, **wrong))
    (found,) = site.reconcile()
    assert (found.what, found.path) == ("repaired", right.path)
    assert all(name in found.text for name in wrong)
    assert site.product(0) == right
    assert site.reconcile() == []


def test_a_product_that_was_calibrated_since_is_no_difference(site: Site) -> None:
    site.reconcile()
    # As a calibration does: more columns, so more bytes.
    (site.path(0) / "table.f99").write_bytes(b"gain" * 1000)
    assert site.reconcile() == []


def truncate_bulk(product: Path) -> None:
    os.truncate(bulk_file(product, "DATA"), 1)


def lose_table(product: Path) -> None:
    (product / "table.dat").unlink()


def lose_manifest(product: Path) -> None:
    (product / MANIFEST_NAME).unlink()


def empty_manifest(product: Path) -> None:
    (product / MANIFEST_NAME).write_text("{}")


@pytest.mark.parametrize("spoil", [truncate_bulk, lose_table, lose_manifest, empty_manifest])
@pytest.mark.parametrize("known", [False, True])
def test_half_a_product_is_doubtful_and_waits_for_a_person(
    site: Site, spoil: Any, known: bool
) -> None:
    if known:
        site.reconcile()
    spoil(site.path(1))
    found = site.found()
    assert ("doubtful", str(site.path(1))) in found
    assert len(found) == (1 if known else 3)
    assert site.found() == [("doubtful", str(site.path(1)))]
    row = products.get_product(site.catalogue, str(site.path(1)))
    assert (row is not None and row.status == "published") == known


def test_a_product_whose_options_are_not_known_is_doubtful(site: Site) -> None:
    path = site.path(0) / MANIFEST_NAME
    manifest = json.loads(path.read_text())
    manifest["options"]["colour"] = "blue"
    path.write_text(json.dumps(manifest))
    assert ("doubtful", str(site.path(0))) in site.found()


# --------------------------------------------------------------------------------- beside dispatchers


def test_a_group_that_is_running_is_left_to_its_dispatcher(site: Site) -> None:
    site.submit()
    attempt = begun(site.catalogue, site.group(0).key)
    assert site.found() == [("adopted", str(site.path(number))) for number in (1, 2)]
    row = site.group(0)
    assert (row.state, row.attempt, row.path) == ("running", attempt, None)


def test_a_product_of_a_running_group_that_comes_back_is_left_to_its_dispatcher(
    site: Site, tmp_path: Path
) -> None:
    site.reconcile()
    site.submit()
    site.path(0).rename(tmp_path / "taken away")
    site.reconcile()
    queue.retry_groups(site.catalogue, [site.group(0).key])
    begun(site.catalogue, site.group(0).key)
    (tmp_path / "taken away").rename(site.path(0))
    assert site.found() == []
    assert (site.group(0).state, site.product(0).status) == ("running", "removed")


def test_a_product_that_is_published_while_reconciling_is_no_difference(site: Site) -> None:
    site.reconcile()
    site.submit(on_existing="replace")
    row = replace(site.product(2), published_s=1.0, bytes=7)
    with site.catalogue.writing() as connection:
        connection.exec_driver_sql("DELETE FROM products WHERE path = ?", (row.path,))

    def publish(done: int, total: int) -> None:
        if done == 1:
            attempt = begun(site.catalogue, site.group(2).key)
            assert queue.publish(
                site.catalogue, site.group(2).key, attempt, row, seconds={}, node=None, facts={}
            )

    assert site.reconcile(progress=publish) == []
    assert site.product(2) == row


def test_a_product_that_is_put_back_while_reconciling_is_not_marked(
    site: Site, tmp_path: Path
) -> None:
    site.reconcile()
    site.path(0).rename(tmp_path / "replaced")  # as --allow-gap does for a moment

    def put_back(done: int, total: int) -> None:
        if done == 1:
            (tmp_path / "replaced").rename(site.path(0))

    assert site.reconcile(progress=put_back) == []
    assert site.product(0).status == "published"


def test_a_product_that_goes_while_reconciling_is_found_the_next_time(
    site: Site, tmp_path: Path
) -> None:
    site.reconcile()

    def take_away(done: int, total: int) -> None:
        if done == 1:
            site.path(2).rename(tmp_path / "taken away")

    assert site.reconcile(progress=take_away) == []
    assert site.found() == [("removed", str(site.path(2)))]


# ---------------------------------------------------------------------------------------- only told


def disturb(site: Site, tmp_path: Path) -> None:
    """Make one of everything that may differ."""
    site.reconcile()
    site.path(0).rename(tmp_path / "taken away")
    site.reconcile()
    (tmp_path / "taken away").rename(site.path(0))
    site.move(1)
    products.repair(site.catalogue, str(site.path(2)), replace(site.product(2), ra_deg=1.0))
    shutil.copytree(site.path(2), site.path(2, ELSEWHERE))
    broken = site.out / "science" / ELSEWHERE / "broken.ms"
    broken.mkdir()


EVERYTHING = {"restored": 1, "moved": 1, "repaired": 1, "adopted": 1, "doubtful": 1}


def counted(found: list[tuple[str, str]]) -> dict[str, int]:
    whats = [what for what, _ in found]
    return {what: whats.count(what) for what in whats}


def test_a_dry_run_says_the_same_and_changes_nothing(site: Site, tmp_path: Path) -> None:
    disturb(site, tmp_path)
    before, disk = site.everything(), state_of(site.out)
    foreseen = site.reconcile(dry_run=True)
    assert counted([(one.what, one.path) for one in foreseen]) == EVERYTHING
    assert (site.everything(), state_of(site.out)) == (before, disk)
    assert site.reconcile() == foreseen
    assert state_of(site.out) == disk, "products are never touched"
    assert counted(site.found()) == {"doubtful": 1}


def test_the_command_says_what_differs_and_ends_with_1_while_something_is_doubtful(
    site: Site, tmp_path: Path
) -> None:
    disturb(site, tmp_path)
    place = ("--catalogue", site.place)
    told = run("reconcile", site.out, *place, "--dry-run")
    assert told.code == 1
    assert told.out.splitlines()[-1].endswith("(nothing was changed: --dry-run)")
    done = run("reconcile", site.out, *place, "--json")
    assert (done.code, done.report["schema"]) == (1, "contimg-dask.reconcile/1")
    assert counted([(d["what"], d["path"]) for d in done.report["differences"]]) == EVERYTHING
    shutil.rmtree(site.out / "science" / ELSEWHERE / "broken.ms")
    clean = run("reconcile", site.out, *place)
    assert (clean.code, clean.out) == (0, "catalogue and disk agree\n")
