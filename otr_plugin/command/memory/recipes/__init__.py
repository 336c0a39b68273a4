"""What a recipe means for memory: one module a host, with the host's own defaults."""
