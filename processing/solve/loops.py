"""Loops of matches: round a loop of right ones, the offsets add up to nothing.

A loop with a wrong match closes by chance only, so matches on loops that close are right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Steps of one search for loops, and so many more a match (about 25 ns each). The search goes from
# the short ways to the long ones; what is found by then is used.
MOST_STEPS, MOST_STEPS_EACH = 150_000, 50
MOST_WAYS = 40_000  # from one node that are looked at together
MOST_VOTERS = 200  # matches between two sets of tiles that are asked


@dataclass(frozen=True, eq=False)
class Loops:
    """Loops of matches.

    Attributes
    ----------
    members : ndarray of int64, shape (k, longest)
        Indices of each loop's matches, filled up with −1.
    sums : ndarray of float64, shape (k, 2)
        What the offsets round each add up to, (rows, columns) in px; gone round such that the area
        inside is not negative, so that what is of one kind everywhere has one sign.
    seen : int
        At most how many loops of the greatest length asked for, or one less, were looked at.
    """

    members: NDArray[np.int64]
    sums: NDArray[np.float64]
    seen: int

    @property
    def gaps(self) -> NDArray[np.float64]:
        """How far the offsets round each are from adding up to nothing, in px."""
        return np.asarray(np.hypot(self.sums[:, 0], self.sums[:, 1]))

    def __len__(self) -> int:
        return len(self.sums)

    def surer_than_chance(self, spread: float, share: float) -> Loops:
        """Give those that close so well that hardly any does by chance.

        Parameters
        ----------
        spread : float
            Radius in px within which the gaps of wrong loops lie evenly.
        share : float
            Of those given, how many may (Y. Benjamini and Y. Hochberg, J. Royal Statistical Soc. B
            57, 1995).
        """
        gaps = np.sort(self.gaps)
        by_chance = self.seen * (gaps / spread) ** 2
        sure = np.flatnonzero(by_chance <= share * np.arange(1, len(self) + 1))
        limit = gaps[sure[-1]] if len(sure) else -1.0
        return self.select(self.gaps <= limit)

    def select(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Loops:
        """Return some of them."""
        return Loops(self.members[which], self.sums[which], self.seen)

    def votes(self, n_matches: int) -> NDArray[np.intp]:
        """Count the loops that each match is on."""
        members = self.members.ravel()
        return np.bincount(members[members >= 0], minlength=n_matches)

    def of_matches(self, numbers: NDArray[np.intp]) -> Loops:
        """Give the same loops by other numbers of their matches, one for each there was."""
        members = np.append(numbers, -1)[self.members]  # the last one for −1
        return Loops(members, self.sums, self.seen)

    def root_sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the root of the sum of squares of values, one a match, over each loop."""
        squares = np.append(values**2, 0.0)  # the last one for −1
        return np.sqrt(squares[self.members].sum(axis=1))

    def surest_first(self, limits: NDArray[np.float64]) -> Loops:
        """Sort: those whose matches are all on many loops, then those that close best."""
        votes = np.append(self.votes(len(limits)), len(self) + 1)[self.members].min(axis=1)
        order = np.lexsort((self.gaps / self.root_sum(limits), -votes))
        return self.select(order)


def find_loops(
    places: NDArray[np.float64],
    ends: NDArray[np.intp],
    offsets: NDArray[np.float64],
    reach: NDArray[np.float64],
    longest: int,
) -> Loops:
    """Find the loops of up to `longest` matches, passing no node twice, that close.

    Parameters
    ----------
    places : ndarray of float64, shape (n_nodes, 2)
        Where the nodes of the graph (tiles, or sets of them) lie, in px: they tell which way
        round a loop goes.
    ends : ndarray of int, shape (m, 2)
        Nodes (a, b) of each match.
    offsets : ndarray of float64, shape (m, 2)
        Measured position of b minus that of a, in px.
    reach : ndarray of float64, shape (m,)
        How far off a match may be, in px. A loop may be open by the root of their sum of squares.
    longest : int

    Returns
    -------
    Loops
    """
    n_nodes = len(places)
    table = Incidence.of(n_nodes, ends)
    degree = np.diff(table.first)
    by_rank = _sorted_by(np.arange(n_nodes), degree, int(degree.max(initial=0)) + 1)
    columns = table.first, table.match, table.other, table.sign
    members, sums, seen = _search(columns, by_rank, places, (offsets, reach), longest)
    way_round = np.where(sums[:, 2] < 0, -1.0, 1.0)
    return Loops(members, sums[:, :2] * way_round[:, None], seen)


