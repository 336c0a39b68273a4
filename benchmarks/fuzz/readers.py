"""Reads a case with the host's own reader, in this process, as the host's command does, until a model would load.

What the host keeps from one recipe to the next in a process is put back, unless the case reads a recipe with OTR first.
What takes long and is the same for every recipe is made once.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.fuzz.cases import Case, Plain, Reading
from benchmarks.fuzz.hosts import HOSTS
from benchmarks.hosts.driver import CPU_ENVIRONMENT, make_model
from benchmarks.paths import ROOT
from otr_plugin.config import OTRConfig


class Reader(ABC):
    """One host in one folder, which holds a tiny model."""

    def __init__(self, name: str, folder: Path) -> None:
        self.host, self.folder = HOSTS[name], folder
        self.changes = contextlib.ExitStack()  # to this process, until `close`
        make_folder(folder)
        environment = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""} | self.host.environment
        self.changes.enter_context(mock.patch.dict(os.environ, environment))
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            self.prepare()

    def change(self, owner: Any, name: str, value: Any) -> None:
        self.changes.enter_context(mock.patch.object(owner, name, value))

    def close(self) -> None:
        self.changes.close()

    @abstractmethod
    def prepare(self) -> None:
        """Imports the host, and makes what is the same for every recipe."""

    @abstractmethod
    def run(self, path: str, case: Case) -> Any:
        """Does what the host's command does with the recipe; returns what the trainer would get."""

    @abstractmethod
    def config(self, found: Any) -> OTRConfig | None:
        """The settings with which the trainer would attach OTR."""

    @abstractmethod
    def settings(self, found: Any) -> dict[str, Any]:
        """The host's own settings."""

    @abstractmethod
    def forget(self) -> None:
        """Drops what the host keeps of a recipe in this process."""

    def read(self, case: Case) -> Reading:
        with self._put_back():
            if case.after_otr:
                self._read(self._right_recipe())
            return self._read(case)

    def _right_recipe(self) -> Case:
        recipe = self.host.needs | ({"loss_type": "otr"} if self.host.reads_variables else {"plugins": ["otr"]})
        return Case(self.host.name, "before.yaml", json.dumps(recipe), Plain())

    def _read(self, case: Case) -> Reading:
        path = self.folder / case.file
        path.write_bytes(case.text.encode())
        if case.sweep is not None:
            (self.folder / "sweep.yaml").write_text(case.sweep)
        printed = io.StringIO()
        environment = dict(os.environ)
        os.environ.update(case.environment)
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(printed),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                found = self.run(case.file, case)
                config = self.config(found)
            return Reading(config, {key: _text(value) for key, value in sorted(self.settings(found).items())})
        except (Exception, SystemExit) as error:
            text = str(error)
            if isinstance(error, SystemExit) and isinstance(error.code, int):
                text = printed.getvalue()
                if ": error: " in text:  # argparse prints its usage before its message
                    text = text.strip().splitlines()[-1]
            return Reading(error=text or repr(error), error_type=type(error).__name__)
        finally:
            os.environ.clear()
            os.environ.update(environment)

    @contextlib.contextmanager
    def _put_back(self) -> Iterator[None]:
        environment, arguments, folder = dict(os.environ), sys.argv, Path.cwd()
        disabled = logging.root.manager.disable
        os.chdir(self.folder)
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
            os.environ.clear()
            os.environ.update(environment)
            sys.argv = arguments
            os.chdir(folder)
            self.forget()


def make_folder(folder: Path) -> None:
    """Writes the model, if it is not there."""
    if not (folder / "model").exists():
        make_model(folder / "model")


