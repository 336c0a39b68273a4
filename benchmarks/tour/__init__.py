"""A tour of the command `otr`: real runs in a terminal, recorded and drawn."""
