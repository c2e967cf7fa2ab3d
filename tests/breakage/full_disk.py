"""ENOSPC and EIO at every call that writes, syncs, renames or makes a file."""

import errno
import shutil

from program import run
from shim import shim
from tiny import (PREPARE, data_files, expect, expect_acknowledged, expect_nothing_stale, expect_same_end,
                  make_world, remove, train_arguments)

SAVING = {"train.steps": 6, "checkpoint.every": 2, "checkpoint.keep_last": 1, "train.eval_every": 3}
# name: error, whether the disk stays so
FAULTS = {"ENOSPC once": (errno.ENOSPC, False), "ENOSPC from then on": (errno.ENOSPC, True),
          "EIO once": (errno.EIO, False)}


class Calls:
    """The calls of one command on files of a directory, and the command with one of them failing."""

    def __init__(self, world, library, arguments, under):
        self.world, self.library, self.arguments, self.under = world, library, arguments, under
        self.log = world.parent / f"{world.name}.calls"
        whole, calls = self.failing(0, None, False)
        expect(whole.code == 0 and calls, f"the run without a fault failed: {whole.tail()}")
        self.count = len(calls)

    def failing(self, at, error, stays):
        self.log.unlink(missing_ok=True)
        environment = {"LD_PRELOAD": self.library, "BREAK_UNDER": str(self.under), "BREAK_AT": str(at),
                       "BREAK_LOG": str(self.log)}
        if error:
            environment["BREAK_ERRNO"] = str(error)
        if stays:
            environment["BREAK_FROM"] = "1"
        result = run(self.arguments, self.world, environment=environment)
        calls = self.log.read_text().splitlines() if self.log.exists() else []
        return result, calls

    def numbers(self, count):
        """All of them, or `count` spread over them."""
        step = max(1, self.count // count) if count else 1
        return range(1, self.count + 1, step)


def judge(result, calls, place):
    """Said, in one sentence or a warning."""
    failed = [line for line in calls if line.endswith(" failed")]
    if not failed:
        return "not reached"
    what = f"{place} ({failed[0]})"
    expect(not result.timed_out and result.code <= 128, f"{what} ended with {result.code}: {result.tail()}")
    if result.code == 0:
        expect("warning" in result.output, f"{what} went by without a word: {result.tail(3)}")
        return "went on with a warning"
    expect(len(result.sentences()) == 1, f"{what}: not one sentence: {result.tail()}")
    return "one sentence"


def training(calls, world, at, fault):
    remove(world / "run")
    error, stays = FAULTS[fault]
    result, log = calls.failing(at, error, stays)
    outcome = judge(result, log, f"{fault} at call {at}")
    expect_acknowledged(world / "run", result.output)
    again = run(calls.arguments, world)
    expect(again.code == 0, f"after {fault} at call {at} a start fails: {again.tail()}")
    expect_same_end(world / "run", world / "whole")
    expect_nothing_stale(world / "run")
    return outcome


def prepare(calls, world, at, fault, whole):
    for path in data_files(world):
        path.unlink()
    error, stays = FAULTS[fault]
    result, log = calls.failing(at, error, stays)
    outcome = judge(result, log, f"{fault} at call {at}")
    expect_nothing_stale(world)
    if result.code != 0:
        again = run([*PREPARE, "--overwrite"], world)
        expect(again.code == 0, f"after {fault} at call {at} preparing fails: {again.tail()}")
    now = {p.name: p.read_bytes() for p in data_files(world)}
    expect(now == whole, f"{fault} at call {at}: other files: {sorted(now)}")
    expect_nothing_stale(world)
    return outcome


def main(table, directory, count):
    library = shim(directory)
    world = make_world(directory / "full")
    whole = run(train_arguments("whole", SAVING), world)
    expect(whole.code == 0, f"the uninterrupted run failed: {whole.tail()}")
    calls = Calls(world, library, train_arguments("run", SAVING), world / "run")
    for fault in FAULTS:
        for at in calls.numbers(count):
            table.case("enospc", f"training, {fault}", training, calls, world, at, fault)
    other = make_world(directory / "full_prepare", 1600)
    made = {p.name: p.read_bytes() for p in data_files(other)}
    for path in data_files(other):
        path.unlink()
    calls = Calls(other, library, PREPARE, other)
    for fault in FAULTS:
        for at in calls.numbers(count):
            table.case("enospc", f"data prepare, {fault}", prepare, calls, other, at, fault, made)
