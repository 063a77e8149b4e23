"""Where each subband's bytes lie in the tile files of a Measurement Set.

A tiled storage manager's data file is its tiles, one after another. With tiles of whole cells a
column is the plain array row by row (FLAG one bit per value, least significant first). The same
knowledge serves a one-subband part (position 0 of 1), the concatenation of parts (copy to position
i of n) and writing straight into the product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from contimg_dask.model import ConversionPlan, ProductOptions, SpectralWindows, Subband

TILE_ROWS = 1024
"""Rows per tile: 0.8 MB of DATA at full scale, whole bytes of FLAG."""

Cell = Literal["spectrum", "products"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkColumn:
    """A column written as tile bytes: its values' size and whether a cell spans the channels."""

    name: str
    value_type: Literal["complex", "float", "boolean"]
    cell: Cell

    @property
    def value_bits(self) -> int:
        """Size of one value in a tile [bits]."""
        return {"complex": 64, "float": 32, "boolean": 1}[self.value_type]


DATA = BulkColumn(name="DATA", value_type="complex", cell="spectrum")
FLAG = BulkColumn(name="FLAG", value_type="boolean", cell="spectrum")
WEIGHT_SPECTRUM = BulkColumn(name="WEIGHT_SPECTRUM", value_type="float", cell="spectrum")
WEIGHT = BulkColumn(name="WEIGHT", value_type="float", cell="products")
SIGMA = BulkColumn(name="SIGMA", value_type="float", cell="products")
MODEL_DATA = BulkColumn(name="MODEL_DATA", value_type="complex", cell="spectrum")
CORRECTED_DATA = BulkColumn(name="CORRECTED_DATA", value_type="complex", cell="spectrum")

MEASURED_COLUMNS = (DATA, FLAG, WEIGHT_SPECTRUM, WEIGHT, SIGMA)
IMAGING_COLUMNS = (MODEL_DATA, CORRECTED_DATA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Rows of one subband that lie together in a tile file.

    ``first_row`` is relative to the rows asked for, ``start_bit`` the place in the file.
    """

    start_bit: int
    first_row: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The shape of a product: one spectral window per subband, or a single one over the band.

    With a window per subband the table holds window after window, and a subband is one contiguous
    range of each tile file. With a single window a cell spans the band, tiles span one subband's
    channels, and a subband is every n-th tile.

    Parameters
    ----------
    subbands
        Number of subbands, in ascending frequency.
    subband_rows
        Rows of one input file.
    channels
        Channels of one subband.
    products
        Correlation products.
    imaging_columns
        Whether MODEL_DATA and CORRECTED_DATA exist.
    spw
        Which of the two layouts.
    """

    subbands: int
    subband_rows: int
    channels: int
    products: int
    imaging_columns: bool
    spw: SpectralWindows = "subband"

    @property
    def windows(self) -> int:
        """Number of spectral windows."""
        return self.subbands if self.spw == "subband" else 1

    @property
    def rows(self) -> int:
        """Rows of the whole table."""
        return self.windows * self.subband_rows

    @property
    def tile_rows(self) -> int:
        """Rows per tile, a multiple of 8; small tables get small tiles."""
        return min(TILE_ROWS, -(-self.rows // 8) * 8)

    @property
    def columns(self) -> tuple[BulkColumn, ...]:
        """Every bulk column of this product."""
        return MEASURED_COLUMNS + (IMAGING_COLUMNS if self.imaging_columns else ())

    @property
    def subband_columns(self) -> tuple[BulkColumn, ...]:
        """The columns whose bytes each subband writes on its own.

        In a single window WEIGHT and SIGMA are of the whole band and need every subband.
        """
        if self.spw == "subband":
            return self.columns
        return tuple(column for column in self.columns if column.cell == "spectrum")

    def cell_shape(self, column: BulkColumn) -> tuple[int, ...]:
        """Shape of a cell in casacore's order, products varying fastest."""
        if column.cell == "products":
            return (self.products,)
        return (self.products, self.channels * self._tiles_across(column))

    def tile_shape(self, column: BulkColumn) -> tuple[int, ...]:
        """Shape of a tile in casacore's order."""
        if column.cell == "products":
            return (self.products, self.tile_rows)
        return (self.products, self.channels, self.tile_rows)

    def row_bits(self, column: BulkColumn) -> int:
        """Size of what one subband has in one row [bits]."""
        values = self.products * (self.channels if column.cell == "spectrum" else 1)
        return values * column.value_bits

    def file_bytes(self, column: BulkColumn) -> int:
        """Size of the column's tile file, the last tiles padded [bytes]."""
        tiles = -(-self.rows // self.tile_rows) * self._tiles_across(column)
        return tiles * self.tile_rows * self.row_bits(column) // 8

    def runs(self, column: BulkColumn, position: int, row: int, rows: int) -> Iterator[Run]:
        """Yield where the rows of the subband at ``position`` lie, from its own ``row`` on."""
        row_bits = self.row_bits(column)
        if self.spw == "subband":
            start_bit = (position * self.subband_rows + row) * row_bits
            yield Run(start_bit=start_bit, first_row=0, rows=rows)
            return
        done = 0
        while done < rows:
            tile, within = divmod(row + done, self.tile_rows)
            count = min(self.tile_rows - within, rows - done)
            place = (tile * self._tiles_across(column) + position) * self.tile_rows + within
            yield Run(start_bit=place * row_bits, first_row=done, rows=count)
            done += count

    def bulk_bytes(self, *, corrected: bool) -> int:
        """Bytes of the bulk columns on disk; imaging columns that are not written are holes."""
        written = MEASURED_COLUMNS + ((CORRECTED_DATA,) if corrected else ())
        return sum(self.file_bytes(column) for column in written)

    def _tiles_across(self, column: BulkColumn) -> int:
        return self.subbands if self.spw == "single" and column.cell == "spectrum" else 1


def geometry_of(plan: ConversionPlan) -> Geometry:
    """Return the shape of a plan's product."""
    return product_geometry(plan.subbands, plan.options)


def product_geometry(subbands: Sequence[Subband], options: ProductOptions) -> Geometry:
    """Return the shape of the product these subbands make."""
    header = subbands[0].header
    return Geometry(
        subbands=len(subbands),
        subband_rows=header.rows,
        channels=header.channels,
        products=len(header.products),
        imaging_columns=options.imaging_columns != "none",
        spw=options.spw,
    )


def part_geometry(plan: ConversionPlan) -> Geometry:
    """Return the shape of a Measurement Set of one of the plan's subbands."""
    return part_of(geometry_of(plan))


def part_of(product: Geometry) -> Geometry:
    """Return the shape of a Measurement Set of one subband of a product."""
    return replace(product, subbands=1, spw="subband")
