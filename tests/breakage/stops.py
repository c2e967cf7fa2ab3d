"""Signals at every rank and at mpirun's starter, at every moment of a run: saved, 75, and on as if nothing was."""

import signal

from program import EXIT_STOPPED, Running, run
from shim import shim
from tiny import (expect, expect_nothing_stale, expect_same_end, make_world, remove, steps_of, train_arguments)

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2]
STARTER = -1
BASE = {"optimizer.schedule": "CONSTANT", "run.log_every": 1, "checkpoint.keep_last": 0, "data.validation": "",
        "checkpoint.every": 0, "train.eval_every": 0}
SLOW_STEP = {**BASE, "train.global_batch": 320}
EVALUATING = {**BASE, "data.validation": "text_train", "train.eval_sequences": 400}
# Until its sample ends a document (some 500 tokens) seconds pass.
LARGE = {**BASE, "model.hidden_size": 512, "train.sample_prompt": "the", "train.sample_tokens": 100000}
# name: settings, steps of the run that is interrupted, what it prints then (None: as soon as all ranks listen)
MOMENTS = {
    "start-up": (BASE, 400, None),
    "first step": (SLOW_STEP, 6, "parameters in"),
    "steps": (BASE, 400, "step 2/"),
    "evaluation": ({**EVALUATING, "train.eval_every": 1}, 40, "held-out perplexity before"),
    "saving": ({**BASE, "checkpoint.every": 3}, 400, "slow fsync"),
    "sampling": (LARGE, 2, "saved "),
}
# What decides the bytes of a step; the same for all moments that share it.
REFERENCES = {"first step": ("slow", SLOW_STEP, 8), "sampling": ("large", BASE | {"model.hidden_size": 512}, 4)}


class Stop:
    def __init__(self, world, library):
        self.world, self.library, self.whole = world, library, {}

    def reference(self, moment, step):
        """A run that was not interrupted, with a checkpoint of the step."""
        name, settings, _ = REFERENCES.get(moment, ("base", BASE, 0))
        directory = f"whole_{name}"
        if step not in steps_of(self.world / directory):
            remove(self.world / directory)
            result = run(train_arguments(directory, {**settings, "checkpoint.every": 1, "train.steps": step + 4}),
                         self.world, ranks=2)
            expect(result.code == 0, f"the uninterrupted run failed: {result.tail()}")
        return self.world / directory

    def send(self, program, number, target, text):
        def all_listen():
            ranks = program.ranks()  # once: a rank that starts itself again is out of sight for a moment
            return len(ranks) == 2 and all(program.listens(pid, number) for pid in ranks)

        ready = (lambda: text in program.output()) if text else all_listen
        expect(program.wait_for(ready), "the moment never came")
        ranks = program.ranks()
        expect(len(ranks) == 2, f"{len(ranks)} ranks run")
        program.signal(program.pid if target == STARTER else ranks[target], number)

    def case(self, moment, number, target):
        settings, steps, text = MOMENTS[moment]
        remove(self.world / "run")
        slow = {"LD_PRELOAD": self.library, "BREAK_SLOW": ".tmp-step_", "BREAK_SLOW_MS": "150"}
        program = Running(train_arguments("run", {**settings, "train.steps": steps}), self.world, ranks=2,
                          environment=slow if moment == "saving" else None)
        place = f"{number.name} at {'the starter' if target == STARTER else f'rank {target}'} in {moment}"
        try:
            self.send(program, number, target, text)
        finally:
            result = program.wait()
        expect(result.code == EXIT_STOPPED and not result.left_behind,
               f"{place}: exit code {result.code}, {result.left_behind} ranks left: {result.tail()}")
        step = (steps_of(self.world / "run") or [0])[-1]
        if step == 0:
            expect("nothing was trained" in result.output, f"{place}: nothing is saved: {result.tail()}")
            expect("step 1/" not in result.output, f"{place}: step 1 is lost: {result.tail()}")
        on = {**settings, "train.sample_prompt": "", "train.steps": step + 2}
        again = run(train_arguments("run", on), self.world, ranks=2)
        expect(again.code == 0, f"{place}: no resume from step {step}: {again.tail()}")
        expect_same_end(self.world / "run", self.reference(moment, step + 2), step + 2)
        expect_nothing_stale(self.world / "run")
        return "75, saved, same bytes" if step else "75, nothing to save, same bytes"


def main(table, directory, count):
    stop = Stop(make_world(directory / "stops"), shim(directory))
    cases = [(moment, number, target) for moment in MOMENTS for number in SIGNALS for target in (STARTER, 0, 1)]
    step = max(1, len(cases) // count) if count else 1
    for moment, number, target in cases[::step]:
        table.case("signals", f"in {moment}", stop.case, moment, number, target)
