"""What happens when hardware, disk, network or the IOC itself fails."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import epics
import h5py
import pytest

from tests.ioc.clients import make_motor, refusal
from tests.support import REPOSITORY, get, put, wait_until

DATA = "entry/data/data"


def state(prefix: str) -> tuple[str, str]:
    """State and message of the camera."""
    cam = f"{prefix}CAM:cam1:"
    return (
        get(f"{cam}DetectorState_RBV", text=True),
        get(f"{cam}StatusMessage_RBV", text=True),
    )


@pytest.fixture(scope="module")
def prefix(module_ioc):
    """A simulated instrument that may be broken."""
    prefix = module_ioc(specimen="points", camera={"timeout": 0.2}).prefix
    put(f"{prefix}CAM:cam1:AcquireTime", 0.02)
    put(f"{prefix}CAM:cam1:Acquire", 1, timeout=60)
    return prefix


class TestCameraFaults:
    @pytest.mark.parametrize(
        ("fault", "message"),
        [("CameraTimeout", "did not end"), ("LostFrame", "did not arrive")],
    )
    def test_failed_exposure_is_seen_and_the_next_is_good(self, prefix, fault, message):
        hdf = f"{prefix}CAM:HDF1:"
        put(f"{hdf}FileName", fault)
        put(f"{hdf}Capture", 1)
        put(f"{prefix}CAM:cam1:Acquire", 1)
        put(f"{prefix}SIM:Fault:{fault}:Count", 1)
        put(f"{prefix}CAM:cam1:Acquire", 1)
        found, text = state(prefix)
        assert found == "Error"
        assert message in text
        assert get(f"{prefix}CAM:cam1:Acquire_RBV") == 0
        assert get(f"{hdf}NumCaptured_RBV") == 1
        put(f"{prefix}CAM:cam1:Acquire", 1)
        assert state(prefix)[0] == "Idle"
        assert get(f"{hdf}NumCaptured_RBV") == 2
        path = get(f"{hdf}FullFileName_RBV", text=True)
        put(f"{hdf}Capture", 0)
        with h5py.File(path) as file:
            ids = file["entry/instrument/NDAttributes/NDArrayUniqueId"][:]
            assert ids[1] == get(f"{prefix}CAM:cam1:ArrayCounter_RBV") == ids[0] + 2

    def test_beam_drop_darkens_frames(self, prefix):
        put(f"{prefix}CAM:cam1:Acquire", 1)
        lit = get(f"{prefix}CAM:Stats1:MeanValue_RBV")
        put(f"{prefix}SIM:Fault:BeamDrop:Count", 1)
        put(f"{prefix}CAM:cam1:Acquire", 1)
        assert get(f"{prefix}CAM:Stats1:MeanValue_RBV") < 0.3 * lit
        put(f"{prefix}CAM:cam1:Acquire", 1)
        assert get(f"{prefix}CAM:Stats1:MeanValue_RBV") == pytest.approx(lit, rel=0.05)

    def test_counts_run_down(self, prefix):
        name = f"{prefix}SIM:Fault:BeamDrop"
        put(f"{name}:Count", 2)
        wait_until(lambda: get(f"{name}_RBV", text=True) == "On", 2, "the fault is on")
        for left in (1, 0):
            put(f"{prefix}CAM:cam1:Acquire", 1)
            wait_until(lambda n=left: get(f"{name}:Count_RBV") == n, 2, f"{left} left")
        wait_until(lambda: get(f"{name}_RBV", text=True) == "Off", 2, "the fault is off")


class TestDisk:
    @pytest.fixture
    def hdf(self, prefix):
        hdf = f"{prefix}CAM:HDF1:"
        path = get(f"{hdf}FilePath_RBV", text=True)
        put(f"{hdf}Capture", 0)
        yield hdf
        put(f"{prefix}SIM:Fault:DiskFull", "Off")
        put(f"{hdf}Capture", 0)
        put(f"{hdf}FilePath", path)
        put(f"{hdf}FileWriteMode", "Stream")
        put(f"{hdf}NumCapture", 0)

    def test_full_disk_stops_the_camera_until_it_is_dealt_with(self, hdf, prefix):
        put(f"{hdf}FileName", "full")
        put(f"{hdf}Capture", 1)
        put(f"{prefix}CAM:cam1:Acquire", 1)
        put(f"{prefix}SIM:Fault:DiskFull:Count", 1)
        put(f"{prefix}CAM:cam1:Acquire", 1)
        found, message = state(prefix)
        assert found == "Error"
        assert "No space left on device" in message
        assert "No space left on device" in get(f"{hdf}WriteMessage", text=True)
        assert get(f"{hdf}WriteStatus", text=True) == "Write error"
        assert get(f"{hdf}Capture_RBV", text=True) == "Done"
        path = get(f"{hdf}FullFileName_RBV", text=True)
        with h5py.File(path) as file:  # what was written before is whole
            assert file[DATA].shape[0] == get(f"{hdf}NumCaptured_RBV") == 1
            assert file[DATA][0].mean() > 0
        put(f"{prefix}CAM:cam1:Acquire", 1)  # the fault is over, but nobody has dealt with it
        assert state(prefix)[0] == "Error"
        put(f"{hdf}Capture", 1)
        put(f"{prefix}CAM:cam1:Acquire", 1)
        assert state(prefix)[0] == "Idle"
        assert get(f"{hdf}WriteStatus", text=True) == "Write OK"

    def test_real_error_of_the_system(self, hdf, prefix, start_ioc, images):
        ioc = start_ioc(driver="replay", folder=str(images))
        hdf = f"{ioc.prefix}CAM:HDF1:"
        put(f"{ioc.prefix}CAM:cam1:AcquireTime", 0.01)
        put(f"{hdf}Capture", 1)
        put(f"{ioc.prefix}CAM:cam1:Acquire", 1)
        path = get(f"{hdf}FullFileName_RBV", text=True)
        whole = resource.prlimit(ioc.pid, resource.RLIMIT_FSIZE)
        size = Path(path).stat().st_size
        resource.prlimit(ioc.pid, resource.RLIMIT_FSIZE, (size + 1000, whole[1]))
        put(f"{ioc.prefix}CAM:cam1:Acquire", 1)
        found, message = state(ioc.prefix)
        assert found == "Error"
        assert "could not be written" in message
        assert get(f"{hdf}WriteStatus", text=True) == "Write error"
        assert get(f"{hdf}NumCaptured_RBV") == 1

    def test_folder_that_cannot_be_made(self, hdf, prefix):
        root = get(f"{hdf}FilePath_RBV", text=True)
        blocker = Path(root) / "a-file"
        blocker.write_text("in the way")
        put(f"{hdf}FilePath", f"{blocker}/below")
        assert get(f"{hdf}FilePathExists_RBV", text=True) == "No"
        assert "does not exist" in refusal(f"{hdf}Capture", 1)
        assert get(f"{hdf}Capture_RBV") == 0
        assert get(f"{hdf}WriteStatus", text=True) == "Write error"
        assert "does not exist" in get(f"{hdf}WriteMessage", text=True)
        put(f"{prefix}CAM:cam1:Acquire", 1)
        assert state(prefix)[0] == "Error"

    def test_no_file_is_written_over(self, hdf, prefix):
        put(f"{hdf}FileName", "twice")
        put(f"{hdf}FileNumber", 5)
        put(f"{hdf}Capture", 1)
        put(f"{prefix}CAM:cam1:Acquire", 1)
        put(f"{hdf}Capture", 0)
        assert get(f"{hdf}FileNumber_RBV") == 6
        path = get(f"{hdf}FullFileName_RBV", text=True)
        put(f"{hdf}FileNumber", 5)
        assert "exists already" in refusal(f"{hdf}Capture", 1)
        with h5py.File(path) as file:
            assert file[DATA].shape[0] == 1

    @pytest.mark.parametrize(
        "path", ["/tmp", "/", "{root}/../elsewhere", "relative/folder", "{root}/link/x"]
    )
    def test_path_outside_the_data_root_is_refused(self, hdf, path, tmp_path):
        root = get(f"{hdf}FilePath_RBV", text=True).rstrip("/")
        if "link" in path:
            link = f"{root}/link"
            subprocess.run(["ln", "-sfn", str(tmp_path), link], check=True)
        assert "FilePath is" in refusal(f"{hdf}FilePath", list(path.format(root=root).encode()))
        assert get(f"{hdf}FilePath_RBV", text=True) == f"{root}/"

    def test_names_and_templates_cannot_lead_out(self, hdf):
        assert "without a folder" in refusal(f"{hdf}FileName", list(b"../up"))
        assert "must begin with" in refusal(f"{hdf}FileTemplate", list(b"/tmp/%s%s%d"))
        assert "must take a folder" in refusal(f"{hdf}FileTemplate", list(b"%s%s.h5"))

    def test_single_mode_writes_a_file_a_frame(self, hdf, prefix):
        put(f"{hdf}FileWriteMode", "Single")
        put(f"{hdf}FileName", "one")
        put(f"{hdf}FileNumber", 0)
        paths = []
        for _ in range(2):
            put(f"{prefix}CAM:cam1:Acquire", 1)
            paths.append(get(f"{hdf}FullFileName_RBV", text=True))
        assert [path[-13:] for path in paths] == ["one_000000.h5", "one_000001.h5"]
        for path in paths:
            with h5py.File(path) as file:
                assert file[DATA].shape[0] == 1

    def test_capture_mode_keeps_frames_and_writes_them_together(self, hdf, prefix):
        put(f"{hdf}FileWriteMode", "Capture")
        put(f"{hdf}FileName", "together")
        assert "NumCapture is 0" in refusal(f"{hdf}Capture", 1)
        put(f"{hdf}NumCapture", 3)
        put(f"{hdf}Capture", 1)
        for count in (1, 2, 3):
            assert get(f"{hdf}Capture_RBV") == 1
            put(f"{prefix}CAM:cam1:Acquire", 1)
            assert get(f"{hdf}NumCaptured_RBV") == count
        assert get(f"{hdf}Capture_RBV") == 0
        with h5py.File(get(f"{hdf}FullFileName_RBV", text=True)) as file:
            assert file[DATA].shape[0] == 3

    def test_change_of_readout_before_the_first_frame(self, hdf, prefix):
        put(f"{hdf}FileName", "binned")
        put(f"{hdf}Capture", 1)
        put(f"{prefix}CAM:cam1:BinX", 2)
        put(f"{prefix}CAM:cam1:Acquire", 1)
        assert state(prefix)[0] == "Idle"
        put(f"{prefix}CAM:cam1:BinX", 1)
        put(f"{prefix}CAM:cam1:Acquire", 1)  # in the middle of a file it is an error
        assert "start a new capture" in state(prefix)[1]
        with h5py.File(get(f"{hdf}FullFileName_RBV", text=True)) as file:
            assert file[DATA].shape == (1, 128, 128)


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    return tmp_path_factory.mktemp("flags")


@pytest.fixture(scope="module")
def hanging(module_ioc, images, flags):
    return module_ioc(
        driver="tests.ioc.hanging:connect",
        settings={"driver_timeout": 1.0},
        folder=str(images),
        flags=str(flags),
    )


class TestHangingVendor:
    def answers(self, *names):
        began = time.monotonic()
        for name in names:
            get(name, timeout=1)
        assert time.monotonic() - began < 1

    def test_column(self, hanging, flags):
        scope, stage = f"{hanging.prefix}SCOPE:", f"{hanging.prefix}STAGE:"
        readback = epics.PV(f"{scope}Defocus_RBV", form="time", auto_monitor=True)
        (flags / "column").touch()
        wait_until(lambda: readback.severity == 3, 15, "the readback is invalid")
        assert "did not return" in get(f"{scope}Error_RBV", text=True)
        assert "has not returned" in refusal(f"{scope}Defocus", 1)
        put(f"{stage}X", 5)
        put(f"{hanging.prefix}CAM:cam1:Acquire", 1)
        assert state(hanging.prefix)[0] == "Idle"
        self.answers(f"{scope}Defocus", f"{stage}X.RBV", f"{scope}Vacuum_RBV")
        (flags / "column").unlink()
        wait_until(lambda: readback.severity == 0, 5, "the alarm goes")
        put(f"{scope}Defocus", 2)
        assert get(f"{scope}Defocus_RBV") == 2
        assert get(f"{scope}Error_RBV", text=True) == ""

    def test_stage(self, hanging, flags):
        stage = f"{hanging.prefix}STAGE:"
        readback = epics.PV(f"{stage}X.RBV", form="time", auto_monitor=True)
        wait_until(lambda: readback.get() is not None, 5)
        (flags / "stage").touch()
        wait_until(lambda: readback.severity == 3, 15, "the readback is invalid")
        put(f"{hanging.prefix}SCOPE:Defocus", 1)
        self.answers(f"{stage}Y", f"{hanging.prefix}SCOPE:Defocus_RBV")
        assert "stage: read has not returned for" in refusal(f"{stage}X", 3)
        (flags / "stage").unlink()
        wait_until(lambda: readback.severity == 0, 5, "the alarm goes")
        put(f"{stage}X", 4)
        assert get(f"{stage}X.RBV") == 4

    def test_camera(self, hanging, flags):
        cam = f"{hanging.prefix}CAM:cam1:"
        put(f"{cam}AcquireTime", 0.01)
        (flags / "camera").touch()
        put(f"{cam}Acquire", 1, wait=False)
        wait_until(lambda: get(f"{cam}Acquire_RBV") == 1, 5)
        put(f"{hanging.prefix}STAGE:X", 5)
        self.answers(f"{hanging.prefix}SCOPE:Defocus", f"{cam}AcquireTime")
        wait_until(lambda: get(f"{cam}Acquire_RBV") == 0, 15, "it is given up")
        assert state(hanging.prefix)[0] == "Error"
        assert "did not return within" in state(hanging.prefix)[1]
        (flags / "camera").unlink()
        wait_until(lambda: put(f"{cam}Acquire", 1) or state(hanging.prefix)[0] == "Idle", 10)

    def test_it_still_ends_in_time(self, hanging, flags):
        for name in ("column", "stage", "camera"):
            (flags / name).touch()
        put(f"{hanging.prefix}CAM:cam1:Acquire", 1, wait=False)
        wait_until(lambda: get(f"{hanging.prefix}CAM:cam1:Acquire_RBV") == 1, 5)
        assert hanging.stop() < 4


class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_in_the_middle_of_an_exposure(self, start_ioc, images, number):
        ioc = start_ioc(driver="replay", folder=str(images))
        cam, hdf = f"{ioc.prefix}CAM:cam1:", f"{ioc.prefix}CAM:HDF1:"
        put(f"{cam}AcquireTime", 0.01)
        put(f"{hdf}Capture", 1)
        path = get(f"{hdf}FullFileName_RBV", text=True)
        put(f"{cam}Acquire", 1)
        put(f"{cam}AcquireTime", 30)
        put(f"{cam}Acquire", 1, wait=False)
        wait_until(lambda: get(f"{cam}Acquire_RBV") == 1, 5)
        began = time.monotonic()
        ioc.process.send_signal(number)
        assert ioc.process.wait(5) == 0
        assert time.monotonic() - began < 2
        with h5py.File(path, "r") as file:  # closed properly: it opens without SWMR
            assert file[DATA].shape[0] == 1
        assert "Traceback" not in ioc.output()

    def test_killed_in_mid_move_a_client_times_out(self, start_ioc, images):
        ioc = start_ioc(driver="replay", folder=str(images))
        x = make_motor(ioc, "X")
        put(f"{ioc.prefix}STAGE:X.VELO", 10)
        status = x.set(900, timeout=2)
        wait_until(lambda: x.moving, 5, "it moves")
        ioc.kill()
        began = time.monotonic()
        with pytest.raises(Exception, match=r"[Tt]imed? ?out|2"):
            status.wait(10)
        assert time.monotonic() - began < 5
        assert not status.success


@contextmanager
def monitoring(prefix: str):
    """Run a client that monitors much of an IOC; at the end it is killed."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.ioc.monitor", prefix],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as client:
        try:
            assert select.select([client.stdout], [], [], 30)[0], "it has seen no updates"
            assert client.stdout.readline() == b"monitoring\n"
            yield client
        finally:
            client.kill()


