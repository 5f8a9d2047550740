"""Loading, adapters, heads, the forest."""
