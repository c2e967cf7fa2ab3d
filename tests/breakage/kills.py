"""kill -9 at random instants: every start goes on, and the end is that of an uninterrupted run."""

import random
import signal
import time

from program import Running, run
from shim import shim
from tiny import (PREPARE, acknowledged, data_files, expect, expect_acknowledged, expect_nothing_stale,
                  expect_same_end, make_world, remove, train_arguments)

# Evaluations and saves fill about as much time as steps do.
SETTINGS = {"checkpoint.every": 1, "train.eval_every": 2, "run.log_every": 1}


def moment(program_output, directory):
    """What the killed program was doing, from what it left."""
    if any(p.name.startswith(".tmp-step") for p in (directory / "checkpoints").glob(".tmp-*")):
        newest = acknowledged(program_output)
        doomed = [int(p.name.split("step_")[1].split("-")[0]) for p in (directory / "checkpoints").glob(".tmp-*")]
        return "while pruning" if any(step <= newest for step in doomed) else "while saving"
    return "in steps, evaluation" if "step " in program_output else "in start-up"


class Chain:
    """One run directory that is started and killed until a start comes to its end."""

    def __init__(self, world, ranks, draw, name, seconds):
        self.world, self.ranks, self.draw, self.name, self.seconds = world, ranks, draw, name, seconds
        self.directory = world / name
        # A disk that takes its time, so that kills meet saving and pruning as often as steps.
        self.slow_disk = {"LD_PRELOAD": shim(world.parent), "BREAK_SLOW": ".tmp-step_", "BREAK_SLOW_MS": "4"}
        self.done = False

    def start_and_kill(self):
        program = Running(train_arguments(self.name, SETTINGS), self.world, ranks=self.ranks,
                          environment=self.slow_disk)
        instant = program.start + self.draw.uniform(0, self.seconds)
        program.wait_for(lambda: time.monotonic() >= instant)
        killed = program.running()
        if killed:
            victims = program.ranks() or [program.pid]
            if self.ranks and self.draw.random() < 0.5:
                victims = [self.draw.choice(victims + [program.pid])]
            for pid in victims:
                program.signal(pid, signal.SIGKILL)
        result = program.wait()
        expect(not result.timed_out and not result.left_behind,
               f"timed out: {result.timed_out}, ranks left: {result.left_behind}: {result.tail()}")
        expect_acknowledged(self.directory, result.output)
        if result.code == 0:
            self.done = True
            return "came to its end first"
        expect(killed, f"a start after a kill failed with {result.code}: {result.tail()}")
        return moment(result.output, self.directory)

    def finish(self, reference):
        if not self.done:
            result = run(train_arguments(self.name, SETTINGS), self.world, ranks=self.ranks)
            expect(result.code == 0, f"the last start failed with {result.code}: {result.tail()}")
        expect_same_end(self.directory, reference)
        expect_nothing_stale(self.directory)
        remove(self.directory)
        return "same bytes"


def kill_training(table, world, ranks, count, draw):
    name = f"{ranks or 1} rank{'s' if ranks else ''}"
    whole = run(train_arguments(f"whole_{ranks}", SETTINGS), world, ranks=ranks)
    expect(whole.code == 0, f"the uninterrupted run failed: {whole.tail()}")
    kills = chains = 0
    while kills < count:
        chain = Chain(world, ranks, draw, f"chain_{ranks}_{chains}", 0.9 * whole.seconds)
        chains += 1
        while kills < count and not chain.done:
            outcome = table.case("kills", f"kill -9, {name}", chain.start_and_kill)
            if outcome is None:
                return
            kills += not chain.done
        table.case("kills", f"chains of kills, {name}", chain.finish, world / f"whole_{ranks}")


def kill_prepare(world, whole, draw, seconds):
    for path in data_files(world):
        path.unlink()
    program = Running(PREPARE, world)
    instant = program.start + draw.uniform(0, seconds)
    program.wait_for(lambda: time.monotonic() >= instant)
    program.signal(program.pid, signal.SIGKILL)
    program.wait()
    # A tokenizer that was finished stands in the way of training another.
    rest = [*PREPARE, "--overwrite"]
    result = run(rest, world)
    expect(result.code == 0, f"data prepare after a kill failed: {result.tail()}")
    expect_nothing_stale(world)
    now = {p.name: p.read_bytes() for p in data_files(world)}
    expect(now == whole, f"data prepare after a kill made other files: {sorted(now)}")
    return "same bytes"


def main(table, directory, count):
    count = count or 100
    draw = random.Random(1)
    world = make_world(directory / "kills")
    two = max(1, count * 2 // 5)
    kill_training(table, world, 0, max(1, count - two), draw)
    kill_training(table, world, 2, two, draw)
    other = make_world(directory / "kill_prepare")
    whole = {p.name: p.read_bytes() for p in data_files(other)}
    seconds = run([*PREPARE, "--overwrite"], other).seconds
    for _ in range(max(1, count // 10)):
        table.case("kills", "kill -9, data prepare", kill_prepare, other, whole, draw, seconds)
