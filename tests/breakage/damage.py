"""One flipped bit, or a lost end, in every file: refused by name, or of no consequence."""

import random
import shutil

from program import run, settings
from tiny import STEPS, checkpoint, data_files, expect, files, make_world, remove, train_arguments

CUT_AT = STEPS // 2
VERBS = {
    "resume": ["train", "run", *settings({"train.steps": CUT_AT + 2, "checkpoint.keep_last": 0})],
    "eval": ["eval", "run"],
    "generate": ["generate", "run", "--prompt", "the cat", "--tokens", "8"],
}
# A config is its user's text: a change that leaves it valid is a wish, unless the checkpoint contradicts it.
USERS_TEXT = {"config.textproto"}


def result_of(world, verb):
    """What a verb makes: its output, and for a resume the checkpoint's bytes."""
    result = run(VERBS[verb], world)
    if verb == "resume":
        newest = files(checkpoint(world / "run")) if result.code == 0 else None
        return result, newest
    return result, result.output


def flip(path, draw):
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def truncate(path, draw):
    content = path.read_bytes()
    path.write_bytes(content[:draw.randrange(len(content))])


class Damage:
    def __init__(self, directory, world):
        self.directory, self.world = directory, world
        self.whole = {}
        for verb in VERBS:
            copy = self.copy()
            result, self.whole[verb] = result_of(copy, verb)
            expect(result.code == 0, f"{verb} of what is whole failed: {result.tail()}")

    def copy(self):
        copy = self.directory / "copy"
        remove(copy)
        shutil.copytree(self.world, copy)
        return copy

    def judge(self, verb, name, change, draw):
        copy = self.copy()
        change(copy / name, draw)
        result, made = result_of(copy, verb)
        short = name.rsplit("/", 1)[-1]
        place = f"{verb} with a {change.__name__} in {name}"
        expect(not result.timed_out and result.code <= 128, f"{place} ended with {result.code}: {result.tail()}")
        if result.code == 0:
            if made == self.whole[verb]:
                return "without effect"
            if short in USERS_TEXT:
                return "taken as a wish"
            if short in result.output and "warning" in result.output:
                return "warned of"
            expect(False, f"{place} went unnoticed: {result.tail(3)}")
        said = result.sentences()
        expect(len(said) == 1, f"{place} is no one sentence: {result.tail()}")
        # A pair of files has one prefix; a config's fields name themselves.
        stem = short.rsplit(".", 1)[0]
        expect(stem in said[0] or short in USERS_TEXT, f"{place} is refused without the file's name: {said[0]}")
        return "refused by name"


def kind_of(name):
    if name.startswith("run/checkpoints/"):
        return "checkpoint/" + name.rsplit("/", 1)[-1]
    if name.startswith("run/tensorboard/"):
        return "run/tensorboard/*"
    return name


def damage_world(table, directory, label, count, draw, ranks=0, more=None):
    world = make_world(directory / f"damage_{label}")
    made = run(train_arguments("run", {"train.steps": CUT_AT, "checkpoint.keep_last": 1, **(more or {})}), world,
               ranks=ranks)
    expect(made.code == 0, f"the run to damage failed: {made.tail()}")
    damage = Damage(directory / f"damage_{label}_", world)
    names = [n for n in sorted(files(world)) if n.startswith("run/") or n in {p.name for p in data_files(world)}]
    if more:  # what is the same in every world was damaged in the first
        names = [n for n in names if "checkpoints/" in n]
    for name in names:
        if (world / name).stat().st_size == 0:
            continue
        for verb in VERBS:
            for i in range(count):
                change = truncate if i % 4 == 3 else flip
                table.case("damage", f"{kind_of(name)}", damage.judge, verb, name, change, draw)


def main(table, directory, count):
    draw = random.Random(2)
    count = count or 8
    damage_world(table, directory, "one", count, draw)
    damage_world(table, directory, "shards", max(1, count // 2), draw, ranks=2, more={"checkpoint.writers": "ALL"})
