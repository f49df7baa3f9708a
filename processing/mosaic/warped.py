"""What a block needs of a tile that is turned or bent in a mosaic: pixels that are interpolated.

Where each pixel of the mosaic lies in the tile is worked out exactly at every so manieth of a row,
always the same ones, and linearly between; so it is the same in whatever block it is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from processing.lens.inverse import NO_LENS, InverseGrid, inverse_grid
from processing.mosaic.layout import Window
from processing.solve.maps import TileMaps

LANES = 16  # pixels that are fetched at a time; one AVX-512 register of float32, or two of AVX2
ROUNDING = 1e-3  # px by which a place may lie beyond the edge of a tile, for it is rounded
MIN_SHARE = 0.5  # of a pixel's weight that must come from pixels which hold something


@dataclass(frozen=True, eq=False)
class Warp:
    """Where the pixels of a mosaic lie in a tile.

    Attributes
    ----------
    tile_shape : (int, int)
        (height, width) of the tile, in px.
    inverse : ndarray of float64, shape (2, 3)
        From (row, column) of the mosaic to that of the tile after the lens.
    lens : InverseGrid
        From there to the tile as it was taken.
    """

    tile_shape: tuple[int, int]
    inverse: NDArray[np.float64]
    lens: InverseGrid

    @classmethod
    def of_tile(cls, maps: TileMaps, index: int) -> Warp:
        """Make the warp of one of some tiles."""
        lens = NO_LENS if maps.lens is None else inverse_grid(maps.lens)
        return cls(maps.shape, maps.inverted[index], lens)

    def window(self, part: Window) -> Window:
        """Return the rows and columns of the tile that a part of the mosaic is made of."""
        rows, columns = part
        least, most = _extent(self.numbers, rows.start, rows.stop, columns.start, columns.stop)
        # One more pixel takes part in the interpolation, and places are rounded later.
        begin = np.clip(np.floor(least - ROUNDING), 0, self.tile_shape).astype(int).tolist()
        end = np.clip(np.floor(most + ROUNDING) + 2, begin, self.tile_shape).astype(int).tolist()
        return slice(begin[0], end[0]), slice(begin[1], end[1])

    @property
    def numbers(self) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[float, float], int]:
        """All of it, as loops take it."""
        return self.inverse, self.lens.shifts, self.lens.first, self.lens.spacing


@dataclass(frozen=True, eq=False)
class WarpedPiece:
    """The part of a tile that lies in a block.

    Pixels are interpolated linearly between the four nearest ones, of which those that are 0 hold
    nothing and take no part; where less than half is left, there is nothing.

    Attributes
    ----------
    warp : Warp
    window : (slice, slice)
        Rows and columns of the mosaic that the piece may cover.
    corner : (int, int)
        (row, column) in the tile of the first pixel that was read of it.
    pixels : ndarray of uint8 or uint16, shape (rows, columns)
        C-contiguous.
    """

    warp: Warp
    window: Window
    corner: tuple[int, int]
    pixels: NDArray[np.unsignedinteger]

    def put(self, cell: Window, image: NDArray[np.uint16]) -> None:
        """Fill an image with the pixels of a window of the mosaic."""
        _put(self._source, self.warp.numbers, (cell[0].start, cell[1].start), image)

    def add(self, cell: Window, sums: NDArray[np.float32]) -> None:
        """Add to the sums of a window: values times weights, and weights.

        The weight is the distance to the nearest edge of the tile, as it was taken.
        """
        _add(self._source, self.warp.numbers, (cell[0].start, cell[1].start), sums)

    def take(self, cell: Window, nearest: NDArray[np.float32], image: NDArray[np.uint16]) -> None:
        """Replace those pixels of a window whose nearest centre so far lies farther than its own.

        Parameters
        ----------
        cell : (slice, slice)
        nearest : ndarray of float32, shape of the cell
            Squared distances to the nearest centre, in px².
        image : ndarray of uint16, shape of the cell
        """
        _take(self._source, self.warp.numbers, (cell[0].start, cell[1].start), nearest, image)

    @property
    def _source(self) -> tuple[NDArray[np.unsignedinteger], int, tuple[int, int], tuple[int, int]]:
        """The pixels in one line, the length of a row, where they begin, and the tile's shape."""
        flat = self.pixels.reshape(-1)
        return flat, self.pixels.shape[1], self.corner, self.warp.tile_shape


