"""Products belong to whom they should, and never have the permissions of a private directory."""

from __future__ import annotations

import dataclasses
import errno
import grp
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contimg_dask.convert import convert_in_order
from contimg_dask.errors import OutputError
from contimg_dask.model import ConversionPlan, Publication, Tier
from contimg_dask.planning import propose_tiers
from contimg_dask.publishing.committing import publish
from contimg_dask.publishing.ownership import group_id, make_directories, own_file, own_tree
from tests.unit.plans import attempt_called, bare_plan, entries, write_blocks
from tests.unit.products import ATTEMPT, plan_into, publishing_with, stage

if TYPE_CHECKING:
    from tests.unit.conftest import Converted

NO_GROUP = "contimg-no-such-group"
AS_IT_COMES = Publication()


@pytest.fixture(params=[0o002, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """A umask, for as long as a test takes."""
    mask: int = request.param
    before = os.umask(mask)
    yield mask
    os.umask(before)


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def other_group() -> str:
    """A group that exists, and is not the one new files get."""
    if os.geteuid() != 0:
        numbers = [number for number in os.getgroups() if number != os.getegid()]
        if not numbers:
            pytest.skip("this user is in one group only")
        return grp.getgrgid(numbers[0]).gr_name
    return next(entry.gr_name for entry in grp.getgrall() if entry.gr_gid != os.getegid())


def number_of(group: str) -> int:
    return grp.getgrnam(group).gr_gid


def private_tree(path: Path) -> Path:
    """A product as a temporary directory would have it: nobody else may look inside."""
    write_blocks(path / "SOURCE" / "table.dat", 1)
    write_blocks(path / "table.f1", 1)
    for below in (path, *path.rglob("*")):
        below.chmod(0o700 if below.is_dir() else 0o600)
    return path


def modes(path: Path) -> set[int]:
    """Permissions of all files below a directory."""
    return {stat.S_IMODE(f.stat().st_mode) for f in path.rglob("*") if f.is_file()}


def directory_modes(path: Path) -> set[int]:
    """Permissions of a directory and of all below it."""
    below = (path, *path.rglob("*"))
    return {stat.S_IMODE(d.stat().st_mode) for d in below if d.is_dir()}


def groups(path: Path) -> set[int]:
    """Owning groups of a directory and of all below it."""
    return {below.stat().st_gid for below in (path, *path.rglob("*"))}


# ------------------------------------------------------------------------------------ permissions


def test_a_product_gets_what_the_umask_leaves_however_private_it_was_staged(
    tmp_path: Path, umask: int
) -> None:
    product = private_tree(tmp_path / "a")
    own_tree(str(product), tmp_path, AS_IT_COMES)
    assert modes(product) == {0o666 & ~umask}
    assert directory_modes(product) == {0o777 & ~umask}


def test_the_umask_itself_is_left_as_it_is(tmp_path: Path, umask: int) -> None:
    own_tree(str(private_tree(tmp_path / "a")), tmp_path, AS_IT_COMES)
    (tmp_path / "new").touch()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize(
    ("mode", "of_directories"),
    [(0o664, 0o775), (0o644, 0o755), (0o640, 0o750), (0o600, 0o700), (0o666, 0o777)],
)
def test_a_mode_that_is_asked_for_is_had_and_directories_can_be_searched(
    tmp_path: Path, umask: int, mode: int, of_directories: int
) -> None:
    del umask  # whatever it is
    product = private_tree(tmp_path / "a")
    own_tree(str(product), tmp_path, Publication(mode=mode))
    assert modes(product) == {mode}
    assert directory_modes(product) == {of_directories}


def test_a_product_that_was_open_to_all_is_closed_as_asked(tmp_path: Path) -> None:
    product = private_tree(tmp_path / "a")
    for below in (product, *product.rglob("*")):
        below.chmod(0o777)
    own_tree(str(product), tmp_path, Publication(mode=0o640))
    assert (modes(product), directory_modes(product)) == ({0o640}, {0o750})


@pytest.mark.usefixtures("usual_umask")
def test_a_file_of_its_own_gets_the_same(tmp_path: Path) -> None:
    for publication, mode in ((AS_IT_COMES, 0o644), (Publication(mode=0o664), 0o664)):
        file = tmp_path / "a.json"
        file.touch(0o600)
        file.chmod(0o600)
        own_file(str(file), publication)
        assert stat.S_IMODE(file.stat().st_mode) == mode


# ------------------------------------------------------------------------------------------ groups


@pytest.mark.usefixtures("usual_umask")
def test_a_group_that_is_asked_for_owns_everything_and_directories_hand_it_down(
    tmp_path: Path, other_group: str
) -> None:
    product = private_tree(tmp_path / "a")
    own_tree(str(product), tmp_path, Publication(group=other_group))
    assert groups(product) == {number_of(other_group)}
    assert modes(product) == {0o644}
    assert directory_modes(product) == {0o2755}


@pytest.mark.usefixtures("usual_umask")
def test_a_directory_with_the_set_group_id_bit_hands_down_its_group_and_the_bit(
    tmp_path: Path, other_group: str
) -> None:
    # The product was staged elsewhere, where the kernel knew nothing of it.
    day = tmp_path / "day"
    day.mkdir()
    os.chown(day, -1, number_of(other_group))
    day.chmod(0o2775)
    product = private_tree(tmp_path / "a")
    assert groups(product) != {number_of(other_group)}
    own_tree(str(product), day, AS_IT_COMES)
    assert groups(product) == {number_of(other_group)}
    assert directory_modes(product) == {0o2755}
    assert modes(product) == {0o644}


@pytest.mark.usefixtures("usual_umask")
def test_a_directory_without_the_bit_hands_down_nothing(tmp_path: Path, other_group: str) -> None:
    day = tmp_path / "day"
    day.mkdir(0o755)
    os.chown(day, -1, number_of(other_group))
    product = private_tree(tmp_path / "a")
    own_tree(str(product), day, AS_IT_COMES)
    assert groups(product) == {os.getegid()}
    assert directory_modes(product) == {0o755}


@pytest.mark.usefixtures("usual_umask")
def test_the_group_asked_for_goes_before_that_of_the_directory(
    tmp_path: Path, other_group: str
) -> None:
    day = tmp_path / "day"
    day.mkdir()
    day.chmod(0o2775)
    product = private_tree(tmp_path / "a")
    own_tree(str(product), day, Publication(group=other_group))
    assert groups(product) == {number_of(other_group)}
    assert directory_modes(product) == {0o2755}


def test_a_group_that_is_not_there_is_named_with_a_code_of_its_own() -> None:
    with pytest.raises(OutputError, match=NO_GROUP) as caught:
        group_id(NO_GROUP)
    assert caught.value.code == "unknown-group"
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------- directories


def test_directories_that_are_made_get_what_products_get(tmp_path: Path, umask: int) -> None:
    made = make_directories(tmp_path / "out" / "science" / "2025-10-05", AS_IT_COMES)
    assert sorted(made) == [
        tmp_path / "out",
        tmp_path / "out" / "science",
        tmp_path / "out" / "science" / "2025-10-05",
    ]
    assert directory_modes(tmp_path / "out") == {0o777 & ~umask}


def test_directories_that_are_there_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(0o711)
    (tmp_path / "out").chmod(0o711)
    made = make_directories(tmp_path / "out" / "science", Publication(mode=0o664))
    assert made == [tmp_path / "out" / "science"]
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o711
    assert stat.S_IMODE((tmp_path / "out" / "science").stat().st_mode) == 0o775
    assert make_directories(tmp_path / "out" / "science", Publication(mode=0o600)) == []
    assert stat.S_IMODE((tmp_path / "out" / "science").stat().st_mode) == 0o775


@pytest.mark.usefixtures("usual_umask")
@pytest.mark.parametrize("asked", [False, True])
def test_directories_that_are_made_hand_down_the_group(
    tmp_path: Path, other_group: str, asked: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if not asked:
        os.chown(out, -1, number_of(other_group))
        out.chmod(0o2775)
    publication = Publication(group=other_group if asked else None)
    make_directories(out / "science" / "2025-10-05", publication)
    assert groups(out / "science") == {number_of(other_group)}
    assert directory_modes(out / "science") == {0o2755}


@pytest.mark.parametrize("refusal", ["unknown group", "not permitted"])
def test_directories_that_cannot_be_owned_as_asked_are_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: str, other_group: str
) -> None:
    plan = bare_plan(tmp_path / "out")
    group = NO_GROUP if refusal == "unknown group" else other_group
    staged = Path(plan.home_root, ATTEMPT.name, "product.ms")
    write_blocks(staged / "table.f1", 1)

    def refuse(*_: object) -> None:
        # As for a user who is not in that group.
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises((OutputError, PermissionError)):
        publish(str(staged), publishing_with(plan, group=group), ATTEMPT)
    assert entries(tmp_path / "out") == [".contimg-staging"]


# -------------------------------------------------------------------------------- whole publications


def staged_in(converted: Converted, plan: ConversionPlan) -> str:
    """A product of the plan in a directory that nobody else may enter."""
    staged = stage(converted, plan)
    private = Path(staged).parent
    for below in (private, *private.rglob("*")):
        below.chmod(0o700 if below.is_dir() else 0o600)
    return staged


@pytest.mark.parametrize("far", [False, True])
def test_nothing_of_a_private_staging_directory_shines_through(
    converted: Converted, tmp_path: Path, in_memory: Path, umask: int, far: bool
) -> None:
    tiers = propose_tiers(str(tmp_path / "out"))
    if far:
        tiers = (Tier(name="tmpfs", root=str(in_memory / "staging")), *tiers)
    plan = plan_into(converted, tmp_path / "out", tiers=tiers)
    publish(staged_in(converted, plan), plan, ATTEMPT)
    assert modes(Path(plan.target)) == {0o666 & ~umask}
    assert directory_modes(tmp_path / "out" / "science") == {0o777 & ~umask}


@pytest.mark.parametrize("far", [False, True])
def test_a_product_is_published_with_the_mode_and_group_asked_for(
    converted: Converted, tmp_path: Path, in_memory: Path, other_group: str, far: bool
) -> None:
    tiers = propose_tiers(str(tmp_path / "out"))
    if far:
        tiers = (Tier(name="tmpfs", root=str(in_memory / "staging")), *tiers)
    plan = plan_into(converted, tmp_path / "out", tiers=tiers)
    plan = publishing_with(plan, mode=0o660, group=other_group)
    publish(staged_in(converted, plan), plan, ATTEMPT)
    science = tmp_path / "out" / "science"
    assert modes(science) == {0o660}
    assert directory_modes(science) == {0o2770}
    assert groups(science) == {number_of(other_group)}


@pytest.mark.parametrize("direct", [True, False])
def test_a_conversion_gives_its_product_what_is_asked_for(
    converted: Converted, tmp_path: Path, other_group: str, direct: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    os.chown(out, -1, number_of(other_group))
    out.chmod(0o2775)
    plan = dataclasses.replace(plan_into(converted, out), direct=direct)
    convert_in_order(publishing_with(plan, mode=0o664), attempt_called("a"))
    assert modes(out / "science") == {0o664}
    assert directory_modes(out / "science") == {0o2775}
    assert groups(out / "science") == {number_of(other_group)}


def test_other_products_of_the_day_are_not_touched(converted: Converted, tmp_path: Path) -> None:
    plan = plan_into(converted, tmp_path / "out")
    neighbour = Path(plan.target).parent / "2025-10-05T03:17:15.ms"
    private_tree(neighbour)
    before: Any = {path: path.stat() for path in (neighbour, *neighbour.rglob("*"))}
    publish(stage(converted, plan), publishing_with(plan, mode=0o664), ATTEMPT)
    assert {path: path.stat() for path in before} == before
