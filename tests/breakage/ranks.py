"""Rank 1 is started otherwise than rank 0: one sentence that names the rank and the field, on all ranks."""

import shutil

from program import Running, settings
from tiny import PREPARE, expect, files, make_world, remove, run

BOTH = ["train", "config.textproto", *settings({"train.steps": 2})]
FIELDS = {
    "optimizer.learning_rate": "0.1", "optimizer.beta2": "0.9", "optimizer.weight_decay": "0.3",
    "optimizer.clip_norm": "0.5", "optimizer.warmup_steps": "1", "run.seed": "2", "train.steps": "3",
    "train.sequence_length": "16", "train.global_batch": "8", "train.micro_batch": "2",
    "train.eval_sequences": "4", "model.hidden_size": "32", "model.num_layers": "3", "model.norm_eps": "1e-3",
    "model.linear_mixer": "RETENTION", "model.attention.rope_theta": "5000", "parallel.sequence": "2",
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
    expect("Rank 1 " in said[0] and field in said[0], f"rank 1 and {field} are not named: {said[0]}")
    expect(files(world) == before, f"{field}: files have changed")
    return "named"


def other_data(world):
    """A copy of the data with one changed token, of the same length."""
    copy = world / "other"
    copy.mkdir()
    for path in world.glob("text_*"):
        shutil.copy(path, copy / path.name)
    tokens = bytearray((copy / "text_train.bin").read_bytes())
    middle = len(tokens) // 4 * 2
    tokens[middle] ^= 1
    (copy / "text_train.bin").write_bytes(tokens)


def main(table, directory, count):
    world = make_world(directory / "ranks")
    for field, value in list(FIELDS.items())[:count or None]:
        table.case("ranks", "another setting on rank 1", refused, world,
                   [*BOTH, *settings({field: value})], field)
    other_data(world)
    table.case("ranks", "another token on rank 1", refused, world,
               [*BOTH, "--set", "data.train={path: 'other/text_train'}"], "data.train[0]")
    second = make_world(directory / "ranks_tokenizer")
    (second / "text.txt").write_text((second / "text.txt").read_text().replace("cat", "hen"))
    made = run([*PREPARE, "--overwrite"], second)
    expect(made.code == 0, f"a second tokenizer failed: {made.tail()}")
    shutil.copy(second / "words.model", world / "other.model")
    remove(second)
    table.case("ranks", "another tokenizer on rank 1", refused, world,
               [*BOTH, *settings({"data.tokenizer.model": "other.model"})], "data.tokenizer")