# No fastmath: each pixel must be the same wherever blocks begin, and whether it is made in a vector
# or alone.


@njit(nogil=True, cache=True, inline="always")
def _place(row, column, numbers):  # type: ignore[no-untyped-def]
    """Find where a pixel of the mosaic lies in the tile."""
    inverse, shifts, first, spacing = numbers
    r = inverse[0, 0] * row + inverse[0, 1] * column + inverse[0, 2]
    c = inverse[1, 0] * row + inverse[1, 1] * column + inverse[1, 2]
    down, right = (r - first[0]) / spacing, (c - first[1]) / spacing
    i = min(max(int(np.floor(down)), 0), shifts.shape[0] - 2)
    j = min(max(int(np.floor(right)), 0), shifts.shape[1] - 2)
    down -= i
    right -= j
    above = (1 - right) * shifts[i, j, 0] + right * shifts[i, j + 1, 0]
    below = (1 - right) * shifts[i + 1, j, 0] + right * shifts[i + 1, j + 1, 0]
    r += (1 - down) * above + down * below
    above = (1 - right) * shifts[i, j, 1] + right * shifts[i, j + 1, 1]
    below = (1 - right) * shifts[i + 1, j, 1] + right * shifts[i + 1, j + 1, 1]
    c += (1 - down) * above + down * below
    return r, c


@njit(nogil=True, cache=True)
def _extent(numbers, top, bottom, left, right):  # type: ignore[no-untyped-def]
    """Return the least and the greatest place in the tile of a window of the mosaic.

    A map that does not fold has them at the border. Nodes left and right of it count, too.
    """
    step = numbers[3]
    begin, end = left // step, (right - 1) // step + 1
    least, most = np.full(2, np.inf), np.full(2, -np.inf)
    for row in range(top, bottom):
        across = 1 if row in (top, bottom - 1) else end - begin
        for node in range(begin, end + 1, across):
            place = _place(row, node * step, numbers)
            for axis in range(2):
                least[axis] = min(least[axis], place[axis])
                most[axis] = max(most[axis], place[axis])
    return least, most


@njit(nogil=True, cache=True)
def _fetch(source, numbers, row, columns, line):  # type: ignore[no-untyped-def]
    """Fetch a row of the mosaic.

    It is divided at nodes, and between them into runs over each of which the same whole pixels lie
    between mosaic and tile. How depends on the tile alone, so that a pixel is the same wherever a
    block begins.

    Parameters
    ----------
    source, numbers
        As `WarpedPiece._source` and `Warp.numbers`.
    row : int
    columns : (int, int)
        The first column, and that after the last.
    line : ndarray of float32, shape (2 or 4, n)
        As `_room` makes it, for figures of each pixel from the last node before the first column
        on: the sum of the four nearest pixels times their weights; the weights of those that hold
        something; and, if wanted, its row and column in the tile.
    """
    step = numbers[3]
    start = columns[0] // step * step
    here = _place(row, start, numbers)
    for node in range(start, columns[1], step):
        after = _place(row, node + step, numbers)
        whole = int(np.floor(here[0])), int(np.floor(here[1]))
        begins = np.float32(here[0] - whole[0]), np.float32(here[1] - whole[1])
        slopes = (
            np.float32((after[0] - here[0]) / step),
            np.float32((after[1] - here[1]) / step - 1),
        )
        if len(line) == 4:
            _locate(here, slopes, node - start, step, line)
        wanted = max(0, columns[0] - node), min(step, columns[1] - node)
        lane = 0
        while lane < wanted[1]:
            r = int(np.floor(begins[0] + slopes[0] * np.float32(lane)))
            c = int(np.floor(begins[1] + slopes[1] * np.float32(lane)))
            shift = begins[0] - np.float32(r), begins[1] - np.float32(c)
            stop = _end_of_run(shift, slopes, lane, step)
            run = max(lane, wanted[0]), min(stop, wanted[1])
            cell = whole[0] + r, whole[1] + c
            _fetch_run(source, cell, (shift, slopes), (run, node - start), line)
            lane = stop
        here = after


