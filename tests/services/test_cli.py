"""The command line as a user meets it: help with examples, quick answers, plain mistakes."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ("config", "console", "demo", "ioc", "replay", "stitch", "tiled", "up")
TEMLINE = Path(sys.executable).with_name("temline")


@pytest.fixture
def temline(tmp_path):
    """Run the command line in an empty folder."""

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [TEMLINE, *arguments],
            cwd=tmp_path,
            env=os.environ | {"COLUMNS": "120", "NO_COLOR": "1"} | environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_help_lists_the_commands_and_is_quick(temline):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = temline("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0
    assert set(re.findall(r"^│ (\w+) ", result.stdout, re.MULTILINE)) >= set(COMMANDS)
    # Of the processor, since others may keep it busy.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_shows_an_example(temline, command):
    result = temline(command, "--help")
    assert result.returncode == 0
    assert re.search(rf"Example: .*temline {command}", result.stdout)


def test_config_shows_values_and_where_they_were_set(temline, tmp_path):
    (tmp_path / "site.yml").write_text("epics:\n  prefix: 'LAB7:'\n")
    result = temline("config", "--config", "site.yml", TEMLINE_LOG__LEVEL="DEBUG")
    assert result.returncode == 0
    assert re.search(r"epics\.prefix +'LAB7:' +site\.yml:2", result.stdout)
    assert re.search(r"log\.level +'DEBUG' +environment variable", result.stdout)
    assert re.search(r"epics\.port +5064 +\S*default\.yml:\d+", result.stdout)


def test_config_checks_a_file(temline, tmp_path):
    (tmp_path / "right.yml").write_text("epics:\n  prefix: 'LAB7:'\n")
    (tmp_path / "wrong.yml").write_text("epics:\n  prefiks: 'LAB7:'\n")
    right, wrong = (
        temline("config", "--check", "right.yml"),
        temline("config", "--check", "wrong.yml"),
    )
    assert right.returncode == 0
    assert right.stdout == "right.yml is right; it sets 1 value.\n"
    assert wrong.returncode == 1
    assert wrong.stderr == (
        "temline: wrong.yml:2: unknown key epics.prefiks; did you mean epics.prefix?\n"
    )


def test_a_mistake_in_the_environment_is_a_message_not_a_traceback(temline):
    result = temline("up", TEMLINE_EPICS__PORT="high")
    assert result.returncode == 1
    assert "TEMLINE_EPICS__PORT: epics.port is 'high'" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_ioc_that_the_configuration_does_not_have_is_refused(temline):
    result = temline("ioc", TEMLINE_IOC__DRIVER="null")
    assert result.returncode == 2
    assert "ioc.driver is null" in result.stderr


def test_replay_with_nothing_to_write_says_so(temline):
    result = temline("replay")
    assert result.returncode == 0
    assert "Nothing to write" in result.stdout
