"""Discrete image representations in JAX: quantizers, autoencoders, priors, and one way from images to new images."""

__version__ = "0.1.0"
