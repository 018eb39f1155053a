"""Parses the command lines of main, plan and experiment, which take a config."""

import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

HELP = {
    f"{dashes}{name}" for dashes in ("-", "--") for name in ("help", "h", "helpshort", "helpfull")
}
PATHS = ("source", "key", "dir", "data_dir", "init_from")
"""Fields of configs that may hold the name of a person or a folder: nothing repeats them."""

WANTED = {
    bool: "give true or false",
    int: "give a whole number",
    float: "give a number",
    tuple: "give values with commas between",
    ConfigDict: "give its fields one by one",
}
_ERRORS = (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError)


def parse(argv: list[str]) -> list[str]:
    """Parses flags with absl and returns the program's name.

    --help prints the program's description and flags, and ends the process with status 0. An
    unknown field, a value of another type or an argument that is no flag ends it with one line on
    standard error, which names the flag as typed, and status 2.
    """
    if HELP & set(argv[1:]):
        print(_help())
        sys.exit(0)
    try:
        arguments = flags.FLAGS(argv)
        flags.FLAGS.config.lock()  # a file that can't be read fails here, at its first use
    except _ERRORS as error:
        _fail(_reason(argv, error))
    if len(arguments) > 1:
        position = argv.index(arguments[1], 1)  # not the word: it may be half of a name
        _fail(f"argument {position} is no flag: flags start with --, and spaces need quotes")
    return arguments


def shown(word: str, meant: str = "") -> str:
    """A flag as typed; the value of a field that may hold a name, or of any path, is PATH.

    meant: the field that the flag probably means.
    """
    name, equals, value = word.partition("=")
    if not equals:
        return word
    hidden = is_private(name, value) or is_private(meant, value)
    return f"{name}={'PATH' if hidden else value}"


def is_private(field: str, value: str) -> bool:
    """Whether the value of a dotted field is not to be repeated: it is, or may be, a path."""
    of_path = field.rsplit(".", 1)[-1] in PATHS
    return of_path or "/" in value or "\\" in value or value.startswith("~")


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _help() -> str:
    """The program's docstring, which holds an example, and its flags."""
    lines = [(sys.modules["__main__"].__doc__ or "").strip(), "", "Flags:"]
    for flag in _own_flags():
        default = f" (default {flag.default})" if flag.default not in (None, "") else ""
        name = f"[no]{flag.name}" if flag.boolean else flag.name
        lines.append(f"  --{name}: {flag.help}{default}")
    lines.append("  --help: Print this text.")
    return "\n".join(lines)


def _own_flags() -> list[flags.Flag]:
    """The flags of the program itself; libraries define others in the same place."""
    by_module = flags.FLAGS.flags_by_module_dict()
    own = [
        module
        for module in by_module
        if module in (sys.argv[0], "__main__") or module.startswith("dtvit_jax.")
    ]
    return [flag for module in own for flag in by_module[module]]


def _reason(argv: Sequence[str], error: Exception) -> str:
    """Says which word of the command line is wrong, and how to mend it."""
    words = argv[1:]
    files = [i for i, word in enumerate(words) if re.match(r"--?config(=|$)", word)]
    if not files:
        return "--config is missing: give --config=FILE, such as --config=configs/vit_l.py"
    last = files[-1]  # which absl takes
    file = words[last : last + 1] if "=" in words[last] else words[last : last + 2]
    try:
        config = _loaded(file)
    except _ERRORS as failure:
        return _of_file(failure)
    for position, flag, field in _overrides(words):
        if position < files[0]:
            return f"{shown(flag[0])}: give --config before it"
        absent, meant = _absent(config, field)
        if absent:
            return f"{shown(flag[0], meant)}: {absent}"
        try:
            _loaded([*file, *flag])
        except _ERRORS:
            return f"{shown(flag[0])}: {_wanted(config, field)}"
    if isinstance(error, flags.UnrecognizedFlagError):
        names = [flag.name for flag in _own_flags()]
        typed = next((w for w in words if w.lstrip("-").split("=")[0] == error.flagname), "")
        close = difflib.get_close_matches(error.flagname, names, 1)
        end = f"did you mean --{close[0]}?" if close else "see --help"
        return f"{shown(typed) or '--' + error.flagname}: no such flag; {end}"
    message = _one_line(error)
    missing = re.search(r"Flag --(\w+) must have a value other than None", message)
    if missing:
        return f"--{missing[1]} is missing: see --help"
    for word in words:
        if shown(word) != word:
            message = message.replace(word.partition("=")[2], "PATH")
    return message.removeprefix("flag ")


def _loaded(words: Sequence[str]) -> ConfigDict:
    """The config that these words alone make."""
    values, argv = flags.FlagValues(), ["program", *words]
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
    values(argv)
    values.config.lock()
    return values.config


def _of_file(error: Exception) -> str:
    message = _one_line(error)
    if "Failed loading config file" in message and "No such file" in message:
        return "--config names a file that does not exist"
    last = [line.strip() for line in str(error).splitlines() if line.strip()][-1:]
    return f"--config: the file can't be used ({''.join(last) or type(error).__name__})"


def _one_line(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split())


def _overrides(words: Sequence[str]) -> Iterator[tuple[int, list[str], str]]:
    """Position, words and dotted name of each field that is set on the command line."""
    for i, word in enumerate(words):
        match = re.match(r"--?(?:no)?config\.([^=]+)", word)
        if match:
            value = words[i + 1 : i + 2] if "=" not in word else []
            yield i, [word, *(v for v in value if not v.startswith("-"))], match[1]


def _absent(config: ConfigDict, field: str) -> tuple[str, str]:
    """What is wrong with a dotted name, and which one was probably meant; empty for nothing."""
    value: Any = config
    parents = "config"
    for name in field.split("."):
        if not isinstance(value, ConfigDict):
            return f"{parents} is a value without fields", ""
        if name not in value:
            close = _closest(field, name, list(_fields(config)))
            end = f"; did you mean {close}?" if close else "; see the config file"
            return f"{parents} has no field {name!r}{end}", close
        value, parents = value[name], f"{parents}.{name}"
    return "", ""


def _closest(field: str, name: str, fields: Sequence[str]) -> str:
    """The field with these initials, this last name or a similar one; empty: none is near."""
    last = field.rsplit(".", 1)[-1]
    for candidate in fields:
        leaf = candidate.rsplit(".", 1)[-1]
        if last == leaf or last == "".join(word[:1] for word in leaf.split("_")):
            return candidate
    parent = field[: field.index(name)]
    siblings = [candidate for candidate in fields if candidate.startswith(parent)]
    leaves = {candidate.rsplit(".", 1)[-1]: candidate for candidate in reversed(fields)}
    close = difflib.get_close_matches(parent + name, siblings, 1, 0.5) or [
        leaves[leaf] for leaf in difflib.get_close_matches(name, leaves, 1)
    ]
    return close[0] if close else ""


def _fields(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        yield prefix + name
        if isinstance(value, ConfigDict):
            yield from _fields(value, f"{prefix}{name}.")


def _wanted(config: ConfigDict, field: str) -> str:
    """How to give a value of the field's type."""
    value: Any = config
    for name in field.split("."):
        value = value[name]
    kind = next((kind for kind in WANTED if type(value) is kind or isinstance(value, kind)), None)
    return WANTED[kind] if kind else f"give a value of the kind {type(value).__name__}"
