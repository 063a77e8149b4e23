"""Groups of a stream: which files are together now, and what the catalogue is told of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from contimg_dask.catalogue import events, queue, strays
from contimg_dask.catalogue import files as subband_files
from contimg_dask.catalogue.arriving import arrive
from contimg_dask.catalogue.identity import start_ms_of
from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.catalogue.records import Arrived, Arriving, Job
from contimg_dask.deciding import Request, record_of
from contimg_dask.grouping import group_files
from contimg_dask.model import (
    MJD_JD_OFFSET_D,
    Group,
    GroupRecord,
    Reason,
    SubbandHeader,
    UnreadableFile,
)
from contimg_dask.naming import failed_record_path, stamp_to_mjd
from contimg_dask.recording import keep_record
from contimg_dask.saying import Say
from contimg_dask.stream.collecting import judge
from contimg_dask.stream.reading import read_path
from contimg_dask.stream.starts import Starts

_BATCH_STARTS = 64
_SHOWN_EVERY_S = 2.0
"""A group that is not whole yet is written down so often at most, however fast its files come."""
_NAME_REACH_MS = 120_000
_AGAIN_AFTER_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bad:
    file: UnreadableFile
    name_ms: int
    arrived_s: float


class Arrivals:
    """Puts files together, and takes groups into the catalogue.

    Parameters
    ----------
    catalogue, job, request
        Where groups go, the stream's job, and what it asks for.
    on_line
        Is told what operators want to know.
    on_failed
        Is told of groups that failed with their arrival.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        job: Job,
        request: Request,
        on_line: Say,
        on_failed: Callable[[GroupRecord], None] = lambda record: None,
    ) -> None:
        self._catalogue = catalogue
        self._job = job
        self._request = request
        self._on_line = on_line
        self._on_failed = on_failed
        self._began_s = time.time()
        self._starts = Starts()
        self._stats: dict[str, tuple[int, int]] = {}
        self._arrived_s: dict[str, float] = {}
        self._bad: dict[str, _Bad] = {}
        self._due_s: dict[int, float] = {}
        self._shown_s: dict[int, float] = {}
        self._alone_s: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        """Number of groups that are not whole yet."""
        return len(self._due_s)

    def next_s(self) -> float | None:
        """Return when the next group is to be judged; None where none waits."""
        return min((*self._due_s.values(), *self._alone_s.values()), default=None)

    def put(self, header: SubbandHeader, arrived_s: float) -> None:
        """Take a readable file, new or changed."""
        start_ms = start_ms_of(header.start_jd - MJD_JD_OFFSET_D)
        self._stats[header.path] = header.size_bytes, header.mtime_ns
        self._arrived_s[header.path] = arrived_s
        self._forget_bad(header.path)
        before = self._starts.put(header.path, start_ms)
        for start in (start_ms, *(() if before is None else (before,))):
            self._judge_at(start, 0.0)

    def put_bad(self, file: UnreadableFile, arrived_s: float, *, report: bool) -> None:
        """Take a file that cannot be used as it is; ``report`` it to people."""
        if report:
            facts = {"path": file.path, **events.reason_facts(file.reason.code, file.reason.text)}
            events.tell(self._catalogue, "file-unusable", job_id=self._job.id, facts=facts)
            self._on_line(
                f"not usable, and looked at again from time to time: {file.reason.text}",
                action="file-unusable",
                path=file.path,
                code=file.reason.code,
            )
        before = self._bad.get(file.path)
        if before is not None and before.file == file:
            return
        self._leave(file.path)
        name_ms = _name_ms(file)
        self._bad[file.path] = _Bad(file=file, name_ms=name_ms, arrived_s=arrived_s)
        self._arrived_s[file.path] = arrived_s
        for start in self._starts.near(name_ms):
            self._judge_at(start, 0.0)
        self._alone_s[file.path] = arrived_s + self._request.settings.collecting_timeout_s

    def gone(self, paths: Iterable[str]) -> None:
        """Forget files that are not there any more; their groups stay what they are."""
        gone = list(paths)
        for path in gone:
            self._leave(path)
            self._forget_bad(path)
            self._arrived_s.pop(path, None)
            self._stats.pop(path, None)
        subband_files.forget(self._catalogue, gone)

    def judge_due(self, now_s: float, stopped: Callable[[], bool]) -> None:
        """Judge the groups whose time has come, and tell the catalogue."""
        due = sorted(start for start, when_s in self._due_s.items() if when_s <= now_s)
        for first in range(0, len(due), _BATCH_STARTS):
            if stopped():
                return
            self._judge(due[first : first + _BATCH_STARTS], now_s)
        alone = [path for path, when_s in self._alone_s.items() if when_s <= now_s]
        if alone and not stopped():
            self._judge_alone(alone, now_s)

    def give_up_vanished(self) -> None:
        """Fail groups that are waited for in the catalogue, but have no file any more."""
        bad_ms = [bad.name_ms for bad in self._bad.values()]
        for stray in strays.collecting(self._catalogue, self._job.id):
            near = any(abs(stray.start_ms - one) <= _NAME_REACH_MS for one in bad_ms)
            if self._starts.near(stray.start_ms, 1) or near:
                continue
            text = "its files have been taken away before it was whole: bring them back"
            reason = Reason(code="missing-subbands", text=text)
            if queue.fail(self._catalogue, stray.key, None, reason, quarantine=False, seconds={}):
                group = replace(stray.group, id=stray.id)
                self._failed(record_of(group, "failed", reason=reason), group)

    def _leave(self, path: str) -> None:
        start = self._starts.remove(path)
        if start is not None and start in self._due_s:
            self._judge_at(start, 0.0)

    def _forget_bad(self, path: str) -> None:
        bad = self._bad.pop(path, None)
        self._alone_s.pop(path, None)
        if bad is not None:
            for start in self._starts.near(bad.name_ms):
                if start in self._due_s:
                    self._judge_at(start, 0.0)

    def _judge_at(self, start: int, when_s: float) -> None:
        self._due_s[start] = when_s

    def _judge(self, due: Sequence[int], now_s: float) -> None:
        """Make the groups of these starts anew, with what lies near them, and take them in.

        What is due stays so until the catalogue has taken all of it: it may be away just now.
        """
        near = {start for one in due for start in self._starts.near(one)}
        groups = group_files(
            self._headers(self._starts.paths(near)),
            [
                bad.file
                for bad in self._bad.values()
                if not near.isdisjoint(self._starts.near(bad.name_ms))
            ],
            self._job.expected_subbands,
        )
        wanted = {start + step for start in due for step in (-1, 0, 1)}
        arrivals, later_s, shown = [], dict[int, float](), list[int]()
        for group in groups:
            if group.start_jd is None or (start := _start_ms(group)) not in wanted:
                continue
            judged = judge(group, self._last_arrival_s(group), now_s, self._request.settings)
            again_s = self._shown_s.get(start, 0.0) + _SHOWN_EVERY_S
            if judged.until_s is not None and now_s < again_s:
                later_s[start] = again_s
                continue
            if judged.until_s is not None:
                later_s[start] = judged.until_s
                shown.append(start)
            arrivals.append(judged.arriving)
        later_s |= self._take(arrivals)
        for start in due:
            self._due_s.pop(start, None)
            if start not in later_s:
                self._shown_s.pop(start, None)
        self._due_s |= later_s
        self._shown_s |= dict.fromkeys(shown, now_s)

    def _last_arrival_s(self, group: Group) -> float:
        paths = [s.header.path for s in group.subbands] + [f.path for f in group.unreadable]
        return max(self._arrived_s.get(path, 0.0) for path in paths)

    def _judge_alone(self, due: Sequence[str], now_s: float) -> None:
        """Take in, as failed groups, unusable files that no group has come for."""
        files = [
            bad.file
            for bad in self._bad.values()
            if not self._starts.near(bad.name_ms, _NAME_REACH_MS)
        ]
        arrivals, later_s = [], dict[str, float]()
        for group in group_files([], files, self._job.expected_subbands):
            paths = {file.path for file in group.unreadable}
            if paths.isdisjoint(due):
                continue
            judged = judge(group, self._last_arrival_s(group), now_s, self._request.settings)
            if judged.until_s is None:
                arrivals.append(judged.arriving)
            else:  # another one of it came since
                later_s |= dict.fromkeys(paths, judged.until_s)
        self._take(arrivals)
        for path in due:
            self._alone_s.pop(path, None)
        self._alone_s |= later_s

    def _headers(self, paths: Sequence[str]) -> list[SubbandHeader]:
        known = subband_files.recall(self._catalogue, {path: self._stats[path] for path in paths})
        new = [read_path(path) for path in paths if path not in known]
        return [one for one in (*known.values(), *new) if isinstance(one, SubbandHeader)]

    def _take(self, arrivals: Sequence[Arriving]) -> dict[int, float]:
        """Take groups into the catalogue, and tell of them; return which to judge again, and when."""
        if not arrivals:
            return {}
        named = strays.with_known_ids(self._catalogue, self._job, arrivals)
        again_s = {}
        for there, came in zip(arrive(self._catalogue, self._job, named), named, strict=True):
            self._tell(there, came)
            if there.state == "running" and there.other_files:
                # With files that change under it, it may fail: then it is queued again.
                again_s[_start_ms(came.group)] = time.time() + _AGAIN_AFTER_S
        return again_s

    def _tell(self, there: Arrived, came: Arriving) -> None:
        group = replace(came.group, id=there.id)
        if not there.changed:
            self._tell_kept(there, came)
            return
        if there.state == "failed":
            self._failed(record_of(group, "failed", reason=came.fault), group)
        elif there.state == "queued":
            missing = len(group.missing)
            partial = f", {missing} subband(s) missing" if missing else ""
            self._on_line(
                f"queued {there.id}{partial}",
                action="group-queued",
                group=there.id,
                missing=list(group.missing),
                live=came.live,
            )

    def _tell_kept(self, there: Arrived, came: Arriving) -> None:
        """Say that files have come too late for a product; write a record that a kill has prevented."""
        if there.state == "failed" and came.fault is not None and not self._has_record(there.id):
            # We were killed between telling the catalogue and writing the record.
            self._failed(record_of(replace(came.group, id=there.id), "failed", reason=came.fault),
                         replace(came.group, id=there.id))  # fmt: skip
        late = there.state == "published" and there.other_files
        if late and (came.complete_s or 0.0) >= self._began_s:
            facts = {"present": len(came.group.present), "expected": came.group.expected}
            events.tell(
                self._catalogue,
                "files-late",
                group_key=there.key,
                group_id=there.id,
                job_id=self._job.id,
                facts=facts,
            )
            self._on_line(
                f"{there.id} is published, and files of it have come or changed since: it stays as it "
                f"is; 'contimg-dask submit --on-existing replace' makes it again",
                action="files-late",
                group=there.id,
            )

    def _has_record(self, group_id: str) -> bool:
        return failed_record_path(self._request.output_dir, group_id).exists()

    def _failed(self, record: GroupRecord, group: Group) -> None:
        self._on_failed(keep_record(record, group, self._request.publication))


def _start_ms(group: Group) -> int:
    assert group.start_jd is not None  # a group with readable files
    return start_ms_of(group.start_jd - MJD_JD_OFFSET_D)


def _name_ms(file: UnreadableFile) -> int:
    mjd = stamp_to_mjd(file.name_stamp or "")
    return 0 if mjd is None else start_ms_of(mjd)
