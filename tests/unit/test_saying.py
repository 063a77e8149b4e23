"""Lines of services, for people and for machines."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

from contimg_dask.saying import LogLines


def test_a_line_of_text_is_the_time_and_the_sentence() -> None:
    lines: list[str] = []
    LogLines("text", lines.append)("published 2025-10-05T03:12:06", action="group-published", n=1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\S+Z published 2025-10-05T03:12:06", lines[0])


def test_a_line_of_json_has_the_sentence_and_its_fields() -> None:
    lines: list[str] = []
    say = LogLines("json", lines.append)
    say('a "quoted"\nsentence', action="group-published", path=None, nodes={"10.0.0.1": 2})
    (line,) = lines
    assert "\n" not in line
    said = json.loads(line)
    moment = datetime.fromisoformat(said.pop("time"))
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)
    assert said == {
        "message": 'a "quoted"\nsentence',
        "action": "group-published",
        "path": None,
        "nodes": {"10.0.0.1": 2},
    }
