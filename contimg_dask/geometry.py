"""Where each subband's bytes lie in the tile files of a Measurement Set.

A tiled storage manager's data file is its tiles, one after another. With tiles of whole cells a
column is the plain array row by row (FLAG one bit per value, least significant first), so a
subband's rows are one contiguous range. The same knowledge serves a one-subband part (position 0
of 1), the concatenation of parts (copy to position i of n) and writing straight into the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from contimg_dask.model import ConversionPlan, ProductOptions, Subband

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
class Geometry:
    """The shape of a product with one spectral window per subband, window after window.

    Parameters
    ----------
    windows
        Number of subbands.
    window_rows
        Rows of one subband.
    channels, products
        Shape of a cell.
    imaging_columns
        Whether MODEL_DATA and CORRECTED_DATA exist.
    """

    windows: int
    window_rows: int
    channels: int
    products: int
    imaging_columns: bool

    @property
    def rows(self) -> int:
        """Rows of the whole table."""
        return self.windows * self.window_rows

    @property
    def tile_rows(self) -> int:
        """Rows per tile, a multiple of 8; small tables get small tiles."""
        return min(TILE_ROWS, -(-self.rows // 8) * 8)

    @property
    def columns(self) -> tuple[BulkColumn, ...]:
        """Every bulk column of this product."""
        return MEASURED_COLUMNS + (IMAGING_COLUMNS if self.imaging_columns else ())

    def cell_shape(self, column: BulkColumn) -> tuple[int, ...]:
        """Shape of a cell in casacore's order, products varying fastest."""
        if column.cell == "products":
            return (self.products,)
        return (self.products, self.channels)

    def tile_shape(self, column: BulkColumn) -> tuple[int, ...]:
        """Shape of a tile in casacore's order."""
        return (*self.cell_shape(column), self.tile_rows)

    def row_bits(self, column: BulkColumn) -> int:
        """Size of one row [bits]."""
        values = self.products * (self.channels if column.cell == "spectrum" else 1)
        return values * column.value_bits

    def file_bytes(self, column: BulkColumn) -> int:
        """Size of the column's tile file, the last tile padded [bytes]."""
        tiles = -(-self.rows // self.tile_rows)
        return tiles * self.tile_rows * self.row_bits(column) // 8

    def window_start_bit(self, column: BulkColumn, position: int) -> int:
        """Where the first row of the window at ``position`` begins in the tile file [bits]."""
        return position * self.window_rows * self.row_bits(column)

    def window_bits(self, column: BulkColumn) -> int:
        """Extent of one window in the tile file [bits]."""
        return self.window_rows * self.row_bits(column)

    def bulk_bytes(self, *, corrected: bool) -> int:
        """Bytes of the bulk columns on disk; imaging columns that are not written are holes."""
        written = MEASURED_COLUMNS + ((CORRECTED_DATA,) if corrected else ())
        return sum(self.file_bytes(column) for column in written)


def geometry_of(plan: ConversionPlan) -> Geometry:
    """Return the shape of a plan's product."""
    return product_geometry(plan.subbands, plan.options)


def product_geometry(subbands: Sequence[Subband], options: ProductOptions) -> Geometry:
    """Return the shape of the product these subbands make."""
    header = subbands[0].header
    return Geometry(
        windows=len(subbands),
        window_rows=header.rows,
        channels=header.channels,
        products=len(header.products),
        imaging_columns=options.imaging_columns != "none",
    )