def _text(value: Any) -> str:
    """A setting as text that is the same in another process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


class Axolotl(Reader):
    """`axolotl train`: click's command, what it starts by accelerate, and there the loaded configuration."""

    def prepare(self) -> None:
        (self.folder / "data.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}\n')
        main, train = import_module("axolotl.cli.main"), import_module("axolotl.cli.train")
        self.launch = import_module("axolotl.cli.utils.train")
        self.manager = import_module("axolotl.integrations.base").PluginManager
        self.command, self.train, self.fire = main.train, train, import_module("fire")
        # A class with all keys of the registered plugins takes most of a second to make.
        config, made = import_module("axolotl.utils.config"), {}
        merge = config.merge_input_args

        def merge_once() -> Any:
            key = tuple(plugin.get_input_args() for plugin in self.manager.get_instance().plugins.values())
            if key not in made:
                made[key] = merge()
            return made[key]

        self.change(config, "merge_input_args", merge_once)
        # It copies all output to a file.
        self.change(import_module("axolotl.cli.config"), "prepare_debug_log", lambda *_, **__: None)

    def run(self, path: str, case: Case) -> Any:
        found: list[Any] = []

        def start(program: str, command: list[str], environment: Any = None) -> None:
            """What `accelerate launch` or `torchrun` would start. Their own options stand before -m."""
            place = command.index("-m")
            if strange := [word for word in command[1:place] if word != "launch"]:
                raise AssertionError(f"{command[0]} would get the options {strange}")
            sys.argv = command[place + 1 :]
            self.fire.Fire(self.train.do_cli, command=sys.argv[1:])

        sweep = [] if case.sweep is None else ["--sweep", "sweep.yaml"]
        arguments = [path, *sweep, *case.command]
        sys.argv = ["axolotl", "train", *arguments]
        with (
            mock.patch.object(self.train, "do_train", lambda cfg, _: found.append(cfg)),
            mock.patch.object(self.launch.os, "execvpe", start),
            mock.patch.object(self.launch.subprocess, "run", lambda command, check: start("", command)),
        ):
            self.command.main(arguments, standalone_mode=False)
        (cfg,) = found
        return cfg

    def config(self, found: Any) -> OTRConfig | None:
        attached: list[OTRConfig] = []
        adapter = sys.modules.get("otr_plugin.hosts.axolotl.adapter")
        if adapter is None:
            return None

        def attach(_: Any, config: OTRConfig, *__: Any) -> None:
            attached.append(config)

        with mock.patch.object(adapter, "attach_and_announce", attach):
            self.manager.get_instance().add_callbacks_post_trainer(found, mock.MagicMock())
        assert len(attached) < 2, "OTR would be attached twice"
        return attached[0] if attached else None

    def settings(self, found: Any) -> dict[str, Any]:
        return dict(found.to_dict())

    def forget(self) -> None:
        self.manager.get_instance().plugins.clear()


class LlamaFactory(Reader):
    """`llamafactory-cli train`."""

    def prepare(self) -> None:
        self.tuner = import_module("llamafactory.train.tuner")
        parser = import_module("llamafactory.hparams.parser")
        self.change(parser, "HfArgumentParser", _made_once(parser.HfArgumentParser))

    def run(self, path: str, case: Case) -> Any:
        found: list[Any] = []
        sys.argv = ["llamafactory-cli", path, *case.command]
        with (
            mock.patch.object(self.tuner, "run_sft", lambda *args: found.append(args)),
            mock.patch.object(self.tuner, "run_pt", lambda *args: found.append(args)),
        ):
            self.tuner.run_exp()
        (arguments,) = found
        return arguments

    def config(self, found: Any) -> OTRConfig | None:
        return _carried_by(found[3])

    def settings(self, found: Any) -> dict[str, Any]:
        return {f"{type(part).__name__}.{key}": value for part in found[:4] for key, value in vars(part).items()}

    def forget(self) -> None:
        pass


class TRL(Reader):
    """`trl sft`: the command, what it starts by accelerate, and there the parsed arguments."""

    def prepare(self) -> None:
        self.cli, self.sft = import_module("trl.cli.main"), import_module("trl.scripts.sft")
        launcher = import_module("trl.cli.accelerate_launcher")
        self.started: list[Any] = []
        options = dict(launcher.launch_training_script.__kwdefaults__)
        parser = options["launch_parser_fn"]()
        options |= {"launch_command_fn": self.started.append, "launch_parser_fn": lambda: parser}
        self.change(launcher.launch_training_script, "__kwdefaults__", options)

    def run(self, path: str, case: Case) -> Any:
        self.started.clear()
        sys.argv = ["trl", "sft", "--config", path, *case.command]
        self.cli.main()
        (launch,) = self.started
        if not launch.training_script.endswith("sft.py"):
            raise AssertionError(f"accelerate would start {launch.training_script!r}")
        sys.argv = [launch.training_script, *launch.training_script_args]
        return self.sft.make_parser().parse_args_and_config(fail_with_unknown_args=False)

    def config(self, found: Any) -> OTRConfig | None:
        return _carried_by(found[1])

    def settings(self, found: Any) -> dict[str, Any]:
        return {f"{type(part).__name__}.{key}": value for part in found for key, value in vars(part).items()}

    def forget(self) -> None:
        pass


class Swift(Reader):
    """`swift sft`: the command, and what it starts, until the arguments are parsed."""

    def prepare(self) -> None:
        (self.folder / "sums.jsonl").write_text('{"query": "a", "response": "b"}\n')
        self.main = import_module("swift.cli.main")
        self.sft = import_module("swift.pipelines.train.sft").SwiftSft

    def run(self, path: str, case: Case) -> Any:
        started: list[list[str]] = []

        def start(command: list[str]) -> Any:
            started.append(command)
            return mock.MagicMock(returncode=0)

        sys.argv = ["swift", "sft", path, *case.command]
        with mock.patch.object(self.main.subprocess, "run", start):
            self.main.cli_main()
        ((_, *sys.argv),) = started
        return self.sft._parse_args(mock.MagicMock(args_class=self.sft.args_class), None)

    def config(self, found: Any) -> OTRConfig | None:
        adapter = sys.modules.get("otr_plugin.hosts.swift.adapter")
        if adapter is None or found.loss_type is None:
            return None
        loss = import_module("swift.loss").loss_map.get(found.loss_type)
        if loss is not adapter.OTRLoss:
            return None
        config: OTRConfig = adapter.settings(os.environ)
        return config

    def settings(self, found: Any) -> dict[str, Any]:
        skipped = ("training_args", "model_info", "model_meta", "logging_dir", "output_dir", "run_name")
        return {key: value for key, value in vars(found).items() if key not in skipped}

    def forget(self) -> None:
        pass


def _carried_by(arguments: Any) -> OTRConfig | None:
    """The settings on the parsed arguments, where a patched trainer finds them."""
    values = getattr(arguments, "otr", None)
    return None if values is None else OTRConfig(**values)


def _made_once(make: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose result for the same classes is made once: a parser does not change when it parses."""
    made: dict[Any, Any] = {}

    @functools.wraps(make, updated=())
    def make_or_reuse(classes: Any) -> Any:
        key = tuple(classes) if isinstance(classes, list) else classes
        if key not in made:
            made[key] = make(classes)
        return made[key]

    return make_or_reuse


READERS: dict[str, type[Reader]] = {"axolotl": Axolotl, "llamafactory": LlamaFactory, "trl": TRL, "swift": Swift}


class WithoutThePackage:
    """The same reader in a process where this package patches nothing."""

    def __init__(self, name: str, folder: Path) -> None:
        make_folder(folder)
        command = [sys.executable, "-m", "benchmarks.fuzz.readers", name, str(folder)]
        environment = CPU_ENVIRONMENT | {"OTR_PLUGIN_AUTOLOAD": "0", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def read(self, case: Case) -> Reading:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        written = {"file": case.file, "text": case.text, "command": case.command, "environment": case.environment}
        self.process.stdin.write(json.dumps(written) + "\n")
        self.process.stdin.flush()
        return Reading(**json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def difference(reading: Reading, without: Reading) -> str | None:
    """What this package has changed about a recipe without OTR; None if it has changed nothing."""
    if without.error is not None:
        return f"the host alone refuses it: {without}"
    assert reading.plain is not None
    assert without.plain is not None
    changed = [
        f"{key}: {without.plain.get(key)} became {reading.plain.get(key)}"
        for key in sorted(reading.plain.keys() | without.plain.keys())
        if reading.plain.get(key) != without.plain.get(key)
    ]
    return "; ".join(changed) or None


def main() -> None:
    """Reads cases from stdin and writes readings to stdout, one JSON object a line."""
    name, folder = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    reader = READERS[name](name, Path(folder))
    for line in sys.stdin:
        reading = reader.read(Case(host=name, outcome=Plain(), **json.loads(line)))
        answers.write(
            json.dumps({"plain": reading.plain, "error": reading.error, "error_type": reading.error_type}) + "\n"
        )
        answers.flush()


if __name__ == "__main__":
    main()
