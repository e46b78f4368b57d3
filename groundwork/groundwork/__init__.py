"""What every program of the project stands on; it imports no stage.

Every stage imports this package first, so here the standard streams learn to go on. A terminal or a pipe may have an
encoding that lacks a character of a text (cp1252 on Windows, ASCII in many containers). Such a character is then shown
as `?`; otherwise the program would end in the middle of a text. stderr shows an escape by itself.

A stream that was closed before the program started (`<&-`, as under cron) is None. It becomes the empty device, because
`input` would raise an error that nobody expects, and `print(file=None)` writes to standard output.
"""

import contextlib
import io
import os
import sys

for _name, _mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    if getattr(sys, _name) is None:
        setattr(sys, _name, open(os.devnull, _mode, encoding="utf-8"))  # noqa: SIM115  # for the whole program
for _stream in (sys.stdin, sys.stdout):
    # In a notebook they are other classes, which take every character. An error handler that the user chose stays.
    if isinstance(_stream, io.TextIOWrapper) and _stream.errors in ("strict", "surrogateescape"):
        with contextlib.suppress(ValueError):  # closed, or already read from
            _stream.reconfigure(errors="replace")
