"""The measuring stick: the same work through Truing and through TRL, step by step in turn."""
