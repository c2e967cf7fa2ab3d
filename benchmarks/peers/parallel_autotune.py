"""Shortens the warm-up of Triton programs; the kernels and the candidates the autotuner chooses from stay as they are.

The candidates of a kernel are compiled side by side, in threads, and then timed as ever, one by one on an idle GPU, but
for 30 ms each rather than 100 (one launch takes about a millisecond or less). Needs Triton 3.5 or later.
"""
import concurrent.futures
import os

from triton.runtime._async_compile import AsyncCompileMode
from triton.runtime.autotuner import Autotuner
from triton.testing import do_bench


def install(compile_only=False, threads=min(16, os.cpu_count())):
    """Call it before fla is imported. Not for programs under torch.compile: compiling in threads beside it has crashed.

    compile_only: every candidate is launched once instead of being timed, and no choice is kept. It fills Triton's
    cache from processes that run side by side, where timings would be noise.
    """
    if compile_only:
        os.environ["FLA_CACHE_RESULTS"] = "0"
    bench_one = Autotuner._bench
    pool = concurrent.futures.ThreadPoolExecutor(threads)

    def compile_all(tuner, args, meta):
        with AsyncCompileMode(pool, ignore_errors=True):  # what does not compile fails again in bench_one
            for config in tuner.prune_configs(meta):
                tuner.fn.run(*args, **{**meta, **config.all_kwargs(), "warmup": True})

    def bench(tuner, *args, config, **meta):
        if getattr(tuner, "compiled_for", None) is not tuner.nargs:  # one dictionary a tuning
            tuner.compiled_for = tuner.nargs
            compile_all(tuner, args, meta)
        return bench_one(tuner, *args, config=config, **meta)

    def time_call(call, quantiles):
        if compile_only:
            call()
            return [0.0] * len(quantiles)
        return do_bench(call, warmup=5, rep=30, quantiles=quantiles)

    Autotuner._bench = bench
    Autotuner.do_bench = property(lambda tuner: tuner._do_bench or time_call)
