"""Documents of several runs at a time reach the callback of their own run, as they are."""

from __future__ import annotations

from itertools import zip_longest

import pytest

from callbacks.by_run import ByRun, events_of
from tests.callbacks.montage import SimulatedMontage


@pytest.mark.parametrize("stream", [False, True], ids=["datum", "stream_datum"])
def test_each_run_gets_its_documents_and_no_others(data_folder, stream):
    runs = [
        list(SimulatedMontage(data_folder, seed=seed).documents(stream=stream)) for seed in (1, 2)
    ]
    got: dict[str, list] = {}

    def factory(start):
        mine = got.setdefault(start["uid"], [])
        return lambda name, doc: mine.append((name, doc))

    route = ByRun(factory)
    for pair in zip_longest(*runs):
        for item in filter(None, pair):
            route(*item)
    assert list(got.values()) == runs
    assert not route._run_of, "nothing of a run that ended is kept"
    assert not route._callbacks


def test_a_run_of_no_interest_is_passed_over(data_folder):
    route = ByRun(lambda start: None)
    for item in SimulatedMontage(data_folder).documents():
        route(*item)
    assert not route._run_of


def test_events_one_by_one_or_in_pages():
    event = {"seq_num": 1, "data": {"x": 1}, "timestamps": {"x": 0}, "uid": "a", "time": 0.0}
    event |= {"descriptor": "d", "filled": {}}
    assert list(events_of("event", event)) == [event]
    page = {key: [event[key]] * 2 for key in ("seq_num", "uid", "time")}
    page |= {"data": {"x": [1, 2]}, "timestamps": {"x": [0, 0]}, "descriptor": "d", "filled": {}}
    assert [one["data"]["x"] for one in events_of("event_page", page)] == [1, 2]
