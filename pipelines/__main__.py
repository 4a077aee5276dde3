"""`python -m pipelines`, and the command `pipelines`."""

import gc
import os
import sys
from typing import NoReturn

gc.disable()  # imports and plans make many objects and no garbage; `main` enables it

from pipelines.cli import main  # noqa: E402
from pipelines.files import abandon  # noqa: E402


def run() -> NoReturn:
    """Ends at once: to take the interpreter and its modules apart takes 0.1 s, and changes nothing."""
    code = main()
    sys.stderr.flush()
    abandon()  # of a step whose time is up on threads, which nobody can stop
    os._exit(code)


if __name__ == "__main__":
    run()
