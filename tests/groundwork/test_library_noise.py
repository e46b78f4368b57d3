"""What libraries write stays out of the terminal."""

from __future__ import annotations

import logging

from groundwork.library_noise import NOISY, silence_libraries


def test_the_warnings_of_noisy_libraries_are_not_shown_and_their_errors_are():
    silence_libraries()
    for name in NOISY:
        logger = logging.getLogger(name)
        assert not logger.isEnabledFor(logging.WARNING) and logger.isEnabledFor(logging.ERROR)
