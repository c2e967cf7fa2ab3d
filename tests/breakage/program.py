"""Starts the program as its users do, alone or under launcher/local_mpirun.sh, and ends what it started."""

import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("SPANWISE_PROGRAM", SOURCE / "build/bin/spanwise"))
LAUNCHER = SOURCE / "launcher/local_mpirun.sh"
EXIT_STOPPED = 75  # parallel/stop_request.h
MARK = "spanwise: error: "
TIMEOUT_S = 90


@dataclass
class Result:
    code: int  # 128 + signal for a process that a signal ended
    output: str
    seconds: float
    timed_out: bool = False
    left_behind: int = 0

    def sentences(self):
        return [line.split(MARK, 1)[1] for line in self.output.splitlines() if MARK in line]

    def tail(self, lines=6):
        return " / ".join(self.output.strip().splitlines()[-lines:])


def stat_of(pid):
    """(parent, session, state) of a process, or None once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[1]), int(fields[3]), fields[0]
    except (OSError, IndexError):
        return None


def processes():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


class Running:
    """A started program in a session of its own, whose output grows in a file."""

    alive = set()  # not waited for to the end

    def __init__(self, arguments, directory, ranks=0, environment=None, other_rank=None):
        command = [str(PROGRAM), *arguments]
        if ranks:
            command = [str(LAUNCHER), str(ranks), *command]
        if other_rank is not None:
            command += [":", "-n", "1", str(PROGRAM), *other_rank]
        settings = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", **(environment or {})}
        self.ranks_expected = ranks
        self.log = Path(directory) / f".output-{os.getpid()}-{time.monotonic_ns()}"
        self.start = time.monotonic()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=subprocess.STDOUT, start_new_session=True,
                                            env={**os.environ, **settings})
        self.pid = self.process.pid
        Running.alive.add(self)

    def output(self):
        return self.log.read_text(errors="replace")

    def running(self):
        return self.process.poll() is None

    def session(self):
        found = []
        for pid in processes():
            stat = stat_of(pid)
            if stat and stat[1] == self.pid and stat[2] != "Z":
                found.append(pid)
        return found

    def ranks(self):
        """Process ids by rank; alone, the program itself."""
        if not self.ranks_expected:
            return [self.pid] if self.running() else []
        found = {}
        for pid in self.session():
            try:
                if os.path.realpath(f"/proc/{pid}/exe") != str(PROGRAM.resolve()):
                    continue
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            for entry in environment:
                if entry.startswith(b"OMPI_COMM_WORLD_RANK="):
                    found[int(entry.split(b"=")[1])] = pid
        return [found[rank] for rank in sorted(found)]

    def listens(self, pid, number):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return False
        caught = int(re.search(r"SigCgt:\s*([0-9a-f]+)", status).group(1), 16)
        return bool(caught >> (number - 1) & 1)

    def wait_for(self, condition, timeout_s=30):
        """Whether `condition()` came true before the program ended or time was out."""
        limit = time.monotonic() + timeout_s
        while time.monotonic() < limit:
            if condition():
                return True
            if not self.running():
                return condition()
            time.sleep(0.001)
        return False

    def prints(self, text):
        return self.wait_for(lambda: text in self.output())

    def signal(self, pid, number):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    def end_everything(self):
        for pid in self.session():
            self.signal(pid, signal.SIGKILL)

    def wait(self, timeout_s=TIMEOUT_S):
        timed_out = False
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
            self.end_everything()
            code = self.process.wait()
        # Behind a killed launcher script mpirun asks its ranks to end, which save their step first, and gives them seconds.
        limit = time.monotonic() + 10
        while self.session() and time.monotonic() < limit:
            time.sleep(0.01)
        left = len(self.session())
        self.end_everything()
        Running.alive.discard(self)
        result = Result(code if code >= 0 else 128 - code, self.output(), time.monotonic() - self.start,
                        timed_out, left)
        self.log.unlink()
        return result


def end_all():
    """Ends what was started and not waited for: a signal to this suite does not reach other sessions."""
    for running in list(Running.alive):
        running.end_everything()
        Running.alive.discard(running)


def run(arguments, directory, **options):
    timeout_s = options.pop("timeout_s", TIMEOUT_S)
    return Running(arguments, directory, **options).wait(timeout_s)


def settings(values):
    """--set options of {"field": value}."""
    return [word for field, value in values.items() for word in ("--set", f"{field}={value}")]
