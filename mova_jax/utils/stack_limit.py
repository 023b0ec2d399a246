"""The stack of the main thread, on which JAX compiles."""

import resource

STACK = 100 * 2**20  # bytes; Linux leaves room for 128 MB


def raise_stack_limit() -> None:
    """Lets the main thread's stack grow beyond the usual 8 MB.

    libtpu 0.0.42 walks long chains of instructions by recursion, and overflowed it on the step of
    B/16 for 64 chips.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    limit = STACK if hard == resource.RLIM_INFINITY else min(STACK, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_STACK, (limit, hard))
