"""How the documentation site is built: `make docs`.

The lessons are the READMEs of the stages. They are read when the site is built, and their links to source files become
links to the API reference. API pages and the configuration reference are made from the code.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import typing
from pathlib import Path
from typing import Any

from docstring_parser import parse
from sphinx.util import logging

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
STAGES = {
    0: ("groundwork", "groundwork"),  # below all stages; it has no lesson
    1: ("01_neural_networks", "neural_networks"),
    2: ("02_attention", "attention"),
    3: ("03_transformer", "transformer"),
    4: ("04_tokenizer", "tokenizer"),
    5: ("05_training", "training"),
    6: ("06_finetuning", "finetuning"),
    7: ("07_optimization", "optimization"),
    8: ("08_evaluation", "evaluation"),
    9: ("09_deployment", "deployment"),
}

# Files of the repository that have another name as pages of the site.
PAGES = {
    "README.md": "/index.md",
    "CONTRIBUTING.md": "/contributing.md",
    "exercises": "/exercises.md",
    "exercises/README.md": "/exercises.md",
    "05_training/is_my_loss_normal.md": "/is_my_loss_normal.md",
}

project = "nuLLM"
author = "the nuLLM authors"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
]
html_theme = "furo"
html_title = "nuLLM"
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["site.css"]
exclude_patterns = ["_build", "results/*.json"]
templates_path: list[str] = []

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_mock_imports = ["triton", "bitsandbytes", "lm_eval", "wandb"]
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "ignore-module-all": True,
    "exclude-members": "function",  # in stage 1's activations: an operation that is documented where it is defined
}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
add_module_names = False
copybutton_prompt_text = "$ "
suppress_warnings = ["misc.highlighting_failure"]  # output of programs is not a language

_COMMAND = re.compile(r"([A-Z_]+=\S+ )?(python|torchrun|make) [-\w./]")
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)(?=(\w?))")
_LESSON = re.compile(r"^<!-- lesson (\d) -->$", re.MULTILINE)
_MODULES = re.compile(r"^<!-- modules (\d) -->$", re.MULTILINE)
_FIELDS = re.compile(r"^<!-- configuration ([\w.]+) -->$", re.MULTILINE)
_INCLUDED = re.compile(r"^<!-- file ([\w./]+) -->$", re.MULTILINE)
_DOCSTRING_LINK = re.compile(r"\[(`[^`]+`)\]\([^)\s]+\)")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _read_source)
    app.connect("autodoc-process-docstring", _process_docstring)
    app.connect("autodoc-process-signature", _process_signature)


def _read_source(app: Any, docname: str, source: list[str]) -> None:
    """Insert the content that a page asks for with a comment."""
    text = rewrite_links(source[0], Path(app.env.doc2path(docname)).parent)
    for match in _LESSON.finditer(text):
        path = ROOT / STAGES[int(match[1])][0] / "README.md"
        app.env.note_dependency(str(path))
        text = text.replace(match[0], rewrite_links(path.read_text(encoding="utf-8"), path.parent))
    for match in _INCLUDED.finditer(text):
        path = ROOT / match[1]
        app.env.note_dependency(str(path))
        text = text.replace(match[0], rewrite_links(path.read_text(encoding="utf-8"), path.parent))
    for match in _MODULES.finditer(text):
        text = text.replace(match[0], _api_page(int(match[1])))
    for match in _FIELDS.finditer(text):
        text = text.replace(match[0], _configuration_table(match[1]))
    source[0] = text


def rewrite_links(text: str, folder: Path) -> str:
    """Change the links of a page that is stored elsewhere in the repository, so that they work on the site."""

    def rewrite(match: re.Match[str]) -> str:
        mark, label, target = match.groups()
        if re.match(r"[a-z]+:|#|/", target):
            return match[0]
        path, _, anchor = target.partition("#")
        found = (folder / path).resolve()
        if not found.exists():
            logger.warning("%s: the link to %s leads nowhere", folder.name, target)
            return label
        relative = found.relative_to(ROOT).as_posix()
        for number, (stage, package) in STAGES.items():
            if relative in (stage, f"{stage}/README.md"):
                return f"{mark}[{label}](/stages/{number}.md{'#' + anchor if anchor else ''})"
            if relative.startswith(f"{stage}/{package}/") and relative.endswith(".py"):
                module = relative.removeprefix(f"{stage}/").removesuffix(".py").replace("/", ".")
                return f"{{py:mod}}`{label.strip('`')} <{module}>`"
            if relative.startswith((f"{stage}/exercises", f"{stage}/labs")):
                return f"[{label}](/exercises.md)"
        if relative.startswith("docs/"):
            return f"{mark}[{label}](/{relative.removeprefix('docs/')}{'#' + anchor if anchor else ''})"
        if relative in PAGES:
            return f"[{label}]({PAGES[relative]})"
        return label  # a file of the repository that is not part of the site

    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)  # code stays as it is
    return "".join(part if index % 2 else _LINK.sub(rewrite, part) for index, part in enumerate(parts))


def _api_page(stage: int) -> str:
    """The names that a stage's package exports itself, and an entry for each of its modules."""
    folder, package = STAGES[stage]
    parts = [_front_door(package)] if stage else []
    for path in sorted((ROOT / folder / package).rglob("*.py")):
        if path.name == "__init__.py":
            continue
        module = ".".join(path.relative_to(ROOT / folder).with_suffix("").parts)
        parts.append(f"## {module.split('.', 1)[1]}\n\n```{{eval-rst}}\n.. automodule:: {module}\n```\n")
    return "\n".join(parts)