class TestClients:
    def test_clients_that_vanish_under_load(self, start_ioc, images):
        ioc = start_ioc(driver="replay", folder=str(images))
        cam = f"{ioc.prefix}CAM:cam1:"
        put(f"{cam}AcquireTime", 0.001)
        put(f"{cam}ImageMode", "Continuous")
        put(f"{cam}Acquire", 1, wait=False)
        put(f"{ioc.prefix}STAGE:X.VELO", 10)
        put(f"{ioc.prefix}STAGE:X", 900, wait=False)
        for _ in range(4):
            with monitoring(ioc.prefix), monitoring(ioc.prefix):
                pass  # both are killed here, one after the other
        first = get(f"{ioc.prefix}STAGE:X.RBV")
        updates = []
        pv = epics.PV(f"{ioc.prefix}STAGE:X.RBV", callback=lambda value, **_: updates.append(value))
        wait_until(lambda: len(updates) > 20, 10, "updates still come")
        assert updates[-1] > first
        assert ioc.running
        assert "mutated" not in ioc.output()
        pv.disconnect()

    def test_client_that_does_not_read_holds_up_nobody(self, start_ioc, images):
        ioc = start_ioc(driver="replay", folder=str(images))
        with monitoring(ioc.prefix) as client:
            client.send_signal(signal.SIGSTOP)
            put(f"{ioc.prefix}CAM:cam1:AcquireTime", 0.001)
            put(f"{ioc.prefix}CAM:cam1:ImageMode", "Continuous")
            put(f"{ioc.prefix}CAM:cam1:Acquire", 1, wait=False)
            put(f"{ioc.prefix}STAGE:X.VELO", 100)
            for target in (100, 0):
                put(f"{ioc.prefix}STAGE:X", target)
                assert get(f"{ioc.prefix}STAGE:X.RBV") == target


