"""Reads a recipe with its host's own parser, in this process, until a model would load.

This imports the host, and with it what the recipe names under `plugins:` and the like: it is for recipes that you would
run. It fetches nothing, and changes to the environment do not outlive it.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from otr_plugin.command.console import CANNOT_TELL, Failure
from otr_plugin.command.recipes import RecipeHost

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "AXOLOTL_DO_NOT_TRACK": "1"}


def problem_of(host: RecipeHost, recipe: dict[str, Any], path: Path) -> str | None:
    """The host's reason to refuse the recipe, or None. Raises Failure where the host is not installed."""
    try:
        version(host.package)
    except PackageNotFoundError:
        message = f"{path}: {host.title} is not installed here: run otr where it is, or use --level static"
        raise Failure(message, CANNOT_TELL) from None
    if host.name == "swift" and not Path(str(recipe.get("model"))).is_dir():
        message = f"{path}: ms-swift reads the model's files, and {recipe.get('model')!r} is no folder here"
        raise Failure(f"{message}: download it, or use --level static", CANNOT_TELL)
    with _put_back() as printed:
        try:
            PARSERS[host.name](recipe, path)
        except ImportError as error:
            raise Failure(f"{path}: {host.title} cannot be imported here: {error}", CANNOT_TELL) from error
        except SystemExit as end:
            if isinstance(end.code, str):
                return end.code
            lines = printed.getvalue().strip().splitlines()  # argparse prints its message last
            return (
                lines[-1].partition(" error: ")[2] or lines[-1] if lines else f"it ended with the exit code {end.code}"
            )
        except Exception as error:  # of any type that the host raises
            return str(error).strip() or type(error).__name__
    return None


@contextlib.contextmanager
def _put_back() -> Iterator[io.StringIO]:
    """What the host prints is kept; the environment and the command line are put back."""
    environment, arguments = dict(os.environ), sys.argv
    os.environ.update(OFFLINE)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            yield printed
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = arguments


def _axolotl(recipe: dict[str, Any], path: Path) -> None:
    cfg = import_module("axolotl.utils.dict").DictDefault(recipe | {"axolotl_config_path": str(path)})
    import_module("axolotl.cli.config").prepare_plugins(cfg)
    try:
        import_module("axolotl.utils.config").validate_config(cfg)
    finally:
        import_module("axolotl.integrations.base").PluginManager.get_instance().plugins.clear()


def _llamafactory(recipe: dict[str, Any], path: Path) -> None:
    sys.argv = ["llamafactory-cli", str(path)]
    import_module("llamafactory.hparams").get_train_args()


def _trl(recipe: dict[str, Any], path: Path) -> None:
    parser = import_module("trl.scripts.sft").make_parser()
    parser.parse_args_and_config(["--config", str(path)], fail_with_unknown_args=False)


def _swift(recipe: dict[str, Any], path: Path) -> None:
    words = [str(path)]
    import_module("swift.cli.main").parse_yaml_args(words)
    _, rest = import_module("swift.utils").parse_args(import_module("swift.arguments").SftArguments, words)
    if rest:
        raise ValueError(f"unknown keys: {' '.join(rest)}")


PARSERS = {"axolotl": _axolotl, "llamafactory": _llamafactory, "trl": _trl, "swift": _swift}
