"""disk.py STORE: copies all files of the store, and waits until they are on the disk."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory(dir=Path(sys.argv[1]).parent) as folder:
    for i, path in enumerate(Path(sys.argv[1]).rglob("*.parquet")):
        shutil.copyfile(path, f"{folder}/{i}")
        with open(f"{folder}/{i}", "rb") as file:
            os.fsync(file.fileno())
