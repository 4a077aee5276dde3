"""Before a worker's pod ends: hands what it holds to the other workers. Run by the pod's preStop hook.

A plain end would lose results, and counts against the tasks at work.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    from distributed import Client

    try:
        with Client(os.environ["DASK_SCHEDULER_ADDRESS"], timeout="5s", set_as_default=False) as client:
            # the pod ends the process itself, when this returns
            client.sync(
                client.scheduler.retire_workers,
                names=[os.environ["DASK_WORKER_NAME"]],
                close_workers=False,
                remove=True,
                callback_timeout=40,
            )
    except Exception as error:  # the whole cluster is going: nobody is there to take it
        print(f"not retired: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
