"""Tensor functions without opinions."""
