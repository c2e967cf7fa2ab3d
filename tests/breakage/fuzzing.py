"""The readers under libFuzzer, in a build of their own with address and undefined-behaviour sanitizers."""

import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from program import SOURCE, run
from tiny import checkpoint, expect, make_world, train_arguments

BUILD = SOURCE / "build-fuzz"
RUNS = 1_000_000
SECONDS = 600  # for all targets together, on
WORKERS = 2    # cores
SLOWEST = ["config_fuzz", "zstd_fuzz"]  # by far: they begin
PACKAGES = "clang libomp-14-dev libclang-rt-14-dev zstd"
CONFIGURE = ["cmake", "-S", str(SOURCE), "-B", str(BUILD), "-G", "Ninja", "-DSPANWISE_FUZZ=ON",
             "-DCMAKE_C_COMPILER=clang", "-DCMAKE_CXX_COMPILER=clang++", "-DSPANWISE_TESTS=OFF",
             "-DSPANWISE_BENCHMARKS=OFF", "-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DSPANWISE_CUDA=OFF"]
# Allocations are many and small: without their stacks, and with a short quarantine, sanitizers
# cost half. A finding is kept, and tells more when it is run alone.
SANITIZERS = {"ASAN_OPTIONS": "malloc_context_size=1:quarantine_size_mb=8:detect_stack_use_after_return=0",
              "UBSAN_OPTIONS": "print_stacktrace=1"}


def build():
    """The targets, built where they are not yet."""
    for tool in ("clang++", "zstd"):
        expect(shutil.which(tool), f"{tool} is missing; apt install {PACKAGES}")
    log = BUILD / "breakage.log"
    BUILD.mkdir(exist_ok=True)
    with open(log, "wb") as out:
        for command in (CONFIGURE, ["cmake", "--build", str(BUILD), "--target", "fuzz"]):
            done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT)
            expect(done.returncode == 0, f"the fuzz targets do not build, see {log}; they need {PACKAGES}")
    targets = {p.stem for p in (SOURCE / "tests/fuzz").glob("*_fuzz.cpp")}
    return SLOWEST + sorted(targets - set(SLOWEST))


def small_safetensors(path):
    """The two smallest tensors of a file."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8:8 + length]), content[8 + length:]
    tensors = sorted((t for t in header.items() if t[0] != "__metadata__"),
                     key=lambda t: t[1]["data_offsets"][1] - t[1]["data_offsets"][0])[:2]
    kept, body = {"__metadata__": header.get("__metadata__", {})}, b""
    for name, entry in tensors:
        begin, end = entry["data_offsets"]
        kept[name] = {**entry, "data_offsets": [len(body), len(body) + end - begin]}
        body += data[begin:end]
    text = json.dumps(kept, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def seeds(directory):
    """{reader: what the program itself wrote for it}."""
    world = make_world(directory / "fuzz", 600)
    made = run(train_arguments("run", {"train.steps": 2, "checkpoint.keep_last": 0}), world)
    expect(made.code == 0, f"the run that makes seeds failed: {made.tail()}")
    shards = run(train_arguments("shards", {"train.steps": 2, "checkpoint.writers": "ALL"}), world, ranks=2)
    expect(shards.code == 0, f"the run that makes shards failed: {shards.tail()}")
    text = (world / "text.txt").read_bytes()[:300]
    (world / "small.txt").write_bytes(text)
    small = run(["data", "prepare", "--output", "small", "--separator", "---", "--threads", "1", "small.txt"], world)
    expect(small.code == 0, f"the dataset that is a seed failed: {small.tail()}")
    manifest = (checkpoint(world / "run") / "manifest.textproto").read_bytes()
    index = (world / "small.idx").read_bytes()
    found = {
        "config": [(world / "config.textproto").read_bytes()],
        "dataset": [struct.pack("<H", (world / "small.bin").stat().st_size) + index],
        "history": [(world / "run/metrics.jsonl").read_bytes()],
        "manifest": [manifest, manifest.rsplit(b"#", 1)[0],
                     (checkpoint(world / "shards") / "manifest.textproto").read_bytes()],
        "safetensors": [small_safetensors(checkpoint(world / "run") / "model.safetensors")],
        "text": [b"\0" + text], "gzip": [b"\xff" + gzip.compress(text)],
        "zstd": [b"\xff" + subprocess.run(["zstd", "-c"], input=text, capture_output=True, check=True).stdout],
        "jsonl": [b"\0" + json.dumps({"n": [1, None], "text": text.decode()}).encode() + b"\n"],
        "tokenizer": [(world / "words.model").read_bytes()],
        "dataset_meta": [p.read_bytes() for p in world.glob("small.meta*")],
        "run_lock": [b"process 4711 on node7, since 2026-11-29 00:31:02\n"],
    }
    return {name: samples for name, samples in found.items() if samples}


class Fuzzing:
    def __init__(self, directory, runs):
        self.directory, self.runs, self.end = directory, runs, time.monotonic() + SECONDS
        self.found = seeds(directory)

    def target(self, name):
        """What came of one target's cases."""
        corpus = self.directory / "corpus" / name
        corpus.mkdir(parents=True)
        for number, sample in enumerate(self.found.get(name.removesuffix("_fuzz"), [])):
            (corpus / f"seed{number}").write_bytes(sample)
        longest = max([256, *(p.stat().st_size for p in corpus.iterdir())])
        findings = BUILD / "findings"
        findings.mkdir(exist_ok=True)
        begin = time.monotonic()
        command = [str(BUILD / "bin" / name), f"-runs={self.runs}", f"-max_len={longest}", "-seed=1",
                   f"-max_total_time={max(1, int(self.end - begin))}", "-timeout=10", "-rss_limit_mb=4096", "-print_final_stats=1",
                   "-close_fd_mask=1", f"-artifact_prefix={findings}/{name}-", str(corpus)]
        done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, errors="replace",
                              env={**os.environ, **SANITIZERS, "TMPDIR": str(self.directory)})
        seconds = time.monotonic() - begin
        executed = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
        cases = int(executed.group(1)) if executed else 0
        expect(done.returncode == 0, f"{name} found something, kept in {findings}: {done.stderr[-3000:]}")
        expect(cases >= self.runs, f"{name} did {cases} cases in {seconds:.0f} s, {cases / seconds:.0f} a second")
        return f"{cases} cases, {cases / seconds:.0f} a second"


def main(table, directory, count):
    targets = build()
    fuzzing = Fuzzing(directory, count or RUNS)
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda name: table.case("fuzz", name, fuzzing.target, name), targets))
