"""Matches that alone tie two parts of a montage: whether any is, and whether others overrule it."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from processing.solve.loops import agree, incidence, largest_agreement


def on_loops(n_nodes: int, ends: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Tell which matches are on any loop: without one of the others nothing would fall apart.

    Parameters
    ----------
    n_nodes : int
    ends : ndarray of int, shape (m, 2)
        Nodes (a, b) of each match.

    Returns
    -------
    ndarray of bool, shape (m,)
    """
    bridges, _, _, _ = _find_bridges(ends, np.ones(len(ends), np.bool_), n_nodes)
    on_any = np.ones(len(ends), np.bool_)
    on_any[bridges[:, 0]] = False
    return on_any


def overruled(
    ends: NDArray[np.intp],
    gaps: NDArray[np.float64],
    limits: NDArray[np.float64],
    kept: NDArray[np.bool_],
    doubts: NDArray[np.float64],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find kept matches that alone tie two parts while two others between those agree otherwise.

    Parameters
    ----------
    ends : ndarray of int, shape (m, 2)
        Nodes (a, b) of each match.
    gaps : ndarray of float64, shape (m, 2)
        How far each is from the present positions, in px.
    limits : ndarray of float64, shape (m,)
        How far off each may be, in px.
    kept : ndarray of bool, shape (m,)
    doubts : ndarray of float64, shape (m,)
        Where several kept ones may be the wrong one, the one of the greatest is.

    Returns
    -------
    wrong, right : ndarray of bool, shape (m,)
        Kept ones that are overruled, and those left out that do so.
    """
    bridges, order, number, tree = _find_bridges(ends, kept, int(ends.max(initial=-1)) + 1)
    bridges = bridges[np.argsort(-doubts[bridges[:, 0]], kind="stable")]
    return _outvote(bridges, (order, number, tree), (ends, gaps, limits, kept))


@njit(nogil=True, cache=True)
def _outvote(bridges, traversal, matches):  # type: ignore[no-untyped-def]
    order, number, tree = traversal
    ends, gaps, limits, kept = matches
    first, match, other, sign = incidence(ends, len(order))
    wrong, right = np.zeros(len(ends), np.bool_), np.zeros(len(ends), np.bool_)
    across, group = np.empty_like(gaps), np.empty(len(ends), np.int64)
    for bridge, begin, end in bridges:
        start, stop = tree[begin, 0], tree[begin, 1]
        below = 2 * (end - begin) <= stop - start  # which part is the smaller one
        count, used = 0, False
        for k in range(begin if below else start, end if below else stop):
            if not below and begin <= k < end:
                continue
            node = order[k]
            for p in range(first[node], first[node + 1]):
                there = number[other[p]]
                if kept[match[p]] or not start <= there < stop or (begin <= there < end) == below:
                    continue
                across[match[p], 0] = sign[p] * gaps[match[p], 0]
                across[match[p], 1] = sign[p] * gaps[match[p], 1]
                group[count] = match[p]
                count += 1
        if count < 2:
            continue
        best, votes = largest_agreement(group[:count], across, limits)
        if votes < 2:
            continue
        for k in range(count):
            used |= right[group[k]] and agree(group[k], best, across, limits)
        if not used:
            wrong[bridge] = True
            for k in range(count):
                right[group[k]] |= agree(group[k], best, across, limits)
    return wrong, right


@njit(nogil=True, cache=True)
def _find_bridges(ends, kept, n_nodes):  # type: ignore[no-untyped-def]
    """Find the kept matches that are on no loop (R. E. Tarjan, Inf. Proc. Letters 2, 1974).

    Returns
    -------
    bridges : ndarray of int64, shape (k, 3)
        The match, and which nodes are on its one side: from … to, in their order.
    order, number : ndarray of int64, shape (n_nodes,)
        The nodes in the order of the search, and where each stands in it.
    tree : ndarray of int64, shape (n_nodes, 2)
        From where to where in the order the set reaches that a node hangs together with.
    """
    first, match, other, _ = incidence(ends, n_nodes)
    number, low = np.full(n_nodes, -1), np.zeros(n_nodes, np.int64)
    order, tree = np.zeros(n_nodes, np.int64), np.zeros((n_nodes, 2), np.int64)
    stack, came, cursor = order.copy(), order.copy(), first[:-1].copy()
    bridges, found, count = np.empty((n_nodes, 3), np.int64), 0, 0
    for start in range(n_nodes):
        if number[start] >= 0:
            continue
        begin, depth, stack[0], came[0] = count, 0, start, -1
        number[start], low[start], order[count] = count, count, start
        count += 1
        while depth >= 0:
            node = stack[depth]
            if cursor[node] < first[node + 1]:
                p = cursor[node]
                cursor[node] += 1
                if match[p] == came[depth] or not kept[match[p]]:
                    continue
                following = other[p]
                if number[following] >= 0:
                    low[node] = min(low[node], number[following])
                    continue
                number[following], low[following], order[count] = count, count, following
                count += 1
                depth += 1
                stack[depth], came[depth] = following, match[p]
            else:
                if depth > 0:
                    above = stack[depth - 1]
                    low[above] = min(low[above], low[node])
                    if low[node] > number[above]:
                        bridges[found] = (came[depth], number[node], count)
                        found += 1
                depth -= 1
        tree[begin:count, 0], tree[begin:count, 1] = begin, count
    return bridges[:found], order, number, tree
