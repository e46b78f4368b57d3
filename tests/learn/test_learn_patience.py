"""How long `learn` waits for a learner's code."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from learn.patience import Patience


@pytest.mark.slow
def test_a_process_that_only_waits_is_given_more_time_but_not_for_ever():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        patience = Patience(process.pid, 0.5)
        time.sleep(0.6)
        assert not patience.complaint()  # a busy machine looks the same
        time.sleep(1.6)
        assert patience.complaint().startswith("still not done after 2 seconds, and idle most of the time")
        process.kill()
