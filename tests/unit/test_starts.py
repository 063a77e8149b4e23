"""The index of files by their start."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contimg_dask.stream.starts import Starts

PUT = st.tuples(st.sampled_from("abcdef"), st.integers(0, 3_000_000))
CHANGES = st.lists(st.one_of(PUT, st.sampled_from("abcdef")), max_size=40)


@given(changes=CHANGES, at=st.integers(0, 3_000_000), within=st.integers(0, 1_000_000))
def test_it_finds_what_a_plain_dictionary_finds(
    changes: list[tuple[str, int] | str], at: int, within: int
) -> None:
    starts, plain = Starts(), dict[str, int]()
    for change in changes:
        if isinstance(change, str):
            assert starts.remove(change) == plain.pop(change, None)
        else:
            path, start = change
            before = plain.get(path)
            assert starts.put(path, start) == (None if before == start else before)
            plain[path] = start
    near = sorted({start for start in plain.values() if abs(start - at) <= within})
    assert starts.near(at, within) == near
    assert starts.paths(near) == sorted(p for p, start in plain.items() if start in near)
    assert all(start in starts for start in plain.values())