def _front_door(package: str) -> str:
    """The names of `from package import …`, each with the first line of its docstring and a link."""
    door = importlib.import_module(package)
    lines = [f"{door.__doc__}\n", f"What most programs need is imported from `{package}` itself:\n"]
    for name in door.__all__:
        value = getattr(door, name)
        home = getattr(value, "__module__", "")
        if not home.startswith(package):  # a constant or an alias of a type
            lines.append(f"- `{name}`")
            continue
        role = "class" if isinstance(value, type) else "func"
        summary = (value.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
        lines.append(f"- {{py:{role}}}`{name} <{home}.{name}>` — {' '.join(summary.split())}")
    return "\n".join(lines) + "\n"


def _configuration_table(name: str) -> str:
    """Fields of a configuration dataclass, nested ones with a prefix, as a definition list."""
    module, _, cls = name.rpartition(".")
    return "\n".join(_fields(getattr(__import__(module, fromlist=[cls]), cls), ""))


def _fields(config: type, prefix: str) -> list[str]:
    described = {parameter.arg_name: parameter.description or "" for parameter in parse(config.__doc__ or "").params}
    hints = typing.get_type_hints(config)
    entries = []
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        text = " ".join(described.get(field.name, "").split())
        inner = [part for part in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(part)]
        if inner:
            kind = "a section" if dataclasses.is_dataclass(hint) else "null, or a section"
            entries += [f"`{prefix}{field.name}` ({kind})\n: {text}\n", *_fields(inner[0], f"{prefix}{field.name}.")]
            continue
        default = field.default
        if default is dataclasses.MISSING:
            default = field.default_factory() if field.default_factory is not dataclasses.MISSING else ""
        entries.append(f"`{prefix}{field.name}` ({_type_name(hint)}; default `{_yaml(default)}`)\n: {text}\n")
    return entries


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(f"`{value}`" for value in typing.get_args(hint))
    name = str(hint) if typing.get_args(hint) else getattr(hint, "__name__", str(hint))
    return name.replace("typing.", "").replace(" | None", " or null")


def _yaml(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _process_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Convert docstrings, which are written for people who read the source, into the syntax of docutils.

    Single backticks are code, a bar is a bar, and an indented block is shown without change.
    """
    out: list[str] = []
    margin: int | None = None  # margin of the text around the current indented block
    before = 0  # indentation of the last line of text
    for index, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        command = what == "module" and _COMMAND.match(line) is not None
        if margin is None and what == "module" and index and not lines[index - 1].strip():
            if line.strip() and (indent >= before + 4 or command):
                margin = 0 if command else before
                out += [" " * margin + "::", ""]
        elif margin is not None and line.strip() and indent <= margin and not command:
            margin = None
            if out[-1].strip():
                out.append("")
        if margin is None:
            before = indent if line.strip() else before
            if not line.lstrip().startswith(">>>"):
                line = _DOCSTRING_LINK.sub(r"\1", line)
                line = _CODE.sub(lambda m: f"``{m[1]}``" + ("\\ " if m[2] else ""), line).replace("|", "\\|")
        out.append(f"    {line}" if margin == 0 and line.strip() and indent == 0 else line)
    lines[:] = out


def _process_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Hide the signature of a protocol. Nobody constructs one, so `(*args, **kwargs)` would only disturb."""
    return (None if what == "class" and getattr(obj, "_is_protocol", False) else signature), returns
