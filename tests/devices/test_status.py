"""What a status says that ran out of time."""

from __future__ import annotations

import pytest

from devices.status import SettingOutcome


def outcome_of(explain) -> BaseException:
    outcome = SettingOutcome(timeout=0.05, explain=explain)
    with pytest.raises(TimeoutError) as error:
        outcome.wait(10)
    assert str(outcome) == str(error.value)
    return error.value


def test_a_time_out_says_what_was_waited_for():
    error = outcome_of(lambda: "the valve did not open; it is Closed")
    assert str(error) == "the valve did not open; it is Closed [waited 0.05 s]"


def test_what_cannot_be_explained_any_more_is_still_a_time_out():
    def ask():
        raise ConnectionError("its IOC is gone")

    assert "there was no answer, and now: its IOC is gone" in str(outcome_of(ask))