@dataclass(frozen=True, eq=False)
class Incidence:
    """Which matches each node has: those of node i stand at first[i] … first[i + 1].

    Attributes
    ----------
    first : ndarray of int64, shape (n_nodes + 1,)
    match, other : ndarray of int64, shape (2 m,)
        Index of the match, and the node that it leads to.
    sign : ndarray of float64, shape (2 m,)
        1 if it leads from a to b, else −1.
    """

    first: NDArray[np.int64]
    match: NDArray[np.int64]
    other: NDArray[np.int64]
    sign: NDArray[np.float64]

    @classmethod
    def of(cls, n_nodes: int, ends: NDArray[np.intp]) -> Incidence:
        """Make the table for matches between nodes (a, b), shape (m, 2)."""
        return cls(*incidence(ends, n_nodes))


@njit(nogil=True, cache=True)
def incidence(ends, n_nodes):  # type: ignore[no-untyped-def]
    """Give the columns of `Incidence` for matches between nodes (a, b), shape (m, 2)."""
    first = np.zeros(n_nodes + 1, np.int64)
    for match in range(len(ends)):
        for end in range(2):
            first[ends[match, end] + 1] += 1
    for node in range(n_nodes):
        first[node + 1] += first[node]
    matches, others = np.empty(2 * len(ends), np.int64), np.empty(2 * len(ends), np.int64)
    signs, free = np.empty(2 * len(ends)), first[:-1].copy()
    for match in range(len(ends)):
        for end in range(2):
            place = free[ends[match, end]]
            matches[place], others[place] = match, ends[match, 1 - end]
            signs[place] = 1.0 - 2.0 * end
            free[ends[match, end]] += 1
    return first, matches, others, signs


@njit(nogil=True, cache=True)
def _search(table, by_rank, places, matches, longest):  # type: ignore[no-untyped-def]
    """List loops: pairs of ways from one node to another that have nothing else in common.

    The one node is that of highest rank of the loop, so that few ways lead over nodes of many
    matches; the two ways are as long, or the first is longer by one.
    """
    first, match, other, sign = table
    offsets, reach = matches
    members, gaps = np.full((1024, longest), -1), np.empty((1024, 3))
    count, seen, steps = 0, 0, 0
    most_steps = MOST_STEPS + MOST_STEPS_EACH * len(offsets)
    # Each way: the way that it prolongs, by which match, to which node, how long it is then, the
    # way before it that ends there too, and its first match.
    ways = np.empty((MOST_WAYS, 6), np.int64)
    sums = np.empty((MOST_WAYS, 4))  # of rows, columns, squared reach, and twice the area
    last, rank = np.full(len(by_rank), -1), np.empty_like(by_rank)
    rank[by_rank] = np.arange(len(by_rank))
    for root in by_rank[::-1]:
        ways[0, 0], ways[0, 1], ways[0, 2], ways[0, 3] = -1, -1, root, 0
        sums[0] = 0.0
        begun, done = 1, 0
        while done < begun and 2 * ways[done, 3] < longest and steps < most_steps:
            here = ways[done, 2]
            for p in range(first[here], first[here + 1]):
                steps += 1
                there = other[p]
                if rank[there] >= rank[root] or _passes(ways, done, there) or begun == MOST_WAYS:
                    continue
                ways[begun, 0], ways[begun, 1], ways[begun, 2] = done, match[p], there
                ways[begun, 3], ways[begun, 4] = ways[done, 3] + 1, last[there]
                ways[begun, 5] = ways[done, 5] if done else match[p]
                sums[begun, 0] = sums[done, 0] + sign[p] * offsets[match[p], 0]
                sums[begun, 1] = sums[done, 1] + sign[p] * offsets[match[p], 1]
                sums[begun, 2] = sums[done, 2] + reach[match[p]] ** 2
                sums[begun, 3] = sums[done, 3] + (
                    places[here, 0] * places[there, 1] - places[here, 1] * places[there, 0]
                )
                partner = last[there]
                while partner >= 0 and ways[partner, 3] >= ways[done, 3]:
                    steps += 1
                    if _is_new_pair(ways, begun, partner, longest):
                        seen += ways[begun, 3] + ways[partner, 3] > longest - 2
                        row = sums[begun, 0] - sums[partner, 0]
                        column = sums[begun, 1] - sums[partner, 1]
                        near = row**2 + column**2 <= sums[begun, 2] + sums[partner, 2]
                        if near and _part_at_once(ways, begun, partner):
                            if count == len(members):
                                members = np.concatenate((members, np.full_like(members, -1)))
                                gaps = np.concatenate((gaps, gaps))
                            gaps[count, 0], gaps[count, 1] = row, column
                            gaps[count, 2] = sums[begun, 3] - sums[partner, 3]
                            _write(members[count], ways, begun, partner)
                            count += 1
                    partner = ways[partner, 4]
                last[there] = begun
                begun += 1
            done += 1
        for way in range(begun):
            last[ways[way, 2]] = -1
    return members[:count], gaps[:count], seen


