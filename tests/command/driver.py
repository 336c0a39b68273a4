"""Runs `otr` in this process, as its console script does."""

import json
from dataclasses import dataclass

from click.testing import CliRunner

from otr_plugin.command.main import command


@dataclass
class Done:
    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self):
        return json.loads(self.stdout)


def otr(*words, columns=100):
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(command, [str(word) for word in words], prog_name="otr")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return Done(result.exit_code, result.stdout_bytes.decode(), result.stderr)
