"""README.md and docs/ agree with the code: figures, settings, commands, code, links, messages, tree of modules."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks import figures
from benchmarks.paths import RESULTS, ROOT
from otr_plugin import OTRConfig

DOCS = ROOT / "docs"
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in figures.pages()}
GENERATED = re.compile(r"<!-- figures: .*?<!-- end of figures -->", re.DOTALL)
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?:    .*\n)+")

by_page = pytest.mark.parametrize("page", PAGES)


def prose(page: str) -> str:
    """A page without its generated parts."""
    return GENERATED.sub("", PAGES[page])


# Generated parts


@by_page
def test_generated_parts_are_current(page):
    assert figures.with_figures(PAGES[page]) == PAGES[page], "python -m benchmarks readme"


def test_every_rendering_is_on_a_page():
    blocks = [block for text in PAGES.values() for block in figures.BLOCK.findall(text)]
    assert {(Path(source).stem, part or None) for _, source, part, _ in blocks} == figures.RENDERERS.keys()


@by_page
def test_intervals_times_and_megabytes_in_sentences_are_in_a_generated_part(page):
    found = " ".join(part for text in PAGES.values() for part in GENERATED.findall(text))
    for quoted in re.findall(r"[+-]?[\d,.]+ (?:± [\d.]+|×|MB)", prose(page)):
        assert re.search(rf"(?<![\d.]){re.escape(quoted.removeprefix('+'))}(?![\d.])", found), quoted


def test_plots_are_those_of_the_results():
    assert figures.images()
    for plot in figures.images():
        assert plot.read_bytes() == (RESULTS / plot.name).read_bytes(), f"{plot.name}: python -m benchmarks readme"


def test_how_often_256_draws_miss_a_rare_label():
    assert round(100 * (1 - 0.001) ** 256) == 77
    assert sum("77%" in text for text in PAGES.values()) == 3


# Settings


def test_every_setting_has_its_section():
    headings = set(re.findall(r"^### (\w+)$", PAGES["docs/settings.md"], re.MULTILINE))
    assert headings == OTRConfig.model_fields.keys()


def test_the_symbols_of_the_formulas_have_their_defaults():
    rows = re.findall(r"^\| \S+ \| `(\w+)` \| (\S+) \|$", PAGES["docs/method.md"], re.MULTILINE)
    assert len(rows) == 4
    for name, default in rows:
        assert default == str(OTRConfig.model_fields[name].default)


@by_page
def test_yaml_blocks_hold_valid_settings(page):
    for language, code in FENCED.findall(PAGES[page]):
        if language != "yaml":
            continue
        recipe = yaml.safe_load(code)
        assert recipe.keys() <= {"plugins", "otr", "loss_type", "ENV"}
        assert recipe.get("plugins") == ["otr"] or recipe["loss_type"] == "otr"
        OTRConfig(**recipe.get("otr", {}))
        OTRConfig(**{name.removeprefix("OTR_").lower(): value for name, value in recipe.get("ENV", {}).items()})


# Code and commands

# Blocks of this page are applied and run by tests/extend/test_extend.py.
EXTENDING = "docs/extend.md"
# Blocks that need transformers run in tests/model/test_documented_code.py.
PYTHON = [
    pytest.param(code, id=f"{page} {i}")
    for page, text in PAGES.items()
    for i, (language, code) in enumerate(FENCED.findall(text))
    if language == "python" and "attach(model" not in code and page != EXTENDING
]


@pytest.mark.parametrize("code", PYTHON)
def test_python_blocks_run(code):
    exec(compile(code, "docs", "exec"), {})


def test_fenced_blocks_are_of_a_language_that_is_tested():
    for page, text in PAGES.items():
        tested = {"python", "yaml"} | ({"diff"} if page == EXTENDING else set())
        assert {language for language, _ in FENCED.findall(text)} <= tested


# Each command that a page shows, and the test that runs it, or why none does.
COMMANDS = {
    "pip install .": "tests/packaging",
    "pip install '.[axolotl]'": "tests/packaging",
    "make quickstart": "tests/benchmarks/hosts/test_quickstart.py",
    "make test": "no test: it runs the tests",
    "make features": "tests/benchmarks/hosts/test_features.py",
    "make faults": "tests/benchmarks/hosts/test_faults.py",
    "make soak": "tests/benchmarks/hosts/test_soak.py",
    "make engines": "tests/distributed/test_engines.py",
    "axolotl train recipe.yml": "tests/hosts/axolotl/test_train.py",
    "axolotl train": "tests/hosts/axolotl/test_train.py",
    "axolotl preprocess": "tests/hosts/axolotl/test_train.py",
    "axolotl evaluate": "tests/hosts/axolotl/test_train.py",
    "llamafactory-cli train recipe.yaml": "tests/hosts/llamafactory/test_train.py",
    "llamafactory-cli train": "tests/hosts/llamafactory/test_train.py",
    "lmf train": "tests/hosts/llamafactory/test_train.py",
    "trl sft --config recipe.yaml": "tests/hosts/trl/test_train.py",
    "trl sft": "tests/hosts/trl/test_train.py",
    "swift sft recipe.yaml": "tests/hosts/swift/test_train.py",
    "swift sft": "tests/hosts/swift/test_train.py",
    "swift pt": "no test: untried, and said to be",
    "swift rlhf": "no test: refused; tests/hosts/swift/test_settings.py refuses its arguments",
    "megatron sft": "no test: refused; tests/hosts/swift/test_settings.py refuses its arguments",
    "accelerate launch": "tests/hosts/trl/test_train.py",
    "otr add": "tests/command",
    "otr add recipe.yaml": "tests/command",
    "otr remove": "tests/command",
    "otr check": "tests/command",
    "otr check recipe.yaml": "tests/command",
    "otr memory": "tests/hosts/transformers/test_memory.py",
    "otr memory recipe.yaml": "tests/hosts/transformers/test_memory.py",
    "otr share": "tests/command/test_share.py",
    "otr share --verify": "tests/command/test_share.py",
    "otr add --twin": "tests/command/test_change.py",
    "otr compare out/sft out/otr": "tests/command/test_compare.py",
    "axolotl otr": "tests/hosts/axolotl/test_command.py",
    "python -m benchmarks": "tests/test_package.py",
    'python -c "import otr_plugin"': "tests/test_package.py",
    "python -m benchmarks readme": "tests/test_docs.py",
    "python -m benchmarks loss": "tests/test_package.py",
    "make gpu": "tests/benchmarks/gpu",
    "make gpu SMALL=1": "tests/benchmarks/gpu",
    "make gpu WHEELS=folder": "no test: it needs a folder of wheels",
    "python -m benchmarks tune": "tests/benchmarks/core/test_kernels.py",
    "python -m benchmarks learning": "tests/benchmarks/learning/test_command.py",
    "python -m benchmarks learning --edition 2": "tests/benchmarks/learning/test_second.py",
}
PROGRAMS = (
    "accelerate",
    "axolotl",
    "llamafactory-cli",
    "lmf",
    "make",
    "megatron",
    "otr",
    "pip",
    "python",
    "swift",
    "trl",
)


def commands(text: str) -> Iterator[str]:
    """Code spans and lines of indented blocks that start with the name of a program."""
    lines = [line for block in INDENTED.findall(text) for line in block.splitlines()]
    for code in [*re.findall(r"`([^`\n]+)`", text), *lines]:
        words = code.split()
        if len(words) > 1 and words[0] in PROGRAMS and not words[1].startswith(("=", "→")):
            yield " ".join(words)


@by_page
def test_every_command_is_run_by_a_test_or_listed_with_the_reason(page):
    for command in commands(prose(page)):
        assert command in COMMANDS, f"{page}: {command}"


def test_no_command_is_listed_that_no_page_shows():
    shown = {command for page in PAGES for command in commands(prose(page))}
    assert COMMANDS.keys() - shown == set()


@pytest.mark.parametrize("test", sorted({test for test in COMMANDS.values() if not test.startswith("no test")}))
def test_the_tests_of_commands_exist(test):
    assert (ROOT / test).exists()


# Links


@by_page
def test_links_lead_to_files_and_headings(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (folder / file).resolve() if file else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if page.startswith("docs/"):
            assert path.is_relative_to(DOCS), f"{page}: {target}: the site has nothing outside docs/"
        if anchor:
            assert anchor in headings(path.read_text()), f"{page}: {target}"


def headings(text: str) -> set[str]:
    """The anchors that both GitHub and the site make of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_every_page_is_in_the_navigation():
    entries = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(entries) == sorted(path.name for path in DOCS.glob("*.md"))


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150
    assert "make test" in PAGES["README.md"]