@njit(nogil=True, cache=True)
def _passes(ways, way, node):  # type: ignore[no-untyped-def]
    """Tell whether a way leads over a node."""
    while way >= 0:
        if ways[way, 2] == node:
            return True
        way = ways[way, 0]
    return False


@njit(nogil=True, cache=True)
def _is_new_pair(ways, one, two, longest):  # type: ignore[no-untyped-def]
    """Tell whether two ways with the same ends may make a loop that is not met a second time.

    The first is as long as the second, or longer by one: then it is met in both directions.
    """
    if ways[one, 3] + ways[two, 3] > longest or ways[one, 1] == ways[two, 1]:
        return False
    if ways[one, 3] == ways[two, 3]:
        return ways[one, 5] != ways[two, 5]
    return ways[one, 5] < ways[two, 5]


@njit(nogil=True, cache=True)
def _part_at_once(ways, one, two):  # type: ignore[no-untyped-def]
    """Tell whether two ways with the same ends have no node between in common."""
    way = ways[one, 0]
    while way > 0:
        if _passes(ways, ways[two, 0], ways[way, 2]):
            return False
        way = ways[way, 0]
    return True


@njit(nogil=True, cache=True)
def _write(members, ways, one, two):  # type: ignore[no-untyped-def]
    """Write the matches of two ways."""
    count = 0
    for begin in (one, two):
        way = begin
        while ways[way, 3] > 0:
            members[count] = ways[way, 1]
            count += 1
            way = ways[way, 0]


@njit(nogil=True, cache=True)
def between_many(ends, n_nodes):  # type: ignore[no-untyped-def]
    """Mark the matches that may be on loops of more than two: both nodes lead to others, too.

    Parameters
    ----------
    ends : ndarray of int, shape (m, 2)
    n_nodes : int

    Returns
    -------
    ndarray of bool, shape (m,)
    """
    useful = np.ones(len(ends), np.bool_)
    changed = True
    while changed:
        changed = False
        partner, many = np.full(n_nodes, -1), np.zeros(n_nodes, np.bool_)
        for match in range(len(ends)):
            if useful[match]:
                for end in range(2):
                    node, other = ends[match, end], ends[match, 1 - end]
                    many[node] |= partner[node] >= 0 and partner[node] != other
                    partner[node] = other
        for match in range(len(ends)):
            if useful[match] and not (many[ends[match, 0]] and many[ends[match, 1]]):
                useful[match], changed = False, True
    return useful


