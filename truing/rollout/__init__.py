"""Samplers: what generates completions."""
