"""`new_key.py` as a command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from deployment.gate.api_keys import hash_key, new_key


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a key and the line for the settings, and return the exit status."""
    parser = argparse.ArgumentParser(prog="new_key.py", description="Make an API key. It is shown once and not stored.")
    parser.add_argument("name", help="name of the key's owner; shown in the log")
    name = parser.parse_args(arguments).name
    if not name.isidentifier():
        print(f"error: {name!r} is not a name: use letters, digits and underscores", file=sys.stderr)
        return 1
    key = new_key()
    print(f"key for the client:     {key}")
    print(f"line under api_keys:    {name}: {hash_key(key)}")
    return 0
