"""What counts as a secret in a recipe or on a command line, and how to take it out. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

SECRETS = (
    re.compile(r"\bhf_[A-Za-z0-9]{16,}"),
    re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"),
    re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"),
    re.compile(r"\bAKIA[A-Z0-9]{16}\b"),
    re.compile(r"\bwandb_v\d_\w{16,}"),
    re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w.-]{10,}"),  # a JSON web token
    # A key of Weights & Biases. A commit has the same form: it is a revision, or in a path of the hub's cache.
    re.compile(r"(?<![0-9a-fA-F])(?<!snapshots/)[0-9a-f]{40}(?![0-9a-fA-F])"),
)
SECRET_KEYS = re.compile(
    r"(?i)((api|access|secret|private)[_-]?key([_-]?id)?|(auth|access|hf|hub|session)[_-]?token"
    r"|secret|passw(or)?d|credentials?)$"
)
COMMIT_KEYS = ("revision", "revision_of_model", "model_revision", "dataset_revision", "sha")
# Parts of an address that give access: a user's name and password, and a signed query.
IN_ADDRESS = re.compile(
    r"(?<=://)[^/\s@]+@|\?[^\s\"']*\b(?:token|sig|signature|credential|key|x-amz-[\w-]+)=[^\s\"']*", re.IGNORECASE
)
REPLACEMENT = "SECRET"


def holds_secret(text: str) -> bool:
    return bool(IN_ADDRESS.search(text)) or any(pattern.search(text) for pattern in SECRETS)


def without_secrets(value: Any, key: str = "", at: str = "") -> tuple[Any, list[str]]:
    """The value without secrets, and the places they were in. A key whose value is secret is left out with its value.

    `key` is the key that holds the value, and `at` the whole place, such as `datasets[0].path`.
    """
    removed: list[str] = []
    if isinstance(value, Mapping):
        kept = {}
        for name, each in value.items():
            name, place = _cleaned(str(name)), f"{at}.{_cleaned(str(name))}".lstrip(".")
            if SECRET_KEYS.search(name) and is_given(each):
                removed.append(place)
            else:
                kept[name], below = without_secrets(each, name, place)
                removed += below
        return kept, removed
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        items = [without_secrets(each, key, f"{at}[{i}]") for i, each in enumerate(value)]
        return [item for item, _ in items], [place for _, below in items for place in below]
    if isinstance(value, str) and not (key in COMMIT_KEYS and re.fullmatch("[0-9a-f]{40}", value)):
        cleaned = _cleaned(value)
        return cleaned, [at] if cleaned != value else []
    return value, []


def words_without_secrets(words: Sequence[str]) -> list[str]:
    """A command line: `--hub_token X`, `--hub_token=X`, `hub_token=X`, and secrets within any other word."""
    cleaned = []
    is_secret = False  # the word is the value of an option before it
    for word in words:
        option, equals, value = word.partition("=")
        name = option.lstrip("-").replace("-", "_")
        if is_secret and not word.startswith("--"):
            cleaned.append(REPLACEMENT)
        elif equals and SECRET_KEYS.search(name) and is_given(value):
            cleaned.append(f"{option}={REPLACEMENT}")
        else:
            cleaned.append(_cleaned(word))
        is_secret = not equals and word.startswith("--") and bool(SECRET_KEYS.search(name))
    return cleaned


def is_given(value: Any) -> bool:
    """Whether the value of a secret's key can be a secret: `hub_token: true` is none."""
    return value is not None and str(value).lower() not in ("", "true", "false", "null", "none", "~")


def _cleaned(text: str) -> str:
    text = IN_ADDRESS.sub("", text)
    for pattern in SECRETS:
        text = pattern.sub(REPLACEMENT, text)
    return text
