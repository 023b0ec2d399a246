"""The machine every test runs on: eight simulated CPU devices, nothing from the network.

JAX, torch and transformers read these variables when they are imported, and worker processes and
commands that a test starts inherit them, so they are set before anything else is imported.
"""

import os
import pathlib

_ROOT = pathlib.Path(__file__).resolve().parent.parent

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # On a busy machine eight devices can take long to meet: not a reason to abort.
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",
        # Test shapes are tiny: handing them to a thread pool costs more than computing them, and
        # the tests already run in several processes.
        "--xla_cpu_multi_thread_eigen=false",
        # Compiling is most of the time of a test; programs that run once need not be fast.
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
    ]
).strip()

# Compiling is most of the time of a test; the next run finds the programs here.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

os.environ["OMP_NUM_THREADS"] = "1"  # torch, numpy
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_MODULES_CACHE"] = str(_ROOT / ".pytest_cache" / "hf_modules")  # code of exports
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "agg"
