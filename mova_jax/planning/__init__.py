"""The parts of `python -m mova_jax.plan`: a train step compiled for devices that need not exist."""