@njit(nogil=True, cache=True, inline="always")
def _locate(place, slopes, to, step, line):  # type: ignore[no-untyped-def]
    """Note where the pixels between two nodes lie in the tile, for their weights."""
    row, column = np.float32(place[0]), np.float32(place[1])
    row_slope, column_slope = slopes[0], slopes[1] + np.float32(1)
    for first in range(0, step, LANES):
        place, before = np.uint64(to + first), np.float32(first)
        for lane in range(LANES):
            line[2, place + np.uint64(lane)] = row + row_slope * (before + np.float32(lane))
            line[3, place + np.uint64(lane)] = column + column_slope * (before + np.float32(lane))


@njit(nogil=True, cache=True, inline="always")
def _end_of_run(shift, slopes, lane, step):  # type: ignore[no-untyped-def]
    """Return the next lane at which a fraction leaves 0 to 1, or that of the next node."""
    last = np.float32(step - 1)
    if 0 <= shift[0] + slopes[0] * last < 1 and 0 <= shift[1] + slopes[1] * last < 1:
        return step
    stop = step
    for axis in range(2):
        fraction = shift[axis] + slopes[axis] * np.float32(lane)
        if slopes[axis] > 0:
            stop = min(stop, lane + max(1, int(np.ceil((1 - fraction) / slopes[axis]))))
        elif slopes[axis] < 0:
            stop = min(stop, lane + max(1, int(np.ceil(fraction / -slopes[axis]))))
    return stop


@njit(nogil=True, cache=True, inline="always")
def _fetch_run(source, cell, shift, places, line):  # type: ignore[no-untyped-def]
    """Fetch a run: what lies between pixels of the tile side by side, and its edges one by one."""
    pixels, width, corner, tile_shape = source
    (begin, end), to = places
    first, last = end, end  # of those that lie side by side
    if 0 <= cell[0] < tile_shape[0] - 1:
        first = min(max(begin, -cell[1]), end)
        last = max(first, min(end, tile_shape[1] - 1 - cell[1]))
    beyond = (cell[0] - corner[0] + 1) * width + cell[1] - corner[1] + last + LANES + 1
    if beyond > len(pixels):  # at the very end of what was read, vectors do not fit
        first = last = end
    for one in range(begin, first):
        _fetch_pixel(source, cell, shift, (one, to), line)
    if first < last:
        _fetch_vectors(source, cell, shift, ((first, last), to), line)
    for one in range(last, end):
        _fetch_pixel(source, cell, shift, (one, to), line)


@njit(nogil=True, cache=True, inline="always")
def _fetch_vectors(source, cell, shift, places, line):  # type: ignore[no-untyped-def]
    """Fetch pixels that lie side by side in the tile too.

    Always as many as fill the vectors: those beyond the end are fetched again by what comes after
    it, or are none. Indices are unsigned, so that none is looked at for counting from the end.
    """
    pixels, width, corner, _ = source
    (down_0, right_0), (row_slope, column_slope) = shift
    (begin, end), to = places
    upper = (cell[0] - corner[0]) * width + cell[1] - corner[1]
    next_to = np.uint64(1)
    for first in range(begin, end, LANES):
        place, above = np.uint64(to + first), np.uint64(upper + first)
        below, before = above + np.uint64(width), np.float32(first)
        for lane in range(LANES):
            k, at = np.uint64(lane), before + np.float32(lane)
            down = down_0 + row_slope * at
            right = right_0 + column_slope * at
            line[0, place + k], line[1, place + k] = _mix(
                (pixels[above + k], pixels[above + k + next_to]),
                (pixels[below + k], pixels[below + k + next_to]),
                down,
                right,
            )


@njit(nogil=True, cache=True, inline="always")
def _fetch_pixel(source, cell, shift, places, line):  # type: ignore[no-untyped-def]
    """Fetch one pixel, wherever it lies."""
    pixels, width, corner, tile_shape = source
    lane, to = places
    (down_0, right_0), (row_slope, column_slope) = shift
    down = down_0 + row_slope * np.float32(lane)
    right = right_0 + column_slope * np.float32(lane)
    row, down = _within(cell[0], down, tile_shape[0])
    column, right = _within(cell[1] + lane, right, tile_shape[1])
    if row < 0 or column < 0:
        line[0, to + lane] = line[1, to + lane] = 0
        return
    # Where a fraction is 0, the next pixel has no weight, and there may be none.
    upper = (row - corner[0]) * width + column - corner[1]
    lower = upper + width if down > 0 else upper
    next_to = 1 if right > 0 else 0
    above = pixels[upper], pixels[upper + next_to]
    below = pixels[lower], pixels[lower + next_to]
    line[0, to + lane], line[1, to + lane] = _mix(above, below, down, right)


