"""Serve the Hub's double until Ctrl-C and print what a client's shell has to export.

python -m tests.doubles.hub
"""

from __future__ import annotations

import sys
import threading

from tests.doubles.hub.server import HubServer

if __name__ == "__main__":
    with HubServer() as server:
        sys.stderr.write(
            "speaking the Hub's protocol until Ctrl-C; repositories of `tester` and `org` can be written\n"
        )
        sys.stdout.writelines(f"export {name}={value}\n" for name, value in server.environment.items())
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.stderr.write(f"answered {len(server.requests)} requests\n")