# The tree of modules


def test_the_tree_lists_every_module_and_nothing_else():
    block = INDENTED.search(PAGES["docs/architecture.md"].split("## The tree")[1])[0]
    listed, folders = set(), [ROOT]
    for line in block.splitlines():
        level = (len(line) - len(line.lstrip())) // 2 - 2
        path = folders[level] / line.split()[0]
        folders[level + 1 :] = [path]
        if path.suffix:
            listed.add(path.relative_to(ROOT).as_posix())
    package = (path for path in (ROOT / "otr_plugin").rglob("*.py") if path.name != "__init__.py")
    modules = {path.relative_to(ROOT).as_posix() for path in package} | {"otr_plugin/loss/__init__.py"}
    assert sorted(listed - modules) == [], "listed, but not there"
    assert sorted(modules - listed) == [], "there, but not listed"


# Messages


class Messages(ast.NodeVisitor):
    """The texts of one module that can end up in an error or a warning, with … for what is not fixed.

    These are what is raised, with the arguments of a helper such as `_refuse(...)` in their places; what is warned of;
    f-strings of functions that are called to make a message; what is returned by functions that return a message or
    None; problems that are collected for one message; and any other text that begins with the package's prefix, or
    that has values and code in it.
    """

    PREFIX = re.compile(r"(otr|otr_loss|OTRConfig): ")

    def __init__(self, path: Path) -> None:
        self.found: dict[str, str] = {}
        self.path = path.relative_to(ROOT).as_posix()
        module = ast.parse(path.read_text())
        self.functions = {node.name: node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)}
        called = {node.func.id for node in ast.walk(module) if isinstance(node, ast.Call) and hasattr(node.func, "id")}
        self.calls_followed: set[tuple[str, frozenset[tuple[str, str]]]] = set()
        for name in self.functions.keys() - called:
            self.raised_by(name, {})
        self.visit(module)

    def add(self, node: ast.AST, values: dict[str, str]) -> None:
        for text in _texts(node, values):
            if len(re.findall("[A-Za-z]{2,}", text)) > 1:
                self.found[text] = f"{self.path}:{node.lineno}"

    def raised_by(self, name: str, values: dict[str, str]) -> None:
        """What a function raises, itself or through functions of its module, when it is called with these texts."""
        call = name, frozenset(values.items())
        if call in self.calls_followed:
            return
        self.calls_followed.add(call)
        for node in ast.walk(self.functions[name]):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                for argument in node.exc.args:
                    self.add(argument, values)
            called = getattr(getattr(node, "func", None), "id", "")
            if called in self.functions and called != name:  # a text that a function passes to itself grows for ever
                names = [argument.arg for argument in self.functions[called].args.args]
                texts = [next(iter(_texts(argument, values)), "…") for argument in node.args]
                self.raised_by(called, dict(zip(names, texts, strict=False)))

    def visit_Raise(self, node: ast.Raise) -> None:
        for call in ast.walk(node):
            maker = self.functions.get(getattr(getattr(call, "func", None), "id", ""))
            for part in ast.walk(maker) if maker is not None else ():
                if isinstance(part, ast.JoinedStr):
                    self.add(part, {})
        self.generic_visit(node)

    def visit_FunctionDef(self, function: ast.FunctionDef) -> None:
        returns = "" if function.returns is None else ast.unparse(function.returns)
        for node in ast.walk(function):
            if isinstance(node, ast.Return) and node.value is not None and returns in ("str", "str | None"):
                long = isinstance(node.value, ast.JoinedStr) and len(_texts(node.value, {})[0]) > 20
                if returns == "str | None" or (long and function.name != "describe"):
                    self.add(node.value, {})
        self.generic_visit(function)

    def visit_For(self, node: ast.For) -> None:
        if isinstance(node.iter, ast.Tuple):
            for row in node.iter.elts:
                self.add(row.elts[-1] if isinstance(row, ast.Tuple) else row, {})
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name, owner = getattr(node.func, "attr", ""), getattr(getattr(node.func, "value", None), "id", "")
        if name == "warn" or (owner, name) in (("problems", "append"), ("", "RecipeError")):
            self.add(node.args[0], {})
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        text = _texts(node, {})[0]
        if self.PREFIX.match(text) or ("`" in text and "\n" not in text and len(re.findall("[A-Za-z]{2,}", text)) > 4):
            self.add(node, {})

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and self.PREFIX.match(node.value):
            self.add(node, {})


