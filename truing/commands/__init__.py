"""The commands of `truing`, one module for each group."""
