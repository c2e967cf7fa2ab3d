"""What was broken, how often, and what came of it: the rows of the table at the end."""

import sys
import threading
import time
import traceback

from tiny import Broken


class Table:
    def __init__(self):
        self.rows = []
        self.lock = threading.Lock()  # parts may run cases on several threads

    def case(self, part, row, action, *arguments):
        """Runs one case. `action` returns what came of it, in a word or two, or raises Broken."""
        with self.lock:
            entry = next((r for r in self.rows if r["part"] == part and r["row"] == row), None)
            if entry is None:
                entry = {"part": part, "row": row, "cases": 0, "failed": 0, "outcomes": {}, "seconds": 0.0}
                self.rows.append(entry)
        begin = time.monotonic()
        entry["cases"] += 1
        outcome = None
        try:
            outcome = action(*arguments) or "as expected"
            entry["outcomes"][outcome] = entry["outcomes"].get(outcome, 0) + 1
        except Broken as problem:
            entry["failed"] += 1
            print(f"FAILED {part}, {row}: {problem}", file=sys.stderr, flush=True)
        except Exception:  # a fault of this suite
            entry["failed"] += 1
            print(f"FAILED {part}, {row}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        entry["seconds"] += time.monotonic() - begin
        return outcome

    def print(self):
        print(f"\n{'part':<9} {'what':<46} {'cases':>5} {'failed':>6} {'s':>5}  outcome")
        for r in self.rows:
            outcomes = ", ".join(f"{n} {what}" if n > 1 or len(r["outcomes"]) > 1 else what
                                 for what, n in sorted(r["outcomes"].items(), key=lambda item: -item[1]))
            print(f"{r['part']:<9} {r['row']:<46} {r['cases']:>5} {r['failed'] or '-':>6} {r['seconds']:>5.0f}  "
                  f"{outcomes}")
        failed = sum(1 for r in self.rows if r["failed"])
        print(f"\n{len(self.rows) - failed} of {len(self.rows)} rows passed")
        return failed == 0 and bool(self.rows)
