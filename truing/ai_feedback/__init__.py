"""Feedback from models: preference labels, constitutions and self-rewarding rounds, with an audit trail."""
