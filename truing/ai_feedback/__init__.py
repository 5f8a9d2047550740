"""Feedback from models: preference labels, constitutions, self-rewarding rounds, each with its audit trail."""
