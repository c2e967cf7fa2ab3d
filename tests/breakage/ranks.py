"""Rank 1 is started otherwise than rank 0: one sentence that names the rank and the field, on all ranks."""

import re
import shutil

from program import Running, run, settings
from tiny import PREPARE, expect, files, make_world, remove

BOTH = ["train", "config.textproto", *settings({"train.steps": 2})]
FIELDS = {
    "optimizer.learning_rate": "0.1", "optimizer.beta2": "0.9", "optimizer.weight_decay": "0.3",
    "optimizer.clip_norm": "0.5", "optimizer.warmup_steps": "1", "run.seed": "2", "train.steps": "3",
    "train.sequence_length": "16", "train.global_batch": "8", "train.micro_batch": "2",
    "train.eval_sequences": "4", "model.hidden_size": "32", "model.num_layers": "3", "model.norm_eps": "1e-3",
    "model.layer.L": "{retention {num_heads: 2}}", "model.layer.N.attention.rope_theta": "5000", "parallel.sequence": "2",
    "parallel.zero_stage": "1", "checkpoint.every": "3", "data.validation": "",
}


def refused(world, second, field):
    before = files(world)
    program = Running(BOTH, world, ranks=1, other_rank=second)
    result = program.wait(30)
    expect(not result.timed_out and not result.left_behind, f"{field}: hangs: {result.tail()}")
    expect(result.code not in (0, 75), f"{field}: exit code {result.code}: {result.tail()}")
    said = result.sentences()
    expect(len(said) == 1, f"{field}: not one sentence: {result.tail(12)}")
    expect(re.search("[Rr]ank 1[ :]", said[0]) and field in said[0], f"rank 1 and {field} are not named: {said[0]}")
    expect(files(world) == before, f"{field}: files have changed")
    return "named"


def damaged_data(world):
    """A copy of the data with one changed token, under the checksums of the whole one."""
    copy = world / "damaged"
    copy.mkdir()
    for path in world.glob("text_*"):
        shutil.copy(path, copy / path.name)
    tokens = bytearray((copy / "text_train.bin").read_bytes())
    tokens[len(tokens) // 4 * 2] ^= 1
    (copy / "text_train.bin").write_bytes(tokens)


def other_data(world):
    """Data of the same name, prepared from a text in which one word is another."""
    text = (world / "text.txt").read_text()
    place = text.index("queen", len(text) // 2)
    other = world / "other"
    other.mkdir()
    (other / "text.txt").write_text(text[:place] + "cat" + text[place + 5:])
    trains = PREPARE.index("--train-tokenizer")
    words = [*PREPARE[:trains], *PREPARE[trains + 2:]]
    words[words.index("words.model")] = "../words.model"
    made = run(words, other)
    expect(made.code == 0, f"other data failed: {made.tail()}")


def main(table, directory, count):
    world = make_world(directory / "ranks")
    for field, value in list(FIELDS.items())[:count or None]:
        table.case("ranks", "another setting on rank 1", refused, world,
                   [*BOTH, *settings({field: value})], field)
    damaged_data(world)
    table.case("ranks", "a changed token on rank 1", refused, world,
               [*BOTH, "--set", "data.train={path: 'damaged/text_train'}"], "damaged/text_train.bin")
    other_data(world)
    table.case("ranks", "other data of the same name on rank 1", refused, world,
               [*BOTH, "--set", "data.train={path: 'other/text_train'}"], "data.train[0]")
    second = make_world(directory / "ranks_tokenizer")
    (second / "text.txt").write_text((second / "text.txt").read_text().replace("cat", "hen"))
    made = run([*PREPARE, "--overwrite"], second)
    expect(made.code == 0, f"a second tokenizer failed: {made.tail()}")
    shutil.copy(second / "words.model", world / "other.model")
    remove(second)
    table.case("ranks", "another tokenizer on rank 1", refused, world,
               [*BOTH, *settings({"data.tokenizer.model": "other.model"})], "data.tokenizer")
