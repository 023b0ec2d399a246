"""mova_jax: MoVA (Modular Long Video-Text Alignment) in JAX."""
