"""What `python -m mova_jax.plan` is made of: a step compiled for devices that are not here."""