@njit(nogil=True, cache=True)
def _within(whole, fraction, side):  # type: ignore[no-untyped-def]
    """Return a place on an axis of the tile, its edge if it is beyond by rounding; or −1."""
    if 0 <= whole < side - 1:
        return whole, fraction
    if whole == side - 1 and fraction <= np.float32(ROUNDING):
        return whole, np.float32(0)
    if whole == -1 and fraction >= np.float32(1 - ROUNDING):
        return 0, np.float32(0)
    return -1, np.float32(0)


@njit(nogil=True, cache=True)
def _mix(above, below, down, right):  # type: ignore[no-untyped-def]
    """Return the weighted sum of four pixels, and the weights of those that are not 0."""
    one, none = np.float32(1), np.float32(0)
    a, b = (one - down) * (one - right), (one - down) * right
    c, d = down * (one - right), down * right
    total = a * np.float32(above[0]) + b * np.float32(above[1])
    total += c * np.float32(below[0]) + d * np.float32(below[1])
    share = (a if above[0] else none) + (b if above[1] else none)
    share += (c if below[0] else none) + (d if below[1] else none)
    return total, share


@njit(nogil=True, cache=True)
def _room(figures, columns, step):  # type: ignore[no-untyped-def]
    """Make room for what is fetched of a row; tell where its first column stands in it."""
    start = columns[0] // step * step
    nodes = (columns[1] - start + step - 1) // step
    line = np.empty((figures, nodes * step + LANES), np.float32)
    return line, np.uint64(columns[0] - start)


@njit(nogil=True, cache=True)
def _put(source, numbers, begin, image):  # type: ignore[no-untyped-def]
    columns = begin[1], begin[1] + image.shape[1]
    line, offset = _room(2, columns, numbers[3])
    half, least = np.float32(0.5), np.float32(MIN_SHARE)
    for r in range(image.shape[0]):
        _fetch(source, numbers, begin[0] + r, columns, line)
        for c in range(np.uint64(image.shape[1])):
            total, share = line[0, offset + c], line[1, offset + c]
            mean = total / max(share, least) + half
            image[r, c] = np.uint16(np.int32(mean)) if share >= least else np.uint16(0)


@njit(nogil=True, cache=True)
def _add(source, numbers, begin, sums):  # type: ignore[no-untyped-def]
    columns = begin[1], begin[1] + sums.shape[2]
    line, offset = _room(4, columns, numbers[3])
    one, none, least = np.float32(1), np.float32(0), np.float32(MIN_SHARE)
    height, width = np.float32(source[3][0]), np.float32(source[3][1])
    for r in range(sums.shape[1]):
        _fetch(source, numbers, begin[0] + r, columns, line)
        for c in range(np.uint64(sums.shape[2])):
            total, share = line[0, offset + c], line[1, offset + c]
            down, right = line[2, offset + c], line[3, offset + c]
            weight = min(down + one, height - down, right + one, width - right)
            weight = weight if share >= least else none
            sums[0, r, c] += weight * total
            sums[1, r, c] += weight * share


@njit(nogil=True, cache=True)
def _take(source, numbers, begin, nearest, image):  # type: ignore[no-untyped-def]
    columns = begin[1], begin[1] + image.shape[1]
    line, offset = _room(4, columns, numbers[3])
    half, least = np.float32(0.5), np.float32(MIN_SHARE)
    middle_row, middle_column = (source[3][0] - 1) / 2, (source[3][1] - 1) / 2
    for r in range(image.shape[0]):
        _fetch(source, numbers, begin[0] + r, columns, line)
        for c in range(np.uint64(image.shape[1])):
            total, share = line[0, offset + c], line[1, offset + c]
            down, right = line[2, offset + c] - middle_row, line[3, offset + c] - middle_column
            distance = np.float32(down**2 + right**2)
            if share >= least and distance < nearest[r, c]:
                nearest[r, c] = distance
                image[r, c] = np.uint16(np.int32(total / share + half))
