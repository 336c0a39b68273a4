"""One folder per host; docs/extend.md describes what a new one needs.

start.py    what a Python process patches when it imports the host. Imports neither torch nor the host, so that it can
            refuse a recipe even if adapter.py cannot be imported.
adapter.py  connects the host's configuration, trainer and log to an attached model. Imports the host.

The modules beside the folders are shared by all hosts. Nothing outside this folder imports a host, but for
command/host_level.py and command/data_level.py, which call their parsers and their preparation of data.
"""