@njit(nogil=True, cache=True)
def grow(ends, offsets, limits, n_nodes):  # type: ignore[no-untyped-def]
    """Tie nodes together that two matches or more agree on, then the larger ones, and so on.

    Parameters and Returns
    ----------------------
    As those of `join`, without the loops.
    """
    taken = np.zeros(len(ends), np.bool_)
    root, shift = np.arange(n_nodes), np.zeros((n_nodes, 2))
    gaps, pairs = np.zeros_like(offsets), np.zeros((len(ends), 2), np.int64)
    order = np.arange(len(ends))
    tied = True
    while tied:
        tied, count = False, 0
        for match in order:
            row_a, column_a, a = _follow(ends[match, 0], root, shift)
            row_b, column_b, b = _follow(ends[match, 1], root, shift)
            if a == b:
                continue
            upwards = 1.0 if a < b else -1.0
            pairs[match, 0], pairs[match, 1] = min(a, b), max(a, b)
            gaps[match, 0] = upwards * (offsets[match, 0] - row_b + row_a)
            gaps[match, 1] = upwards * (offsets[match, 1] - column_b + column_a)
            order[count] = match
            count += 1
        order = _sorted_by(_sorted_by(order[:count], pairs[:, 1], n_nodes), pairs[:, 0], n_nodes)
        begin = 0
        while begin < count:
            low, high = pairs[order[begin], 0], pairs[order[begin], 1]
            stop = begin + 1
            while stop < count and pairs[order[stop], 0] == low and pairs[order[stop], 1] == high:
                stop += 1
            if stop - begin > 1 and root[low] == low and root[high] == high:
                best, votes = largest_agreement(order[begin:stop], gaps, limits)
                if votes > 1:
                    root[high] = low
                    shift[high, 0], shift[high, 1] = gaps[best, 0], gaps[best, 1]
                    for match in order[begin:stop]:
                        taken[match] = agree(match, best, gaps, limits)
                    tied = True
            begin = stop
    _flatten(root, shift)
    return taken, root, shift


@njit(nogil=True, cache=True)
def _sorted_by(indices, values, below):  # type: ignore[no-untyped-def]
    """Sort indices by their values, integers below a number, keeping the order of equals."""
    place = np.zeros(below + 1, np.int64)
    for i in indices:
        place[values[i] + 1] += 1
    for value in range(below):
        place[value + 1] += place[value]
    result = np.empty_like(indices)
    for i in indices:
        result[place[values[i]]] = i
        place[values[i]] += 1
    return result


@njit(nogil=True, cache=True)
def largest_agreement(group, gaps, limits):  # type: ignore[no-untyped-def]
    """Find the match of a group that most agree with, and how many do."""
    best, most = group[0], 0
    for match in group[:MOST_VOTERS]:
        votes = 0
        for partner in group[:MOST_VOTERS]:
            votes += agree(match, partner, gaps, limits)
        if votes > most:
            best, most = match, votes
    return best, most


@njit(nogil=True, cache=True)
def agree(one, two, gaps, limits):  # type: ignore[no-untyped-def]
    """Tell whether two matches move what they tie alike, by their gaps in px."""
    gap = np.hypot(gaps[one, 0] - gaps[two, 0], gaps[one, 1] - gaps[two, 1])
    return gap <= np.hypot(limits[one], limits[two])


