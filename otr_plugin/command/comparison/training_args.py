"""The trainer's arguments from training_args.bin, which every host's trainer saves.

The file is a pickle: a program for a machine that builds objects, whose authors can make it call anything. It is not
unpickled. `pickletools` takes it apart, and the few instructions that build plain values are followed here; a class or
a function is a name, and calling it records its arguments. torch is not needed.
"""

from __future__ import annotations

import pickletools
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_BYTES = 1_000_000  # a real one has about 5,000
MARK = object()


@dataclass
class Made:
    """An object of a class that was not made."""

    origin: str  # "MODULE NAME" of the class or function
    arguments: tuple[Any, ...] = ()
    state: dict[Any, Any] = field(default_factory=dict)


def read(path: Path) -> tuple[dict[str, Any], str] | None:
    """The arguments that are plain values, and the module of their class; None if the file has another form."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(each for each in archive.namelist() if each.endswith("data.pkl"))
            if archive.getinfo(name).file_size > MOST_BYTES:
                return None
            made = followed(archive.read(name))
    except Exception:  # whatever a file of another form makes the readers raise
        return None
    if not isinstance(made, Made):
        return None
    values = {str(name): _plain(value) for name, value in made.state.items()}
    ranks = made.state.get("distributed_state")
    if isinstance(ranks, Made) and isinstance(ranks.state.get("num_processes"), int):
        values["world_size"] = ranks.state["num_processes"]
    # An object that a function puts together, as TRL's arguments with OTR are, has its class among the arguments.
    origins = [each.origin for each in made.arguments if isinstance(each, Made)]
    origin = (origins or [made.origin])[0]
    return {name: value for name, value in values.items() if value is not None}, origin.split(" ")[0]


def followed(content: bytes) -> Any:
    """What the instructions build. One that no trainer's arguments need is a ValueError."""
    stack: list[Any] = []
    memory: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        i = max(i for i, each in enumerate(stack) if each is MARK)
        found = stack[i + 1 :]
        del stack[i:]
        return found

    for code, argument, _ in pickletools.genops(content):
        match code.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                stack.append(MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[code.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
                stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": {}, "EMPTY_SET": set()}[code.name])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(code.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "APPEND":
                value = stack.pop()
                stack[-1].append(value)
            case "APPENDS":
                values = since_mark()
                stack[-1].extend(values)
            case "SETITEM":
                name, value = stack[-2:]
                del stack[-2:]
                stack[-1][name] = value
            case "SETITEMS":
                values = since_mark()
                stack[-1].update(zip(values[::2], values[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memory[argument] = stack[-1]
            case "MEMOIZE":
                memory[len(memory)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memory[argument])
            case "GLOBAL":
                stack.append(Made(str(argument)))
            case "NEWOBJ" | "REDUCE":
                function, arguments = stack[-2:]
                stack[-2:] = [Made(function.origin, arguments)]
            case "BUILD":
                state = stack.pop()
                stack[-1].state.update(state)
            case other:
                raise ValueError(other)
    return None


def _plain(value: Any) -> Any:
    """A value that a table can show: an enumeration's, a number, a text or a list of these; None for any other."""
    if isinstance(value, Made):
        value = value.arguments[0] if len(value.arguments) == 1 else None
    if isinstance(value, list):
        return [each for each in value if isinstance(each, str | int | float)]
    return value if isinstance(value, str | int | float) else None