class TestCommand:
    def run(self, *arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "ioc", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def test_lists_its_pvs(self, images):
        options = f'{{"folder": "{images}"}}'
        done = self.run("--driver", "replay", "--driver-options", options, "--list-pvs")
        assert done.returncode == 0
        assert "TEM:CAM:HDF1:Capture" in done.stdout.split()

    def test_groups(self, images):
        options = f'{{"folder": "{images}"}}'
        arguments = ("--driver", "replay", "--driver-options", options, "--list-pvs")
        names = self.run(*arguments, "--prefix", "A:", "--groups", "stage").stdout.split()
        assert names
        assert all(name.startswith("A:STAGE:") for name in names)

    def test_wrong_settings_are_told_in_one_line(self, tmp_path):
        path = tmp_path / "wrong.json"
        path.write_text('{"drivr": "replay"}')
        done = self.run("--settings", str(path))
        assert done.returncode == 1
        assert "unknown key 'drivr'; do you mean 'driver'?" in done.stderr
        assert "Traceback" not in done.stderr
        done = self.run("--driver", "replay", "--driver-options", '{"folder": "/nowhere"}')
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)

    def test_port_in_use_is_told(self, images, replay):
        done = self.run(
            "--driver", "replay", "--driver-options", f'{{"folder": "{images}"}}',
            EPICS_CA_SERVER_PORT=str(replay.port),
        )  # fmt: skip
        assert done.returncode == 1
        assert "another IOC may run" in done.stderr

    def test_listens_on_loopback_only(self, replay):
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        listening = {
            local.split(":")[0]
            for _, local, _, status, *_ in rows
            if status == "0A" and local.endswith(f":{replay.port:04X}")
        }
        assert listening == {"0100007F"}
