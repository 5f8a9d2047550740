"""Untrusted code, isolated: only values of exact built-in types come out; what is expected stays outside."""
