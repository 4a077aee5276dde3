"""`python -m pipelines`, and the command `pipelines`."""

import gc
import os
import signal
import sys
from typing import NoReturn

_before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while modules are imported is no traceback
gc.disable()  # imports make many objects and no garbage

from pipelines.cli import main  # noqa: E402
from pipelines.files import abandon  # noqa: E402

gc.freeze()  # nor will what there is now ever be garbage: to look for some takes 0.1 s
gc.enable()  # worker processes import this too
signal.signal(signal.SIGINT, _before)


def run() -> NoReturn:
    """Ends at once: to take the interpreter and its modules apart takes 0.1 s, and changes nothing."""
    gc.disable()  # nor does a plan make garbage; `main` enables it
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # of who ends jobs: as Ctrl-C, what was started is closed
    code = main()
    sys.stderr.flush()
    abandon()  # of a step whose time is up on threads, which nobody can stop
    os._exit(code)


if __name__ == "__main__":
    run()
