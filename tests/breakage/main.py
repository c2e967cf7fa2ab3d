"""tests/breakage.sh [PART [COUNT]] …"""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import damage
import full_disk
import fuzzing
import kills
import ranks
import stops
from program import PROGRAM, end_all
from table import Table
from tiny import Broken

PARTS = {"kills": kills.main, "damage": damage.main, "enospc": full_disk.main, "signals": stops.main,
         "ranks": ranks.main, "fuzz": fuzzing.main}


def chosen(words):
    """[(part, count or None)] of "kills 10 fuzz"."""
    parts = []
    for word in words:
        if word in PARTS:
            parts.append((word, None))
        elif word.isdigit() and parts and parts[-1][1] is None:
            parts[-1] = (parts[-1][0], int(word))
        else:
            sys.exit(f"breakage: '{word}' is no part; parts are {', '.join(PARTS)}, each with a count behind it")
    return parts or [(part, None) for part in PARTS]


def work_directory():
    """In memory where there is some: thousands of small runs."""
    parent = os.environ.get("TMPDIR") or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    return Path(tempfile.mkdtemp(prefix="spanwise_breakage_", dir=parent))


def main():
    parts = chosen(sys.argv[1:])
    if any(part != "fuzz" for part, _ in parts) and not PROGRAM.exists():
        sys.exit(f"breakage: {PROGRAM} is missing; launcher/build.sh spanwise builds it")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit("breakage: ended by a signal"))
    table, directory = Table(), work_directory()
    try:
        for part, count in parts:
            print(f"{part} …", flush=True)
            try:
                PARTS[part](table, directory, count)
            except Broken as problem:
                table.case(part, "set-up", lambda problem=problem: (_ for _ in ()).throw(problem))
    finally:
        end_all()
        shutil.rmtree(directory, ignore_errors=True)
    sys.exit(0 if table.print() else 1)


main()