@njit(nogil=True, cache=True)
def join(loops, ends, offsets, limits, n_nodes):  # type: ignore[no-untyped-def]
    """Tie the nodes of loops together, loop after loop; what contradicts earlier ones is left out.

    Parameters
    ----------
    loops : ndarray of int64, shape (k, longest)
        `Loops.members`, the surest first.
    ends : ndarray of int, shape (m, 2)
    offsets : ndarray of float64, shape (m, 2)
    limits : ndarray of float64, shape (m,)
        How far a match may be from what others made of its nodes, in px.
    n_nodes : int

    Returns
    -------
    taken : ndarray of bool, shape (m,)
        Whether each match was used.
    root : ndarray of int64, shape (n_nodes,)
        Nodes of one root are tied together.
    shift : ndarray of float64, shape (n_nodes, 2)
        How far each is to be moved to fit the others of its root, in px.
    """
    taken = np.zeros(len(ends), np.bool_)
    root, shift = np.arange(n_nodes), np.zeros((n_nodes, 2))
    for k in range(len(loops)):
        for match in loops[k]:
            if match < 0 or taken[match]:
                continue
            a, b = ends[match]
            row_a, column_a, tree_a = _follow(a, root, shift)
            row_b, column_b, tree_b = _follow(b, root, shift)
            row = offsets[match, 0] - row_b + row_a
            column = offsets[match, 1] - column_b + column_a
            if tree_a != tree_b:
                root[tree_b] = tree_a
                shift[tree_b, 0], shift[tree_b, 1] = row, column
                taken[match] = True
            else:
                taken[match] = np.hypot(row, column) <= limits[match]
    _flatten(root, shift)
    return taken, root, shift


@njit(nogil=True, cache=True)
def contract(ends, gaps, root, shift):  # type: ignore[no-untyped-def]
    """Make one node of those that are tied together; the matches are changed in place.

    Parameters
    ----------
    ends : ndarray of int, shape (m, 2)
        Nodes (a, b) of each match; in the end, the new ones.
    gaps : ndarray of float64, shape (m, 2)
        How far b is from where the match has it from a, in px; in the end, once all have moved.
    root : ndarray of int64, shape (n_nodes,)
    shift : ndarray of float64, shape (n_nodes, 2)
        As `join` gives them.

    Returns
    -------
    number : ndarray of int64, shape (n_nodes,)
        What each node is now.
    count : int
        How many there are now.
    """
    number, count = np.empty_like(root), 0
    for node in range(len(root)):
        if root[node] == node:
            number[node] = count
            count += 1
    for node in range(len(root)):
        number[node] = number[root[node]]
    for match in range(len(ends)):
        a, b = ends[match]
        gaps[match, 0] += shift[a, 0] - shift[b, 0]
        gaps[match, 1] += shift[a, 1] - shift[b, 1]
        ends[match, 0], ends[match, 1] = number[a], number[b]
    return number, count


@njit(nogil=True, cache=True)
def drop_inner(index, ends, gaps, limits, fitting):  # type: ignore[no-untyped-def]
    """Move the matches between two nodes to the front of their arrays, in place.

    Parameters
    ----------
    index : ndarray of int64, shape (m,)
        What each match is called.
    ends : ndarray of int, shape (m, 2)
    gaps : ndarray of float64, shape (m, 2)
    limits : ndarray of float64, shape (m,)
    fitting : ndarray of bool
        By names; made true of those within one node whose gap is within their limit.

    Returns
    -------
    int
        How many there are.
    """
    count = 0
    for match in range(len(index)):
        if ends[match, 0] != ends[match, 1]:
            index[count], limits[count] = index[match], limits[match]
            for k in range(2):
                ends[count, k], gaps[count, k] = ends[match, k], gaps[match, k]
            count += 1
        elif np.hypot(gaps[match, 0], gaps[match, 1]) <= limits[match]:
            fitting[index[match]] = True
    return count


@njit(nogil=True, cache=True)
def _flatten(root, shift):  # type: ignore[no-untyped-def]
    """Let every node refer to the root of its tree."""
    for node in range(len(root)):
        row, column, tree = _follow(node, root, shift)
        if tree != node:
            root[node], shift[node, 0], shift[node, 1] = tree, row, column


@njit(nogil=True, cache=True)
def _follow(node, root, shift):  # type: ignore[no-untyped-def]
    """Sum the shifts from a node to the root of its tree; halve the way for the next time."""
    row, column = 0.0, 0.0
    while root[node] != node:
        above = root[node]
        if root[above] != above:
            shift[node, 0] += shift[above, 0]
            shift[node, 1] += shift[above, 1]
            root[node] = root[above]
        row += shift[node, 0]
        column += shift[node, 1]
        node = root[node]
    return row, column, node
