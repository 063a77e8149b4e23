"""The conversion from Python: notebooks, clients of one's own, paths of one's own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from astropy.time import Time, TimeDelta
from distributed import Client

import contimg_dask
from contimg_dask import UsageError, convert_subband_groups_to_ms, create_path_mapper
from contimg_dask.offline import earth_orientation_warning

from .conftest import make_groups

GROUP = "2025-10-05T03:12:06"


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("incoming")
    make_groups(directory, subbands=2)
    return directory


def test_it_works_inside_a_running_event_loop_with_a_cluster_of_its_own(
    incoming: Path, tmp_path: Path
) -> None:
    async def cell() -> list[dict[str, object]]:
        return convert_subband_groups_to_ms(incoming, tmp_path, expected_subbands=2, max_workers=1)

    records = asyncio.run(cell())
    assert [record["outcome"] for record in records] == ["published"]


def test_a_client_of_the_users_is_used_and_left_open(
    incoming: Path, tmp_path: Path, client: Client
) -> None:
    records = convert_subband_groups_to_ms(incoming, tmp_path, expected_subbands=2, client=client)
    assert records[0]["outcome"] == "published"
    assert client.status == "running"


def test_times_may_be_astropy_times(incoming: Path, tmp_path: Path, client: Client) -> None:
    def found(start: Time, end: Time) -> int:
        return len(
            convert_subband_groups_to_ms(
                incoming, tmp_path, start, end, expected_subbands=2, client=client, dry_run=True
            )
        )

    start = Time("2025-10-05T03:12:00")
    assert found(start, start + TimeDelta(60, format="sec")) == 1
    assert found(start - TimeDelta(60, format="sec"), start) == 0
    assert found(start.tai, (start + TimeDelta(60, format="sec")).tai) == 1


@pytest.mark.parametrize(
    ("mapper", "where"),
    [
        (lambda name, out: f"{out}/flat-{name[:10]}.ms", "out/flat-2025-10-05.ms"),
        (None, f"out/science/2025-10-05/{GROUP}.ms"),
    ],
)
def test_a_path_mapper_overrides_the_dated_layout(
    incoming: Path, tmp_path: Path, client: Client, mapper: object, where: str
) -> None:
    records = convert_subband_groups_to_ms(
        incoming, tmp_path / "out", expected_subbands=2, client=client, path_mapper=mapper
    )
    assert records[0]["path"] == str(tmp_path / where)
    assert (tmp_path / where / "table.dat").is_file()


def test_the_ready_made_mappers_follow_the_layout(
    incoming: Path, tmp_path: Path, client: Client
) -> None:
    mapper = create_path_mapper(tmp_path / "cal", is_calibrator=True)
    records = convert_subband_groups_to_ms(
        incoming, tmp_path / "out", expected_subbands=2, client=client, path_mapper=mapper
    )
    assert records[0]["path"] == str(tmp_path / "cal" / "calibrators" / GROUP[:10] / f"{GROUP}.ms")
    again = convert_subband_groups_to_ms(
        incoming, tmp_path / "out", expected_subbands=2, client=client, path_mapper=mapper
    )
    assert again[0]["outcome"] == "skipped"


def test_the_record_is_the_same_as_the_one_of_the_command(
    incoming: Path, tmp_path: Path, client: Client
) -> None:
    record = convert_subband_groups_to_ms(
        incoming, tmp_path, expected_subbands=2, client=client, telescope_name="OVRO_MMA"
    )[0]
    assert record["id"] == GROUP
    assert record["seconds"]["total"] > 0
    assert record["missing"] == ()


def test_event_log_and_hand_over_can_be_configured_for_every_call(
    incoming: Path, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = tmp_path / "hook.sh"
    hook.write_text(f"#!/bin/sh\ncat >> {tmp_path}/handed\n")
    hook.chmod(0o755)
    config = tmp_path / "config.toml"
    config.write_text(f'on_published = "{hook}"\nevent_log = "{tmp_path}/events"\n')
    monkeypatch.setenv("CONTIMG_DASK_CONFIG", str(config))
    (record,) = convert_subband_groups_to_ms(
        incoming, tmp_path / "out", expected_subbands=2, client=client
    )
    as_json = json.loads(json.dumps(record))
    assert json.loads((tmp_path / "handed").read_text()) == as_json
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert (kinds[0], kinds[-1]) == ("run-started", "run-finished")
    assert kinds.index("group-published") < kinds.index("handed-over")
    assert [event["record"] for event in events if "record" in event] == [as_json]
    # The function ends when the command was run, so that nothing is lost with a script's end.
    assert events[-1]["handed_over"] == 1


def test_a_failing_command_does_not_fail_the_call(
    incoming: Path, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTIMG_DASK_ON_PUBLISHED", "false")
    monkeypatch.setenv("CONTIMG_DASK_EVENT_LOG", str(tmp_path / "events"))
    (record,) = convert_subband_groups_to_ms(
        incoming, tmp_path / "out", expected_subbands=2, client=client
    )
    assert record["outcome"] == "published"
    last = json.loads((tmp_path / "events").read_text().splitlines()[-1])
    assert (last["event"], last["hand_overs_failed"]) == ("run-finished", 1)


def test_a_calibrator_goes_to_its_own_branch(
    incoming: Path, tmp_path: Path, client: Client
) -> None:
    (record,) = convert_subband_groups_to_ms(
        incoming, tmp_path, expected_subbands=2, client=client, kind="calibrator"
    )
    assert record["path"] == str(tmp_path / "calibrators" / GROUP[:10] / f"{GROUP}.ms")


def test_a_wrong_argument_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no-such"):
        convert_subband_groups_to_ms(tmp_path / "no-such", tmp_path / "out")
    with pytest.raises(UsageError, match="imaging_columns"):
        convert_subband_groups_to_ms(tmp_path, tmp_path, imaging_columns="half")  # type: ignore[arg-type]


def test_public_names_are_there() -> None:
    for name in contimg_dask.__all__:
        assert getattr(contimg_dask, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        contimg_dask.no_such_name  # noqa: B018


def test_a_date_past_the_earth_orientation_tables_gives_one_warning_and_a_result(
    tmp_path: Path, client: Client
) -> None:
    make_groups(tmp_path / "in", subbands=2, start="2045-01-02T03:04:05")
    records = convert_subband_groups_to_ms(
        tmp_path / "in", tmp_path / "out", expected_subbands=2, client=client
    )
    assert records[0]["outcome"] == "published"
    late = [note for note in records[0]["notes"] if "Earth-orientation" in note]
    assert len(late) == 1


def test_today_gives_a_warning_only_when_the_installed_tables_have_ended(
    tmp_path: Path, client: Client
) -> None:
    today = Time.now()
    make_groups(tmp_path / "in", subbands=2, start=today.strftime("%Y-%m-%dT%H:%M:%S"))
    records = convert_subband_groups_to_ms(
        tmp_path / "in", tmp_path / "out", expected_subbands=2, client=client
    )
    assert records[0]["outcome"] == "published"
    covered = earth_orientation_warning(today.mjd) is None
    assert len(records[0]["notes"]) == (0 if covered else 1)