def _texts(node: ast.AST, values: dict[str, str]) -> list[str]:
    """The texts that an expression can have, given the texts of some names."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.Name(id=name) | ast.FormattedValue(value=ast.Name(id=name)) if name in values:
            return [values[name]]
        case ast.JoinedStr(values=parts):
            return ["".join(next(iter(_texts(part, values)), "…") for part in parts)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return [a + b for a in _texts(left, values) or ["…"] for b in _texts(right, values) or ["…"]]
        case ast.List(elts=elements):
            return [text for element in elements for text in _texts(element, values)]
        case ast.IfExp(body=body, orelse=orelse):
            return _texts(body, values) + _texts(orelse, values)
    return []


def package_messages() -> dict[str, str]:
    """Every message of the package, and where it is."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "otr_plugin").rglob("*.py")):
        found |= Messages(path).found
    return found


MESSAGES = package_messages()
# The quotes of messages on the page: lines of a block quote that are one code span.
ENTRIES = [
    double or single
    for double, single in re.findall(
        r"^> (?:``[ ]?(.+?)[ ]?``|`([^`]+)`)$", PAGES["docs/troubleshooting.md"], re.MULTILINE
    )
]


def quotes(entry: str, message: str) -> bool:
    """Whether the entry is a part of the message; … stands for anything in both."""
    parts = [re.escape(part) for part in entry.split("…")]
    return re.search(".*?".join(parts), message) is not None


def test_messages_are_found():
    assert len(MESSAGES) > 60


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_is_explained(message):
    assert any(quotes(entry, message) for entry in ENTRIES), f"{MESSAGES[message]}: {message}"


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_explained_message_exists(entry):
    assert len(entry.replace("…", "").strip()) >= 12, "too short to be distinctive"
    assert any(quotes(entry, message) for message in MESSAGES)
