"""The tiny world in which things are broken: text, a tokenizer, datasets, a config, and what runs leave."""

import random
import re
import shutil
from pathlib import Path

from program import run, settings

STEPS = 24
# .bin of the training data is longer than what a fingerprint reads of it at either end.
SENTENCES = 16000
CONFIG = f"""
run {{ dir: "run" }}
train {{ steps: {STEPS} sequence_length: 32 global_batch: 4 precision: F64 threads: 1 eval_sequences: 8 eval_every: 4 }}
model {{
  hidden_size: 16 num_layers: 4 intermediate_size: 24 chunk_size: 8
  layer {{ letter: "L" gated_delta_net {{ num_heads: 2 }} swiglu {{}} }}
  layer {{ letter: "N" attention {{ num_heads: 2 }} swiglu {{}} }}
}}
data {{
  tokenizer {{ kind: SENTENCEPIECE model: "words.model" }}
  train {{ path: "text_train" }} validation: "text_valid"
}}
optimizer {{ learning_rate: 5e-3 warmup_steps: 2 schedule_steps: {STEPS} }}
checkpoint {{ every: 2 }}
"""
PREPARE = ["data", "prepare", "--output", "text", "--separator", "---", "--holdout-documents", "0.02",
           "--tokenizer", "words.model", "--train-tokenizer", "300", "--threads", "1", "text.txt"]
STALE = re.compile(r"\.(tmp|old)-|\.partial|\.tmp$|~$")


class Broken(Exception):
    """What should not have happened, in one sentence."""


def expect(condition, sentence):
    if not condition:
        raise Broken(sentence)


def text(sentences, seed):
    draw = random.Random(seed)
    nouns = ["cat", "dog", "old miller", "queen", "young sailor", "river"]
    verbs = ["sees", "follows", "never forgets", "sings to"]
    parts = []
    for _ in range(sentences):
        parts.append(f"the {draw.choice(nouns)} {draw.choice(verbs)} the {draw.choice(nouns)}.")
        parts.append("\n---\n" if draw.random() < 1 / 3 else " ")
    return "".join(parts)


def make_world(directory, sentences=SENTENCES):
    """Text, tokenizer, datasets and config in a new directory."""
    directory = Path(directory)
    directory.mkdir(parents=True)
    (directory / "text.txt").write_text(text(sentences, 1))
    (directory / "config.textproto").write_text(CONFIG)
    result = run(PREPARE, directory)
    expect(result.code == 0, f"data prepare failed: {result.tail()}")
    return directory


def data_files(directory):
    """What `data prepare` made."""
    return sorted(path for path in Path(directory).iterdir()
                  if path.is_file() and path.name != "text.txt" and path.name != "config.textproto")


def train_arguments(name, more=None):
    return ["train", "config.textproto", *settings({"run.dir": name, **(more or {})})]


def steps_of(run_directory):
    """Steps whose checkpoints stand under their names, rising."""
    root = Path(run_directory) / "checkpoints"
    if not root.is_dir():
        return []
    return sorted(int(p.name[5:]) for p in root.iterdir() if re.fullmatch(r"step_\d+", p.name))


def checkpoint(run_directory, step=None):
    steps = steps_of(run_directory)
    expect(steps, f"{run_directory} has no checkpoint")
    return Path(run_directory) / "checkpoints" / f"step_{steps[-1] if step is None else step:08d}"


def files(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in Path(directory).rglob("*") if p.is_file()}


def acknowledged(output):
    """The newest step that the program said it had saved."""
    return max((int(step) for step in re.findall(r"^saved .*step_(\d+)", output, re.M)), default=0)


def expect_acknowledged(run_directory, output):
    kept, said = (steps_of(run_directory) or [0])[-1], acknowledged(output)
    expect(kept >= said, f"step {said} was said to be saved, but the newest checkpoint is of step {kept}")


def expect_same_end(run_directory, reference, step=None):
    """The newest checkpoint's bytes are the reference's."""
    mine, theirs = files(checkpoint(run_directory, step)), files(checkpoint(reference, step))
    different = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    expect(not different, f"{', '.join(different)} of {run_directory} differ from those of an uninterrupted run")


def expect_nothing_stale(directory):
    stale = [str(p) for p in Path(directory).rglob("*") if STALE.search(p.name)]
    expect(not stale, f"left behind: {', '.join(stale)}")


def remove(directory):
    shutil.rmtree(directory, ignore_errors=True)
