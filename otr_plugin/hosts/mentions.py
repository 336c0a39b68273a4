"""The plugin's names, and whether a key, an option or a variable is meant as one of them, however it is spelled."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator

from otr_plugin.config import OTRConfig

PLUGIN_NAMES = ("otr", "otr_plugin.OTRPlugin")  # what a recipe may write under `plugins:`
SETTINGS_KEY = "otr"  # the block of settings; also the attribute that carries them on a host's parsed arguments
# Letters that look like those of otr: Cyrillic, Greek, Armenian and small Latin capitals.
LOOK_ALIKES = str.maketrans(
    "\u043e\u041e\u03bf\u039f\u0585\u1d0f\u0442\u0422\u03c4\u03a4\u1d1b\u0433\u1d26\u0280", "o" * 6 + "t" * 5 + "r" * 3
)
# Letters of these alphabets beside Latin ones in one word are compared as "?", which equals any letter.
ALPHABETS = ("LATIN", "CYRILLIC", "GREEK", "COPTIC", "ARMENIAN", "CHEROKEE", "GEORGIAN", "LISU")
NOT_SETTINGS = ("OTR_PLUGIN_AUTOLOAD", "OTR_PLUGIN_TRACE")  # variables that the package itself reads
# What may follow "otr" in one word: otrsamples, otrplugin.
ENDINGS = (
    *(name.replace("_", "") for name in OTRConfig.model_fields),
    *("plugin", "plugins", "config", "settings", "args", "loss", "trainer"),
)


def is_plugin_name(name: object) -> bool:
    return name in PLUGIN_NAMES


def mentions_otr(name: object) -> bool:
    """Whether one of the name's words is otr: `Otr`, `otr-samples`, `OTRSAMPLES`, `use_otr`, `otr_plugin.OTR`.

    The letters in the middle of a word, as in `notre_dame`, do not count.
    """
    return isinstance(name, str) and name not in NOT_SETTINGS and any(map(_is_otr, _words(name)))


def begins_with_otr(name: object) -> bool:
    """Whether the name's first word is otr."""
    return isinstance(name, str) and name not in NOT_SETTINGS and _is_otr(next(_words(name), ""))


def reads_as_setting(variable: str) -> bool:
    """Whether a variable's name is that of a setting, or nearly: OTR_SAMPLES, otr-samples, and not OTR_HOME."""
    return begins_with_otr(variable) and (nearest_setting(variable) is not None or len(list(_words(variable))) == 1)


def is_close_to(name: object, word: str, least: float = 0.8) -> bool:
    """Whether the name reads as the word: another case, another separator, a letter too many or too few."""
    if not isinstance(name, str):
        return False
    return difflib.SequenceMatcher(None, "".join(_words(name)), word).ratio() >= least


def setting_meant_by(name: object) -> str | None:
    """The setting whose name this is but for spaces around it, its case, and hyphens."""
    if not isinstance(name, str):
        return None
    plain = "_".join(_words(name))
    return plain if plain in OTRConfig.model_fields else None


def nearest_setting(name: str) -> str | None:
    """The setting that is meant by the part of the name after "otr"."""
    rest = re.sub(r"^otr_?", "", "_".join(_words(name)))
    near = difflib.get_close_matches(rest, OTRConfig.model_fields, n=1)
    return near[0] if near else None


def _words(name: str) -> Iterator[str]:
    """The words of a name in lower case, split at separators; then those of the last part split at capitals."""
    plain = "".join(_plain(character) for character in unicodedata.normalize("NFKC", name).translate(LOOK_ALIKES))
    yield from re.findall(r"[a-z0-9?]+", plain.casefold())
    if re.search(r"[a-z][A-Z]|[A-Z]{2}[a-z]", plain):  # useOTR, OTRPlugin
        pieces = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", plain)
        yield from (piece.casefold() for piece in pieces)


def _plain(character: str) -> str:
    if character.isascii():
        return character
    if unicodedata.category(character) in ("Cf", "Mn"):  # zero-width characters and accents
        return ""
    return "?" if unicodedata.name(character, "").startswith(ALPHABETS) else " "


def _is_otr(word: str) -> bool:
    if len(word) < 3 or not (word[0] in "o0?" and word[1] in "t?" and word[2] in "r?") or word[:3] == "???":
        return False
    rest = word[3:]
    return not rest or rest.isdigit() or bool(difflib.get_close_matches(rest, ENDINGS, n=1, cutoff=0.8))
