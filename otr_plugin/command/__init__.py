"""The command `otr`: each module of verbs/ is one verb. `otr --help` imports neither torch nor a host."""
