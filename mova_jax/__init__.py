"""mova_jax: MoVA (Modular Long Video-Text Alignment) in JAX."""

import time

LOADED = time.time()  # before any other module: a file that changed later may not be what runs
