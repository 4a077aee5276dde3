"""Before a worker's pod ends: hands what it holds to the other workers. Run by the pod's preStop hook.

A plain end would lose results, and counts against the tasks at work.
"""

from __future__ import annotations

import os
import socket
import sys
from urllib.parse import urlsplit


def main() -> None:
    address = os.environ["DASK_SCHEDULER_ADDRESS"]
    try:
        where = urlsplit(address)
        socket.create_connection((where.hostname or "", where.port or 0), timeout=2).close()
        from distributed import Client

        with Client(address, timeout="5s", set_as_default=False) as client:
            # the pod ends the process itself, when this returns
            client.sync(
                client.scheduler.retire_workers,
                names=[os.environ["DASK_WORKER_NAME"]],
                close_workers=False,
                remove=True,
                callback_timeout=40,
            )
    except (OSError, TimeoutError, MemoryError) as error:  # the whole cluster is going: nobody is there to take it
        print(f"not retired: {error}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
