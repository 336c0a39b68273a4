"""Reads a recipe with its host's own parser, in this process, until a model would load.

This imports the host, and with it what the recipe names under `plugins:` and the like: it is for recipes that you would
run. It fetches nothing, and changes to the environment do not outlive it.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from otr_plugin.command.console import CANNOT_TELL, Failure
from otr_plugin.command.gpus import GPU
from otr_plugin.command.recipes import RecipeHost

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "AXOLOTL_DO_NOT_TRACK": "1"}


def problems_of(host: RecipeHost, recipe: dict[str, Any], path: Path, gpu: GPU | None = None) -> list[str]:
    """The host's reason to refuse the recipe, or the keys that it drops. Raises Failure where it is not installed."""
    found: list[str] = []
    refusal = refusal_of(host, path, recipe, lambda: found.extend(PARSERS[host.name](recipe, path, gpu)))
    return found if refusal is None else [f"{host.title} refuses the recipe: {refusal}"]


def refusal_of(host: RecipeHost, path: Path, recipe: dict[str, Any], read: Callable[[], Any]) -> str | None:
    """Call `read` in the host's environment; return the host's reason to refuse the recipe, or None."""
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
            read()
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


def _axolotl(recipe: dict[str, Any], path: Path, gpu: GPU | None) -> list[str]:
    validation = import_module("axolotl.utils.config")
    cfg = axolotl_config(recipe, path)
    capabilities: dict[str, Any] = {}
    if gpu is not None:
        torch_version = version("torch").split("+")[0]
        capabilities = {"capabilities": _capabilities(gpu), "env_capabilities": {"torch_version": torch_version}}
    try:
        validation.validate_config(cfg, **capabilities)
        schema = validation.merge_input_args()[1] if cfg.plugins else validation.AxolotlInputConfigBase
    finally:
        import_module("axolotl.integrations.base").PluginManager.get_instance().plugins.clear()
    known = {*schema.model_fields, *(str(field.alias) for field in schema.model_fields.values() if field.alias)}
    # Keys that are no fields, but that a validator replaces or refuses by name.
    folder = Path(str(import_module("axolotl.utils.schemas").__file__)).parent
    validators = "".join(file.read_text(encoding="utf-8") for file in folder.rglob("*.py"))
    unknown = [key for key in recipe if key not in known and f'"{key}"' not in validators]
    return [_dropped(key, recipe[key], known, "Axolotl") for key in unknown]


def axolotl_config(recipe: dict[str, Any], path: Path) -> Any:
    """What Axolotl makes of the recipe, with its plugins loaded, before it validates it."""
    cfg = import_module("axolotl.utils.dict").DictDefault(recipe | {"axolotl_config_path": str(path)})
    import_module("axolotl.cli.config").prepare_plugins(cfg)
    return cfg


def _capabilities(gpu: GPU) -> dict[str, Any]:
    """A GPU as axolotl.cli.config.gpu_capabilities describes the one that is here."""
    return {
        "bf16": gpu.bf16,
        "fp8": gpu.capability >= (8, 9),
        "tf32": gpu.capability >= (8, 0),
        "n_gpu": 1,
        "compute_capability": gpu.sm,
    }


def _llamafactory(recipe: dict[str, Any], path: Path, gpu: GPU | None) -> list[str]:
    sys.argv = ["llamafactory-cli", str(path)]
    import_module("llamafactory.hparams").get_train_args()  # raises for unknown keys
    return []


def _trl(recipe: dict[str, Any], path: Path, gpu: GPU | None) -> list[str]:
    parser = import_module("trl.scripts.sft").make_parser()
    *_, rest = parser.parse_args_and_config(["--config", str(path)], return_remaining_strings=True)
    launcher = import_module("accelerate.commands.launch").launch_command_parser()
    known = {action.dest for each in (parser, launcher) for action in each._actions} | {"accelerate_config"}
    unknown = [word[2:] for word in rest if word.startswith("--") and word[2:] not in known and word[2:] in recipe]
    return [_dropped(key, recipe[key], known, "TRL") for key in unknown]


def _swift(recipe: dict[str, Any], path: Path, gpu: GPU | None) -> list[str]:
    swift_arguments(path)
    return []


def swift_arguments(path: Path) -> Any:
    words = [str(path)]
    import_module("swift.cli.main").parse_yaml_args(words)
    args, rest = import_module("swift.utils").parse_args(import_module("swift.arguments").SftArguments, words)
    if rest:
        raise ValueError(f"unknown keys: {' '.join(rest)}")
    return args


def _dropped(key: str, value: Any, known: Iterable[str], title: str) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    fix = f"write `{near[0]}`" if near else "remove it"
    return f"`{key}: {value}`: {title} has no such key, and would train without it: {fix}"


PARSERS = {"axolotl": _axolotl, "llamafactory": _llamafactory, "trl": _trl, "swift": _swift}
