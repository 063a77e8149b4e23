"""A group written down and read again is the same group, to the last bit."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contimg_dask.catalogue.documents import (
    files_hash,
    group_from_json,
    group_to_json,
    header_from_json,
    header_to_json,
)
from contimg_dask.errors import CatalogueError
from contimg_dask.model import Group, Reason, Subband, SubbandHeader, UnreadableFile
from tests.integration.catalogue.nouns import make_group, make_header, make_unreadable

numbers = st.integers(0, 2**62)
text = st.text(max_size=20)
doubles = st.floats(allow_nan=False)
names = st.none() | text
reasons = st.builds(Reason, code=text, text=text)
headers = st.builds(
    SubbandHeader,
    path=text,
    size_bytes=numbers,
    mtime_ns=numbers,
    name_stamp=names,
    name_number=st.none() | numbers,
    start_jd=doubles,
    integrations=numbers,
    rows=numbers,
    channels=numbers,
    products=st.lists(st.integers(-8, 4), max_size=4).map(tuple),
    lowest_freq_hz=doubles,
    highest_freq_hz=doubles,
    channel_width_hz=doubles,
)
unreadable = st.builds(
    UnreadableFile,
    path=text,
    name_stamp=names,
    name_number=st.none() | numbers,
    reason=reasons,
)
groups = st.builds(
    Group,
    id=text,
    start_jd=st.none() | doubles,
    subbands=st.lists(st.builds(Subband, number=numbers, header=headers), max_size=3).map(tuple),
    expected=numbers,
    unreadable=st.lists(unreadable, max_size=2).map(tuple),
    fault=st.none() | reasons,
    notes=st.lists(text, max_size=2).map(tuple),
)


@given(groups)
def test_a_group_comes_back_from_json_as_it_was(group: Group) -> None:
    # Text that only Python's JSON understands (Infinity) would not be taken by PostgreSQL.
    written = json.dumps(group_to_json(group), allow_nan=False)
    again = group_from_json(json.loads(written))
    assert again == group
    assert files_hash(again) == files_hash(group)


def test_floats_keep_their_last_bit_and_their_type() -> None:
    header = make_header(0, 0)
    written = json.loads(json.dumps(header_to_json(header)))
    again = header_from_json(written)
    assert again.start_jd.hex() == header.start_jd.hex()
    whole = header_from_json({**written, "channel_width_hz": 30517})
    assert isinstance(whole.channel_width_hz, float)
    odd = header_from_json({**written, "channel_width_hz": "nan"})
    assert math.isnan(odd.channel_width_hz)


def test_a_document_of_a_newer_version_is_refused_with_both_versions() -> None:
    document = group_to_json(make_group()) | {"version": 2}
    with pytest.raises(CatalogueError, match=r"2025-10-05T03:12:05 .* version 2, .* reads 1"):
        group_from_json(document)


def test_a_damaged_document_is_refused_in_one_line() -> None:
    document = group_to_json(make_group())
    del document["subbands"][0]["start_jd"]
    with pytest.raises(CatalogueError, match="damaged") as caught:
        group_from_json(document)
    assert "\n" not in str(caught.value)


def test_the_digest_of_files_is_of_paths_sizes_times_and_what_is_wrong_with_them() -> None:
    plain = files_hash(make_group())
    assert files_hash(make_group()) == plain
    others = [
        make_group(mtime_ns=8),
        make_group(directory="/elsewhere"),
        make_group(present=(0,)),
        make_group(1),
        make_unreadable(),
        make_unreadable(text="truncated"),
    ]
    assert len({plain, *map(files_hash, others)}) == len(others) + 1
