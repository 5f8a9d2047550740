"""Truing: align language models, from one recipe on a laptop upwards."""
