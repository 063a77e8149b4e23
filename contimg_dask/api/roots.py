"""Which directories the web interface may name: those below configured roots, links followed."""

from __future__ import annotations

import os
from pathlib import Path

from contimg_dask.api.refusals import OutsideRootsError


class Roots:
    """Holds paths against the roots for input and output.

    Parameters
    ----------
    inputs, outputs
        Absolute directories divided by colons, as the settings have them; None for none.
    """

    def __init__(self, inputs: str | None, outputs: str | None) -> None:
        self._inputs = _divided(inputs)
        self._outputs = _divided(outputs)

    def input_dir(self, text: str) -> Path:
        """Return a directory to read from, if it lies below a root.

        Raises
        ------
        OutsideRootsError
            It does not, whether it exists or not.
        """
        return _below(text, self._inputs, "input_roots")

    def output_dir(self, text: str) -> Path:
        """Return a directory to write to, if it lies below a root.

        Raises
        ------
        OutsideRootsError
            It does not, whether it exists or not.
        """
        return _below(text, self._outputs, "output_roots")

    def product(self, path: str, output_dir: str) -> Path:
        """Return where a product of the catalogue stands, if that may be looked into.

        Raises
        ------
        OutsideRootsError
            It does not lie below the roots for output, or, where there are none, below its OUTPUT.
        """
        return _below(path, self._outputs or (output_dir,), "output_roots")


def _divided(roots: str | None) -> tuple[str, ...]:
    return tuple(part for part in (roots or "").split(":") if part)


def _below(text: str, roots: tuple[str, ...], setting: str) -> Path:
    """Return a path without links below its root, so that it stays where it was looked for."""
    if not roots:
        raise OutsideRootsError(f"no directory may be named: {setting} is not set")
    if not os.path.isabs(text) or "\0" in text:
        raise OutsideRootsError(f"{text!r} is no absolute path")
    real = os.path.realpath(text)
    for root in roots:
        real_root = os.path.realpath(root)
        if real == real_root or real.startswith(real_root.rstrip("/") + "/"):
            # As its root is spelled: the same directory keeps the same name in the catalogue.
            return Path(os.path.normpath(root), os.path.relpath(real, real_root))
    raise OutsideRootsError(f"{text} is not below a directory of {setting}")
