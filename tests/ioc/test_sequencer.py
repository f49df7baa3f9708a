"""The sequencer's PVs over the simulated instrument: commands, faults, results, and the others."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ioc.sequence_protocol import FaultCode
from ioc.sequencer import RECORD
from tests.ioc.sequencer_client import SequencerClient
from tests.ioc.test_stage import monitored
from tests.support import wait_until

RUNNING = "the sequencer is running: pause or abort it first"


@pytest.fixture(scope="module")
def shared(module_ioc, tmp_path_factory) -> SequencerClient:
    truth = tmp_path_factory.mktemp("truth") / "truth.jsonl"
    return SequencerClient(
        module_ioc(
            specimen="points", sensor=(64, 64), camera={"timeout": 0.2}, truth_log=str(truth)
        )
    )


@pytest.fixture
def client(shared: SequencerClient) -> SequencerClient:
    shared.reset()
    return shared


def test_it_flies(client):
    client.load([0, 1, 2, 2, 1, 0], [0, 0, 0, 1, 1, 1])
    assert client.get("SEQ:Points_RBV") == 6
    assert client.get("SEQ:Duration_RBV") > 6 * 0.005
    with client.recorded() as recorder:
        client.start()
        client.until("Done")
        wait_until(lambda: "Done" in recorder.states, 5)
        assert len(recorder.rows()) == 6, "whoever sees the end has all of it"
    assert client.order == list(range(6))
    client.check_frames(6)
    np.testing.assert_allclose(client.array("ReadbackX"), [0, 1, 2, 2, 1, 0], atol=0.05)
    np.testing.assert_allclose(client.array("ReadbackY"), [0, 0, 0, 1, 1, 1], atol=0.05)
    took = client.array("ExposureEnd") - client.array("ExposureStart")
    assert np.all((took >= 0.0045) & (took < 0.5))
    assert client.array("Mean").min() > 500
    assert client.array("Fault").tolist() == [0] * 6
    assert client.get("SEQ:TimeRemaining_RBV") == 0


class TestLoad:
    @pytest.mark.parametrize(
        ("arrays", "text"),
        [
            ({"X": [0, 1, 1e6]}, "x of point 2 is 1e+06; it must lie between"),
            ({"Y": [0, -1e6, 0]}, "y of point 1 is -1e+06"),
            ({"X": [0, np.nan, 0]}, "x of point 1 is nan"),
            ({"Y": [np.inf, 0, 0]}, "y of point 0 is inf"),
            ({"Exposure": [0.01, 0.01, 0]}, "exposure of point 2 is 0"),
            ({"Exposure": [1e4]}, "exposure of point 0 is 10000"),
            ({"FocusOffset": [0, 0, 1e6]}, "focus of point 2 is 1e+06"),
            ({"ShiftX": [0, 1e4, 0]}, "shift_x of point 1"),
            ({"ShiftY": [0, np.nan, 0]}, "shift_y of point 1"),
            ({"X": [0, 1]}, "X holds 2 values; NumPoints is 3"),
            ({"X": [0]}, "X holds 1 values; NumPoints is 3"),
            ({"ShiftX": [0, 1]}, "ShiftX holds 2 values; NumPoints is 3"),
        ],
    )
    def test_one_wrong_number_refuses_the_whole(self, client, arrays, text):
        client.load([0, 1])
        before = client.get("SEQ:Load_RBV")
        client.write([0, 1, 2])
        for name, values in arrays.items():
            client.put(f"SEQ:{name}", np.array(values, float))
        assert text in client.refused("SEQ:Load", 77)
        assert client.text("SEQ:Message_RBV").startswith(f"not loaded: {text[:10]}")
        assert client.get("SEQ:Load_RBV") == before
        assert client.get("SEQ:Points_RBV") == 2
        client.start()
        client.until("Done")
        assert client.order == [0, 1], "what was loaded before is still what it flies"

    def test_nothing_cannot_be_loaded(self, client):
        client.put("SEQ:NumPoints", 0)
        assert "NumPoints is 0" in client.refused("SEQ:Load", 77)

    def test_more_than_there_is_room_for(self, client):
        assert "between 0 and 32768" in client.refused("SEQ:NumPoints", 40000)

    def test_soft_limits_hold(self, client):
        client.put("STAGE:X.HLM", 1.5)
        try:
            client.write([0, 1, 2])
            assert "x of point 2 is 2; it must lie between" in client.refused("SEQ:Load", 77)
        finally:
            client.put("STAGE:X.HLM", client.get("STAGE:Y.HLM"))

    def test_twenty_thousand_points(self, client):
        n = 20_000
        x = np.round(np.random.default_rng(1).uniform(-50, 50, n), 3)
        client.load(x, -x, FocusOffset=x / 100, Exposure=np.full(n, 0.01))
        assert client.get("SEQ:Points_RBV") == n
        assert client.get("SEQ:Duration_RBV") > n * 0.01
        assert client.array("FrameNumber").tolist() == [-1] * n
        client.start()
        client.until_done(3)
        client.put("SEQ:Abort", 1)
        assert client.state == "Aborted"
        done = client.done
        assert np.count_nonzero(client.array("FrameNumber") >= 0) == done
        np.testing.assert_allclose(client.array("ReadbackX")[:done], x[:done], atol=0.05)

    def test_it_can_be_asked_for_at_rest(self, client):
        client.load([0, 1, 2])
        client.put("SEQ:HoldAfter", 0)
        client.start()
        client.until("Held")
        client.load([5, 6])
        client.start()
        client.until("Done")
        assert client.order == [0, 1]


ALLOWED = {
    "Loaded": {"Start", "Load"},
    "Running": set(),
    "Paused": {"Resume", "Load"},
    "Held": {"Resume", "Load"},
    "Fault": {"Resume", "Skip", "Load"},
    "Done": {"Load"},
    "Aborted": {"Load"},
}


def bring(client: SequencerClient, state: str) -> None:
    """Bring the sequencer to a state, by what leads to it."""
    if state == "Fault":
        client.put("SIM:Fault:LostFrame:Count", 1)
    client.load([0, 1, 2], Exposure=[0.5 if state in ("Running", "Paused") else 0.005])
    if state == "Loaded":
        return
    if state == "Held":
        client.put("SEQ:HoldAfter", 0)
    client.start()
    if state in ("Paused", "Aborted"):
        client.put("SEQ:Pause" if state == "Paused" else "SEQ:Abort", 1)
    client.until(state)


@pytest.mark.parametrize("state", ALLOWED)
def test_commands_in_each_state(client, state):
    for command in ("Start", "Resume", "Skip", "Load"):
        if command not in ALLOWED[state]:
            bring(client, state)
            reason = client.refused(f"SEQ:{command}", 12345 if command == "Load" else 1)
            assert ("is running" if command == "Load" else state) in reason
            assert client.state == state
            client.put("SEQ:Abort", 1)
    for command in sorted(ALLOWED[state]):
        bring(client, state)
        client.put(f"SEQ:{command}", 12345 if command == "Load" else 1)
        client.until({"Load": "Loaded", "Skip": "Paused"}.get(command, "Done"))
    for command in ("Pause", "Heartbeat"):
        bring(client, state)
        client.put(f"SEQ:{command}", 1)
        now = "Paused" if (state, command) == ("Running", "Pause") else state
        assert client.state == now
    client.put("SEQ:Abort", 1)
    rests = state in ("Running", "Paused", "Held", "Fault")
    assert client.state == ("Aborted" if rests else state)


def expose_for_a_while() -> None:
    """Come to the middle of an exposure of half a second that has begun, which no PV tells."""
    time.sleep(0.15)


class TestInterruptions:
    def fly(self, client: SequencerClient, moment: str) -> None:
        """Fly three points until some moment after the first."""
        if moment == "settle":
            client.put("SEQ:Settle", 1.0)
        client.load([0, 0 if moment == "exposure" else 2, 3], Exposure=[0.5])
        if moment == "move":
            client.put("STAGE:X.VELO", 2)
        client.start()
        wait_until(lambda: client.get("SEQ:Index_RBV") == 1, 20, "the second", period=0.002)
        if moment == "exposure":
            expose_for_a_while()
        if moment == "move":
            wait_until(lambda: client.get("STAGE:X.DMOV") == 0, 5, "it moves", period=0.002)
        if moment == "settle":
            wait_until(lambda: client.get("STAGE:X.RBV") > 1.9, 5, "it has moved", period=0.002)
            wait_until(lambda: client.get("STAGE:X.DMOV") == 1, 5, "it settles", period=0.002)

    @pytest.mark.parametrize("moment", ["move", "settle", "exposure"])
    def test_pause_and_resume(self, client, moment):
        self.fly(client, moment)
        client.put("SEQ:Pause", 1)
        assert client.state == "Paused"
        assert client.done == (2 if moment == "exposure" else 1), "the running exposure is made"
        assert client.get("STAGE:X.DMOV") == 1
        client.put("STAGE:X", -1)  # it is free
        client.put("SEQ:Resume", 1)
        client.until("Done")
        client.check_frames(3)
        np.testing.assert_allclose(
            client.array("ReadbackX"), [0, 0 if moment == "exposure" else 2, 3], atol=0.05
        )

    @pytest.mark.parametrize("moment", ["move", "settle", "exposure"])
    def test_abort(self, client, moment):
        self.fly(client, moment)
        began = time.monotonic()
        client.put("SEQ:Abort", 1)
        assert client.state == "Aborted"
        if moment != "exposure":
            assert time.monotonic() - began < 0.9
        assert client.order == [0]
        assert not client.array("Fault").any()
        assert client.get("STAGE:X.DMOV") == 1
        if moment == "move":
            assert client.get("STAGE:X.RBV") < 1.9
            assert client.get("STAGE:X") == pytest.approx(client.get("STAGE:X.RBV"), abs=0.02)
        client.put("STAGE:X", 0)

    def test_a_pause_that_somebody_ends_by_an_abort(self, client):
        client.load([0, 0, 0], Exposure=[1.0])
        client.start()
        wait_until(lambda: client.get("SEQ:Index_RBV") >= 0, 5)
        client.put("SEQ:Pause", 1, wait=False)
        client.put("SEQ:Abort", 1)
        assert client.state == "Aborted"


class TestOthers:
    WRITES = (
        ("STAGE:X", 1),
        ("STAGE:Y", 1),
        ("STAGE:Aperture", 1),
        ("CAM:cam1:Acquire", 1),
        ("CAM:cam1:BinX", 2),
        ("CAM:HDF1:Capture", 0),
        ("CAM:HDF1:Capture", 1),
    )

    def test_they_are_refused_while_it_runs_and_free_when_it_rests(self, client):
        client.load([0, 0, 0], Exposure=[3.0])
        client.start()
        for name, value in self.WRITES:
            assert RUNNING in client.refused(name, value)
        assert client.state == "Running"
        client.put("SEQ:Abort", 1)
        for name, value in (*self.WRITES, ("CAM:cam1:BinX", 1), ("CAM:HDF1:Capture", 0)):
            client.put(name, value)

    def test_it_does_not_start_where_others_are_at_work(self, client):
        client.load([0, 1])
        client.put("STAGE:X.VELO", 2)
        client.put("STAGE:X", 10, wait=False)
        wait_until(lambda: client.get("STAGE:X.DMOV") == 0, 5, period=0.002)
        assert "the stage is moving" in client.refused("SEQ:Start", 1)
        client.put("STAGE:X.STOP", 1)
        client.put("STAGE:X.VELO", 100)
        client.put("STAGE:X", 0)
        client.put("CAM:cam1:AcquireTime", 1.0)
        client.put("CAM:cam1:Acquire", 1, wait=False)
        wait_until(lambda: client.get("CAM:cam1:Acquire_RBV") == 1, 5, period=0.002)
        assert "acquiring" in client.refused("SEQ:Start", 1)
        client.put("CAM:cam1:Acquire", 0)
        client.put("CAM:HDF1:Capture", 0)
        assert "HDF1 is not capturing" in client.refused("SEQ:Start", 1)
        assert client.state == "Loaded"
        client.put("STAGE:X", 0.5)  # nothing was kept from others
        client.new_file()
        client.start()
        client.until("Done")
        client.check_frames(2)

    def test_a_stop_from_outside_is_seen(self, client):
        client.load([0, 5, 6])
        client.put("STAGE:X.VELO", 2)
        client.start()
        wait_until(lambda: 1 < client.get("STAGE:X.RBV") < 4, 10, "on its way", period=0.002)
        client.put("STAGE:X.STOP", 1)
        point, code, message = client.fault()
        assert (point, code) == (1, FaultCode.NOT_IN_POSITION)
        assert "not in position" in message
        assert client.order == [0]
        client.put("STAGE:X.VELO", 100)
        client.put("SEQ:Resume", 1)
        client.until("Done")
        client.check_frames(3)


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "code", "text"),
        [
            ("StageStall", FaultCode.STALL, "stalled"),
            ("CameraTimeout", FaultCode.CAMERA, "did not end"),
            ("LostFrame", FaultCode.LOST_FRAME, "did not arrive"),
            ("DiskFull", FaultCode.NOT_WRITTEN, "No space left on device"),
        ],
    )
    def test_it_rests_with_point_and_reason_and_goes_on(self, client, fault, code, text):
        client.load([0, 3, 6, 9], Exposure=[0.05])
        client.put("SEQ:HoldAfter", 1)
        client.start()
        client.until("Held")
        client.put(f"SIM:Fault:{fault}:Count", 1)
        with client.recorded() as recorder:
            client.put("SEQ:Resume", 1)
            point, found, message = client.fault()
            wait_until(lambda: "Fault" in recorder.states, 5)
            names = [name for name, _ in recorder.seen]
            assert recorder.states[-1] == "Fault"
            last = len(names) - 1 - names[::-1].index("State_RBV")
            before = recorder.seen[:last]
            assert [v for n, v in before if n == "Failed_RBV"][-1] == point
            assert [v for n, v in before if n == "Message_RBV"][-1] == message
        assert (point, found) == (2, code)
        assert text in message
        assert client.order == [0, 1]
        client.put("STAGE:X", 0)  # the hardware is free
        if fault == "DiskFull":
            assert "HDF1 is not capturing" in client.refused("SEQ:Resume", 1)
            client.new_file()
        client.put("SEQ:Resume", 1)
        client.until("Done")
        assert client.order == [0, 1, 2, 3]
        faults = client.array("Fault").tolist()
        # The frame after one that ended the capture may have been on its way: it is named too.
        assert faults in ([0, 0, code, 0], [0, 0, code, code][: 4 if fault == "DiskFull" else 0])
        if fault == "DiskFull":
            assert client.array("FramePlace").tolist() == [0, 1, 0, 1]
        else:
            client.check_frames(4)

    @pytest.mark.parametrize(
        ("name", "dark", "light"),
        [("Screen", "Down", "Up"), ("Blank", "On", "Off"), ("ColumnValve", "Closed", "Open")],
    )
    @pytest.mark.parametrize("moment", ["before", "in the exposure"])
    def test_without_light_it_rests(self, client, name, dark, light, moment):
        client.load([0, 0, 0], Exposure=[0.005, 0.6, 0.005])
        before = len(client.truth())
        if moment == "before":
            client.put("SEQ:HoldAfter", 0)
            client.start()
            client.until("Held")
            client.put(f"SCOPE:{name}", dark)
            client.put("SEQ:Resume", 1)
        else:
            client.start()  # the stage stays, so that one exposure follows on the other
            wait_until(lambda: client.get("SEQ:Index_RBV") == 1, 20, period=0.002)
            expose_for_a_while()
            client.put(f"SCOPE:{name}", dark)
        point, code, message = client.fault()
        assert (point, code) == (1, FaultCode.INTERLOCK)
        assert f"is {dark!r}; it must be {light!r}" in message
        made = 1 if moment == "before" else 2
        assert len(client.truth()) == before + made, "one without light is not told of"
        assert client.order == [0]
        client.put("SEQ:Resume", 1)
        assert client.fault()[0] == 1, "as long as there is no light"
        client.put(f"SCOPE:{name}", light)
        client.put("SEQ:Resume", 1)
        client.until("Done")
        client.check_frames(3)
        assert client.array("Mean").min() > 500

    def test_interlocks_can_be_switched_off_for_dark_frames(self, client):
        client.put("SCOPE:Blank", "On")
        client.put("SEQ:Interlocks", "Disable")
        client.load([0, 0])
        client.start()
        client.until("Done")
        assert client.array("Mean").max() < 500

    def test_a_point_can_be_left_out(self, client):
        client.load([0, 1, 2])
        client.put("SIM:Fault:LostFrame:Count", 1)
        client.start()
        assert client.fault()[0] == 0
        client.put("SEQ:Skip", 1)
        assert client.state == "Paused"
        assert client.get("SEQ:Failed_RBV") == -1
        client.put("SEQ:Resume", 1)
        client.until("Done")
        assert client.order == [1, 2]
        assert client.array("Fault").tolist() == [FaultCode.LOST_FRAME, 0, 0]
        assert client.array("FrameNumber")[0] == -1
        assert np.isnan(client.array("ReadbackX")[0])


class TestHoldAndWatchdog:
    def test_hold_after(self, client):
        client.load([0, 1, 2, 3])
        client.put("SEQ:HoldAfter", 1)
        client.start()
        client.until("Held")
        assert client.order == [0, 1]
        assert client.get("SEQ:HoldAfter_RBV") == -1
        assert "point 2 is next" in client.refused("SEQ:HoldAfter", 1)
        client.put("STAGE:X", 0)
        client.put("SEQ:HoldAfter", 2)
        client.put("SEQ:Resume", 1)
        client.until("Held")
        assert client.order == [0, 1, 2]
        client.put("SEQ:Resume", 1)
        client.until("Done")
        client.check_frames(4)

    def test_without_a_sign_of_life_it_rests_and_spares_the_specimen(self, client):
        client.put("SEQ:Watchdog", 0.5)
        client.load([0] * 200, Exposure=[0.02])
        client.start()
        client.until("Paused")
        assert "no client was heard of" in client.text("SEQ:Message_RBV")
        assert client.text("SCOPE:Blank_RBV") == "On"
        assert 0 < client.done < 200
        assert client.get("CAM:HDF1:NumCaptured_RBV") == client.done

    def test_heartbeats_keep_it_going(self, client):
        client.put("SEQ:Watchdog", 1.0)
        client.load([0] * 100, Exposure=[0.02])
        client.start()
        while client.state == "Running":
            client.put("SEQ:Heartbeat", 1)
        assert client.state == "Done"


class TestOptics:
    def test_offsets_are_set_for_each_point_and_taken_back(self, client):
        client.put("SCOPE:Defocus", -2.0)
        client.put("SCOPE:ImageShiftX", 0.1)
        client.load(
            [0] * 4, FocusOffset=[0, 1, 2, 0.5], ShiftX=[0, 0.2, 0.2, -0.1], ShiftY=[0, 0, 0.3, 0]
        )
        client.put("SEQ:HoldAfter", 2)
        client.start()
        client.until("Held")
        base = {"Defocus": -2.0, "ImageShiftX": 0.1, "ImageShiftY": 0.0}
        for name, value in base.items():
            assert client.get(f"SCOPE:{name}_RBV") == pytest.approx(value), "at rest"
            assert client.get(f"SCOPE:{name}") == pytest.approx(value)
        client.put("SEQ:Resume", 1)
        client.until("Done")
        for name, value in base.items():
            assert client.get(f"SCOPE:{name}_RBV") == pytest.approx(value), "at the end"
        truth = client.truth()
        frames = [truth[number] for number in client.array("FrameNumber")]
        defocus = np.array([frame["defocus"] for frame in frames])
        np.testing.assert_allclose(np.diff(defocus), np.diff([0, 1, 2, 0.5]), atol=0.2)
        shifts = np.array([[f["image_shift_x"], f["image_shift_y"]] for f in frames])
        assert np.linalg.norm(shifts[1] - shifts[0]) == pytest.approx(0.2, rel=0.2)
        assert np.linalg.norm(shifts[2] - shifts[1]) == pytest.approx(0.3, rel=0.2)

    def test_they_are_added_to_what_is_set_when_it_goes_on(self, client):
        client.load([0] * 3, FocusOffset=[0, 1, 1])
        client.put("SEQ:HoldAfter", 0)
        client.start()
        client.until("Held")
        client.put("SCOPE:Defocus", 5.0)  # as an autofocus does
        client.put("SEQ:Resume", 1)
        client.until("Done")
        assert client.get("SCOPE:Defocus_RBV") == pytest.approx(5.0)
        truth = client.truth()
        first, second, _ = (truth[number]["defocus"] for number in client.array("FrameNumber"))
        assert second - first == pytest.approx(6.0, abs=0.2)


def test_image_shift_makes_up_for_a_stage_that_stops_short(start_ioc):
    client = SequencerClient(
        start_ioc(
            driver="tests.ioc.short_stage:connect",
            short={"x": 0.3},
            specimen="points",
            sensor=[64, 64],
        )
    )
    assert client.state == "Idle"
    for command in ("Start", "Resume", "Skip"):
        assert "Idle" in client.refused(f"SEQ:{command}", 1)
    for command in ("Pause", "Abort"):
        client.put(f"SEQ:{command}", 1)
    client.reset()
    client.put("SEQ:SettleTimeout", 0.1)
    client.load([1, 2, 2])
    client.start()
    assert client.fault()[:2] == (0, FaultCode.NOT_IN_POSITION)
    client.put("SEQ:ShiftLimit", 0.35)
    client.put("SEQ:ShiftRotation", 90.0)
    client.put("SEQ:ShiftScale", 2.0)
    with monitored(
        f"{client.ioc.prefix}SCOPE:ImageShiftX_RBV", f"{client.ioc.prefix}SCOPE:ImageShiftY_RBV"
    ) as (x, y):
        client.put("SEQ:Resume", 1)
        client.until("Done")
        client.check_frames(3)
        wait_until(lambda: len(y) > 1 and abs(y[-1][1]) < 1e-6, 5, "it was taken back")
    assert min(value for _, value in y) == pytest.approx(-0.15, abs=0.03)
    assert max(abs(value) for _, value in x) < 0.03
    np.testing.assert_allclose(client.array("ReadbackX"), [0.7, 1.7, 1.7], atol=0.05)


def test_motor_records_tell_the_truth_in_flight(client):
    prefix = client.ioc.prefix
    client.load([0, 4, 8, 8], Exposure=[0.2])
    client.put("STAGE:X.VELO", 4)
    with monitored(f"{prefix}STAGE:X.RBV", f"{prefix}STAGE:X.DMOV", f"{prefix}STAGE:X") as logs:
        client.start()
        client.until("Done")
        positions, done, targets = logs
        wait_until(lambda: done[-1][1] == 1, 5, "it rests")
    assert [value for _, value in done if value == 0] == [0, 0], "two moves, each shown"
    assert [value for _, value in targets][1:] == [4, 8]
    begin, end = (
        next(t for t, v in done if v == 0),
        next(t for t, v in done if v == 1 and t > next(u for u, w in done if w == 0)),
    )
    times = np.array([t for t, _ in positions if begin <= t <= end])
    assert np.median(np.diff(times)) <= 1 / 50
    assert end - begin == pytest.approx(1.0, abs=0.5)
    starts = client.array("ExposureStart")
    assert np.all(np.diff(starts)[:2] > 1.1), "a move of 1 s before each exposure of 0.2 s"


def test_monitors_get_every_point_at_full_speed(client):
    n = 500
    client.load([0] * n, Exposure=[0.001])
    with client.recorded() as recorder:
        client.start()
        client.until("Done", timeout=60)
        wait_until(lambda: "Done" in recorder.states, 5)
        rows = recorder.rows()
    assert sorted(rows) == list(range(1, n + 1)), "no gap"
    told = np.array([rows[serial] for serial in sorted(rows)])
    order = client.order
    assert told[:, RECORD.index("index")].tolist() == order == list(range(n))
    arrays = {"x": "ReadbackX", "y": "ReadbackY", "settle": "SettleTime", "mean": "Mean"}
    arrays |= {"start": "ExposureStart", "end": "ExposureEnd", "sharpness": "Sharpness"}
    arrays |= {"frame": "FrameNumber", "place": "FramePlace"}
    for key, name in arrays.items():
        np.testing.assert_array_equal(told[:, RECORD.index(key)], client.array(name)[order])
    client.check_frames(n)
