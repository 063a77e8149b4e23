"""Tiers on real file systems: the first with room is taken, a full one leaves nothing behind, and
wherever a product is made it is the same.
"""

from __future__ import annotations

import errno
import functools
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from contimg_dask.convert import convert_in_order
from contimg_dask.deciding import Request, decide
from contimg_dask.errors import NoSpaceError
from contimg_dask.execution import steps
from contimg_dask.model import Attempt, ConversionPlan, GroupRecord, Product
from contimg_dask.publishing.manifest import read_manifest
from contimg_dask.python_api import find_groups
from contimg_dask.settings import Settings
from contimg_dask.simulate import Observation, simulate
from contimg_dask.staging.attempts import find_attempt
from contimg_dask.verification import verify
from tests.acceptance.conftest import run, tree
from tests.reference import new_attempt, tile_files

MIB = 1 << 20
STAGING = ".contimg-staging"


@contextmanager
def mounted(directory: Path, size_bytes: int) -> Iterator[Path]:
    """A real file system in memory of this size; skips the test where none can be mounted."""
    directory.mkdir(parents=True)
    options = f"size={size_bytes},mode=755"
    mount = ["mount", "-t", "tmpfs", "-o", options, "contimg-test", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root and CAP_SYS_ADMIN")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A directory on disk to stage in."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    return directory


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups of two subbands, each with a product of 8 MB that is planned with 13 MB."""
    directory = tmp_path_factory.mktemp("incoming")
    simulate(
        directory,
        Observation(groups=2, subbands=2, antennas=40, integrations=4, name_jitter=False),
    )
    return directory


def plans(incoming: Path, out: Path, mapper: Any = None, **settings: Any) -> list[ConversionPlan]:
    """Decide on both groups, as a conversion does."""
    request = Request(output_dir=out, settings=Settings(**settings), path_mapper=mapper)
    decided = decide(find_groups(incoming, 2), request)
    assert all(isinstance(decision, ConversionPlan) for decision in decided), decided
    return [decision for decision in decided if isinstance(decision, ConversionPlan)]


def convert(plan: ConversionPlan, attempt: Attempt | None = None) -> Product:
    """Convert in this process, and check that nothing but the product came of it."""
    product = convert_in_order(plan, attempt or new_attempt())
    assert_nothing_staged(plan)
    return product


def assert_nothing_staged(plan: ConversionPlan) -> None:
    """No tier holds anything, and nothing hidden stands beside the target."""
    assert [tier.root for tier in plan.tiers if os.path.lexists(tier.root)] == []
    beside = Path(plan.target).parent
    hidden = [path for path in beside.glob(".*") if path.name != STAGING] if beside.exists() else []
    assert hidden == []


def files_in(root: Path) -> list[str]:
    """Everything below a directory that is no directory."""
    return [str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()]


def assert_nothing_left(*roots: Path) -> None:
    """There is nothing in these directories."""
    assert [str(path) for root in roots for path in root.rglob("*")] == []


# ------------------------------------------------------------------------------ which tier it is


def test_a_group_too_big_for_memory_goes_to_the_next_tier_and_its_record_says_why(
    incoming: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "tmpfs", 6 * MIB) as tmpfs:
        ran = run(
            "convert", incoming, tmp_path / "out", "--expected-subbands", "2", "--workers", "1",
            "--stage-to-tmpfs", "--tmpfs-path", tmpfs, "--json",
        )  # fmt: skip
        assert ran.code == 0, ran.err
        assert_nothing_left(tmpfs)
    assert len(ran.report["groups"]) == 2
    for record in ran.report["groups"]:
        assert record["outcome"] == "published"
        assert (record["tier_proposed"], record["tier"]) == ("tmpfs", "destination")
        # 0.8 × 6 MiB is 5.0 MB; needed and to use, of the tier refused and of the tier taken.
        assert "tmpfs is too full (" in record["tier_reason"]
        assert "needed, 5.0 MB to use" in record["tier_reason"]
        assert record["tier_reason"].count(" MB needed, ") == 2
        manifest = read_manifest(Path(record["path"]))
        assert manifest is not None
        assert {name: manifest[name] for name in ("tier", "tier_proposed", "tier_reason")} == {
            name: record[name] for name in ("tier", "tier_proposed", "tier_reason")
        }
    assert [name for name in tree(tmp_path / "out") if not name.startswith("science")] == []


def test_of_two_groups_at_once_memory_takes_the_one_it_has_room_for(
    incoming: Path, tmp_path: Path, scratch: Path
) -> None:
    out = tmp_path / "out"
    with mounted(tmp_path / "tmpfs", 24 * MIB) as tmpfs:
        two = plans(
            incoming, out, stage_to_tmpfs=True, tmpfs_path=str(tmpfs), scratch_dir=str(scratch)
        )
        attempts = [new_attempt(f"{plan.group_id}.1.test") for plan in two]
        for plan, attempt in zip(two, attempts, strict=True):
            assert plan.bytes_staged < 0.8 * 24 * MIB < 2 * plan.bytes_staged
            steps.open_attempt(plan, attempt)
        products = [convert_in_order(*each) for each in zip(two, attempts, strict=True)]
        assert [product.tier for product in products] == ["tmpfs", "scratch"]
        assert "promised to others" in products[1].tier_reason
        # With the other one gone there is room again.
        again = plans(incoming, tmp_path / "second", stage_to_tmpfs=True, tmpfs_path=str(tmpfs))
        assert convert(again[1]).tier == "tmpfs"
        assert_nothing_left(tmpfs, scratch)


def test_what_is_written_already_counts_once(incoming: Path, tmp_path: Path) -> None:
    # Both fit, because the first has its promise on the file system by then, not on top of it.
    with mounted(tmp_path / "tmpfs", 36 * MIB) as tmpfs:
        two = plans(incoming, tmp_path / "out", stage_to_tmpfs=True, tmpfs_path=str(tmpfs))
        attempts = [new_attempt(f"{plan.group_id}.1.test") for plan in two]
        steps.open_attempt(two[0], attempts[0])
        steps.write_rows(two[0], attempts[0])
        for position in range(2):
            steps.write_part(two[0], attempts[0], position)
        steps.open_attempt(two[1], attempts[1])
        products = [convert_in_order(*each) for each in zip(two, attempts, strict=True)]
        assert [product.tier for product in products] == ["tmpfs", "tmpfs"]


@pytest.mark.parametrize(("budget", "tiers"), [("1MB", ["destination"] * 2),
                                               ("20MB", ["tmpfs", "destination"]),
                                               ("100MB", ["tmpfs", "tmpfs"])])  # fmt: skip
def test_groups_at_once_stay_within_the_budget_for_memory(
    incoming: Path, tmp_path: Path, budget: str, tiers: list[str]
) -> None:
    memory = tmp_path / "memory"  # the budget decides, not what it is made of
    memory.mkdir()
    two = plans(
        incoming,
        tmp_path / "out",
        stage_to_tmpfs=True,
        tmpfs_path=str(memory),
        tmpfs_budget=budget,
    )
    attempts = [new_attempt(f"{plan.group_id}.1.test") for plan in two]
    for plan, attempt in zip(two, attempts, strict=True):
        steps.open_attempt(plan, attempt)
    products = [convert_in_order(*each) for each in zip(two, attempts, strict=True)]
    assert [product.tier for product in products] == tiers


@functools.cache
def made_directly(incoming: Path, direct: bool) -> dict[str, bytes]:
    """Bulk columns of the first group's product, made where it belongs."""
    with tempfile.TemporaryDirectory(prefix="contimg-test-") as directory:
        (plan, _) = plans(incoming, Path(directory), direct_ms=direct)
        return tile_files(Path(convert(plan).path))


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("tier", ["tmpfs", "scratch"])
def test_a_product_is_the_same_to_the_byte_wherever_it_is_staged(
    incoming: Path, tmp_path: Path, scratch: Path, tier: str, direct: bool
) -> None:
    settings: dict[str, Any] = {
        "tmpfs": {"stage_to_tmpfs": True},
        "scratch": {"scratch_dir": str(scratch)},
    }[tier]
    with ExitStack() as stack:
        # Whatever is first, staging and destination are two file systems.
        out = stack.enter_context(mounted(tmp_path / "out", 64 * MIB))
        if tier == "tmpfs":
            memory = stack.enter_context(mounted(tmp_path / "tmpfs", 64 * MIB))
            settings["tmpfs_path"] = str(memory)
        (plan, _) = plans(incoming, out, direct_ms=direct, **settings)
        product = convert(plan)
        assert product.tier == tier
        assert tile_files(Path(product.path)) == made_directly(incoming, direct)
        assert verify(Path(product.path), incoming) == []
    assert made_directly(incoming, True) == made_directly(incoming, False)


# ------------------------------------------------------------------- no space in the middle of it


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reservations find room: somebody else takes it between the promise and the write."""
    for module in ("room", "reserving"):
        monkeypatch.setattr(f"contimg_dask.staging.{module}.usable_bytes", lambda *_, **__: 10**12)


def fail_for_want_of_space(plan: ConversionPlan, tier: str) -> NoSpaceError:
    """Convert until the file system is full, and give the attempt up as an executor does."""
    attempt = new_attempt()
    steps.open_attempt(plan, attempt)
    assert find_attempt(plan, attempt).tier == tier
    with pytest.raises(NoSpaceError) as caught:
        convert_in_order(plan, attempt)
    steps.discard_attempt(plan, attempt, plan.publication.keep_failed)
    assert_nothing_staged(plan)
    return caught.value


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("left_mb", [0.2, 4, 6, 8])
@pytest.mark.parametrize("tier", ["tmpfs", "scratch", "destination"])
def test_a_tier_that_becomes_full_while_it_is_written_fails_the_group_and_is_left_clean(
    incoming: Path, tmp_path: Path, tier: str, left_mb: float, direct: bool
) -> None:
    with mounted(tmp_path / "full", 32 * MIB) as full:
        out = full if tier == "destination" else tmp_path / "out"
        settings: dict[str, Any] = {
            "tmpfs": {"stage_to_tmpfs": True, "tmpfs_path": str(full)},
            "scratch": {"scratch_dir": str(full)},
            "destination": {},
        }[tier]
        (full / "ballast").write_bytes(bytes(int((32 - left_mb) * MIB)))
        (plan, _) = plans(incoming, out, direct_ms=direct, **settings)
        error = fail_for_want_of_space(plan, tier)
        assert str(full) in str(error)
        assert [path.name for path in full.iterdir()] == ["ballast"]
        assert not out.exists() or tier == "destination" or not list(out.iterdir())
        # Once there is room, the same plan is carried out.
        (full / "ballast").unlink()
        product = convert(plan)
        assert product.tier == tier
        assert tile_files(Path(product.path)) == made_directly(incoming, True)


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("left_mb", [0, 0.2, 4, 8])
def test_a_destination_that_becomes_full_while_it_is_copied_to_has_no_part_of_the_copy(
    incoming: Path, tmp_path: Path, scratch: Path, left_mb: float
) -> None:
    with mounted(tmp_path / "out", 16 * MIB) as out:
        (plan, _) = plans(incoming, out, scratch_dir=str(scratch))
        (out / "ballast").write_bytes(bytes(int((16 - left_mb) * MIB) - 65536))
        error = fail_for_want_of_space(plan, "scratch")
        assert str(out) in str(error)
        assert files_in(out) == ["ballast"]
        assert_nothing_left(scratch)


@pytest.mark.usefixtures("trusting")
def test_directories_that_were_made_for_a_copy_that_failed_are_removed(
    incoming: Path, tmp_path: Path, scratch: Path
) -> None:
    with mounted(tmp_path / "out", 16 * MIB) as out:
        (out / "ballast").write_bytes(bytes(14 * MIB))
        (plan, _) = plans(incoming, out, scratch_dir=str(scratch))
        fail_for_want_of_space(plan, "scratch")
        assert [path.name for path in out.iterdir()] == ["ballast"]


@pytest.mark.usefixtures("trusting")
def test_what_is_kept_of_a_failed_group_is_not_half_of_it_where_the_disk_is_full(
    incoming: Path, tmp_path: Path, scratch: Path
) -> None:
    with mounted(tmp_path / "out", 16 * MIB) as out:
        (out / "ballast").write_bytes(bytes(14 * MIB))
        (plan, _) = plans(incoming, out, scratch_dir=str(scratch), keep_failed=True)
        fail_for_want_of_space(plan, "scratch")
        assert files_in(out) == ["ballast"]


# ------------------------------------------------------------- output and target in strange places


def linked(place: Path, stack: ExitStack) -> tuple[Path, Path]:
    """An output that is a link to a directory on the same file system."""
    (place / "real").mkdir()
    (place / "out").symlink_to("real")
    return place / "out", place / "real"


def linked_away(place: Path, stack: ExitStack) -> tuple[Path, Path]:
    """An output that is a link to another file system."""
    real = stack.enter_context(mounted(place / "real", 64 * MIB))
    (place / "out").symlink_to(real)
    return place / "out", real


def linked_within(place: Path, stack: ExitStack) -> tuple[Path, Path]:
    """An output whose science/ is a link to another file system."""
    real = stack.enter_context(mounted(place / "real", 64 * MIB))
    (place / "out").mkdir()
    (place / "out" / "science").symlink_to(real)
    return place / "out", real


@pytest.mark.parametrize("staged_elsewhere", [True, False])
@pytest.mark.parametrize("make", [linked, linked_away, linked_within])
def test_a_linked_output_gets_the_product_and_stays_a_link(
    incoming: Path,
    tmp_path: Path,
    scratch: Path,
    make: Callable[[Path, ExitStack], tuple[Path, Path]],
    staged_elsewhere: bool,
) -> None:
    with ExitStack() as stack:
        out, real = make(tmp_path, stack)
        links = [path for path in (out, out / "science") if path.is_symlink()]
        staging = str(scratch) if staged_elsewhere else None
        (plan, _) = plans(incoming, out, scratch_dir=staging)
        product = convert(plan)
        assert product.tier == ("scratch" if staged_elsewhere else "destination")
        assert product.path == f"{out}/science/2025-10-05/2025-10-05T03:12:06.ms"
        assert tile_files(Path(product.path)) == made_directly(incoming, True)
        assert all(link.is_symlink() for link in links)
        (found,) = real.rglob("*.ms")
        assert found.samefile(product.path)
        assert [path.name for path in found.parent.iterdir()] == [found.name]
        # What is there is found there, and another one may take its place.
        (again, _) = decide(find_groups(incoming, 2), Request(output_dir=out, settings=Settings()))
        assert isinstance(again, GroupRecord)
        assert again.outcome == "skipped"
        (replacing, _) = plans(incoming, out, on_existing="replace", spw="single")
        convert(replacing)
        assert [path.name for path in found.parent.iterdir()] == [found.name]


@pytest.mark.parametrize("direct", [True, False])
def test_a_product_may_belong_on_another_file_system_than_the_output(
    incoming: Path, tmp_path: Path, direct: bool
) -> None:
    with mounted(tmp_path / "mapped", 64 * MIB) as mapped:
        out = tmp_path / "out"
        (plan, _) = plans(incoming, out, lambda name, _: f"{mapped}/x/{name}.ms", direct_ms=direct)
        product = convert(plan)
        assert product.path == f"{mapped}/x/{plan.group_id}.ms"
        assert [path.name for path in (mapped / "x").iterdir()] == [f"{plan.group_id}.ms"]
        assert tile_files(Path(product.path)) == made_directly(incoming, True)
        assert verify(Path(product.path), incoming) == []
        assert files_in(out) == []


@pytest.mark.usefixtures("trusting")
def test_a_full_file_system_where_a_product_belongs_is_left_clean(
    incoming: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "mapped", 4 * MIB) as mapped:
        (plan, _) = plans(incoming, tmp_path / "out", lambda name, _: f"{mapped}/{name}.ms")
        fail_for_want_of_space(plan, "destination")
        assert_nothing_left(mapped)


@pytest.mark.usefixtures("trusting")
def test_a_full_file_system_where_a_product_belongs_is_named(
    incoming: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "mapped", 4 * MIB) as mapped:
        (plan, _) = plans(incoming, tmp_path / "out", lambda name, _: f"{mapped}/{name}.ms")
        assert str(mapped) in str(fail_for_want_of_space(plan, "destination"))


def test_a_target_whose_own_file_system_is_too_small_is_refused_before_anything_is_written(
    incoming: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "mapped", 4 * MIB) as mapped:
        request = Request(
            output_dir=tmp_path / "out",
            settings=Settings(),
            path_mapper=lambda name, _: f"{mapped}/{name}.ms",
        )
        (decision, _) = decide(find_groups(incoming, 2), request)
        assert isinstance(decision, GroupRecord)
        assert decision.reason is not None
        assert decision.reason.code == "no-space"


@pytest.mark.parametrize("made", [True, False])
def test_a_read_only_output_fails_every_group_with_one_line_and_leaves_nothing_in_any_tier(
    incoming: Path, tmp_path: Path, scratch: Path, made: bool
) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    with mounted(tmp_path / "disk", 64 * MIB) as disk:
        out = disk if made else disk / "out"
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        ran = run(
            "convert", incoming, out, "--expected-subbands", "2", "--workers", "1", "--json",
            "--stage-to-tmpfs", "--tmpfs-path", memory, "--scratch-dir", scratch,
        )  # fmt: skip
        assert ran.code == 1
        assert "Traceback" not in ran.err
        assert_nothing_left(disk)
    assert_nothing_left(memory, scratch)
    assert len(ran.report["groups"]) == 2
    for record in ran.report["groups"]:
        assert record["outcome"] == "failed"
        assert record["reason"]["code"] == "unwritable-output"
        assert str(out) in record["reason"]["text"]
        assert os.strerror(errno.EROFS) in record["reason"]["text"]
        assert ran.err.count(f"failed {record['id']} [unwritable-output] {out}") == 1
