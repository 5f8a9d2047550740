"""Readers, chat templates with loss masks, and generators of rows."""
