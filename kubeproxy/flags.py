"""Command lines as Go programs take them.

kube-proxy uses pflag (`--name=value`, `--name value`, `--flag`, `-v=4`, `_` for `-`), flanneld and CoreDNS
Go's own flag package (`-name` and `--name` alike). argparse knows neither grammar, abbreviates, and swallows
the `false` of `--flag false`; so the line is read here, refusing what Go refuses in Go's words, and argparse
only lays out `--help`.

A program's flags are one table of `Flag` rows: parsing, defaults and `--help` come from it.
"""

import argparse
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class FlagError(ValueError):
    """A command line that the program refuses; the text is for the user."""


class Style(Enum):
    """Whose grammar a program's command line follows."""

    PFLAG = "pflag"
    GO = "go"


class Flag(msgspec.Struct, frozen=True):
    """One flag. ``kind`` turns the text into the value and raises ValueError for what it does not take."""

    name: str
    kind: Callable[[str], Any]
    default: Any
    help: str
    alias: str = ""
    repeatable: bool = False
    """May be given several times; the value is then a tuple of all."""
    bare: str = ""
    """The text that is meant when the flag stands without one; then `--flag TEXT` is no way to give it one."""
    deprecated: str = ""
    """What to use instead: it works, is warned about, and `--help` leaves it out."""

    @property
    def is_bool(self) -> bool:
        """Whether the flag is a switch."""
        return self.kind is boolean


def boolean(text: str) -> bool:
    """Parse what Go's strconv.ParseBool takes."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


LONGEST_DURATION = (2**63 - 1) / 1e9
"""Seconds: Go counts nanoseconds in 64 bits, with a sign."""

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> float:
    """Parse a Go duration such as `1m30s` into seconds."""
    if text in ("0", "+0", "-0"):
        return 0.0
    sign, body = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    seconds, end = 0.0, 0
    for part in re.finditer(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)", body):
        if part.start() != end:
            break
        seconds += float(part[1]) * _UNITS[part[2]]
        end = part.end()
    if not body or end != len(body):
        missing = bool(re.fullmatch(r"\d+\.?\d*", body))
        raise ValueError(f'time: {"missing unit in" if missing else "invalid"} duration "{text}"')
    if seconds > LONGEST_DURATION:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * seconds


def comma_list(text: str) -> tuple[str, ...]:
    """Parse `a,b,c`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def integer(text: str) -> int:
    """Parse a decimal integer."""
    if not re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


def int32(text: str) -> int:
    """Parse a decimal integer that fits 32 bits with a sign."""
    value = integer(text)
    if not -(2**31) <= value < 2**31:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": value out of range')
    return value


def number(text: str) -> float:
    """Parse a decimal number."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
        raise ValueError(f'strconv.ParseFloat: parsing "{text}": invalid syntax')
    return float(text)


def go_duration(seconds: float) -> str:
    """Return what Go prints for a duration: `15m0s`, `1.5s`, `250ms`."""
    nanoseconds = round(abs(seconds) * 1e9)
    sign = "-" if seconds < 0 and nanoseconds else ""
    if nanoseconds == 0:
        return "0s"
    for size, unit in ((1, "ns"), (10**3, "µs"), (10**6, "ms")):
        if nanoseconds < size * 1000:
            return f"{sign}{_decimal(nanoseconds, size)}{unit}"
    text = ""
    for size, unit in ((3600 * 10**9, "h"), (60 * 10**9, "m")):
        if nanoseconds >= size or text:
            text += f"{nanoseconds // size}{unit}"
            nanoseconds %= size
    return f"{sign}{text}{_decimal(nanoseconds, 10**9)}s"


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    fraction = str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)


def flag_value(value: Any) -> str:
    """Return a flag's value as pflag prints it, in `--help` and for others to read."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ",".join(f"{name}={flag_value(each)}" for name, each in sorted(value.items()))
    if isinstance(value, tuple):
        return f"[{','.join(map(flag_value, value))}]"
    if type(value) is float and value.is_integer():
        return str(int(value))
    return str(value)


class Values(dict[str, Any]):
    """A command line, read: {flag name: value}, defaults included."""

    def __init__(self, values: Mapping[str, Any], given: Collection[str] = ()) -> None:
        super().__init__(values)
        self.given = frozenset(given)
        """The flags that stood on the line."""


_KINDS: Mapping[Callable[[str], Any], str] = {
    boolean: "",
    integer: "int",
    int32: "int",
    number: "number",
    duration: "duration",
    comma_list: "list",
}
"""What `--help` calls values; others are strings."""


class _HelpFormatter(argparse.HelpFormatter):
    """Lays flags out as pflag does: `-o, --output string`."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return f"{', '.join(action.option_strings)} {action.metavar or ''}".rstrip()


class CommandLine:
    """A program's flag table, ready to parse.

    With ``environment_prefix`` a flag is also read from the environment (`FLANNELD_ETCD_PREFIX` for
    etcd-prefix); the command line wins. Names in ``not_built`` are known and refused as such. With ``arguments``,
    which `--help` shows, words that are no flags may stand anywhere and are the value "arguments".
    """

    def __init__(
        self,
        program: str,
        description: str,
        flags: Sequence[Flag],
        style: Style = Style.PFLAG,
        *,
        environment_prefix: str = "",
        not_built: Collection[str] = (),
        arguments: str = "",
    ) -> None:
        self._style = style
        self._environment_prefix = environment_prefix
        self._not_built = frozenset(not_built)
        self._flags = {flag.name: flag for flag in flags} | {flag.alias: flag for flag in flags if flag.alias}
        self._defaults = {flag.name: flag.default for flag in flags}
        usage = f"%(prog)s {arguments.replace('%', '%%')} [flags]" if arguments else "%(prog)s [flags]"
        self._help = argparse.ArgumentParser(
            prog=program, description=description, usage=usage, formatter_class=_HelpFormatter
        )
        self._takes_arguments = bool(arguments)
        for flag in flags:
            if flag.deprecated:
                continue
            names = sorted(filter(None, (flag.name, flag.alias)), key=lambda name: len(name) > 1)
            dashed = [f"-{name}" if len(name) == 1 else f"--{name}" for name in names]
            text = flag.help.replace("%", "%%")
            default = "" if flag.default in (None, False) else flag_value(flag.default)
            if default not in ("", "[]"):
                text += f" (default {default.replace('%', '%%')})"
            self._help.add_argument(*dashed, help=text, metavar=_KINDS.get(flag.kind, "string"))

    def parse(self, argv: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})) -> Values:
        """Return what the line says. Raises FlagError; `--help` prints and exits with 0."""
        values = self._defaults | (self._from(environment) if self._environment_prefix else {})
        given: set[str] = set()
        rest = list(argv)
        words: list[str] = []
        while rest:
            word = rest.pop(0)
            if self._takes_arguments and not word.startswith("-"):
                words.append(word)
                continue
            if not word.startswith("-") or word in ("-", "--"):
                raise FlagError(f"unexpected argument: {word!r}")
            flag, text = self._next(word, rest)
            value = self._value(flag, word, text)
            if flag.repeatable:
                value = (*(values[flag.name] if flag.name in given else ()), value)
            values[flag.name] = value
            if flag.deprecated and flag.name not in given:
                print(f"Flag --{flag.name} has been deprecated, {flag.deprecated}", file=sys.stderr)
            given.add(flag.name)
        return Values(values | {"arguments": tuple(words)} if self._takes_arguments else values, given)

    def _next(self, word: str, rest: list[str]) -> tuple[Flag, str]:
        """Return a word's flag and its text, which may be the next word."""
        name, given, text = self._split(word)
        if name in ("help", "h"):
            self._help.print_help()
            raise SystemExit(0)
        flag = self._flags.get(name)
        if flag is None:
            raise FlagError(self._unknown(word, name))
        if given:
            return flag, text
        if flag.is_bool or flag.bare:
            return flag, flag.bare or "true"
        if not rest:
            raise FlagError(f"flag needs an argument: {word}")
        return flag, rest.pop(0)

    def _from(self, environment: Mapping[str, str]) -> dict[str, Any]:
        found = {}
        for name in (*self._defaults, *self._not_built):
            variable = self._environment_prefix + name.replace("-", "_").upper()
            text = environment.get(variable)
            if text is None:
                continue
            if name in self._not_built:
                raise FlagError(f"{variable} is set, and flag -{name} is not built yet")
            value = self._value(self._flags[name], variable, text)
            found[name] = (value,) if self._flags[name].repeatable else value
        return found

    def parse_or_exit(
        self,
        argv: Sequence[str],
        check: Callable[[Values], T],
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> T:
        """Parse and let ``check`` make the options, ending the program as Go's does on a FlagError of either.

        The message goes to stderr; the status is 1 (pflag) or 2 (Go's flag package).
        """
        try:
            return check(self.parse(argv, environment))
        except FlagError as error:
            prefix = "Error: " if self._style is Style.PFLAG else ""
            print(f"{prefix}{error}", file=sys.stderr)
            print(f"Run '{self._help.prog} --help' for the flags it takes.", file=sys.stderr)
            raise SystemExit(1 if self._style is Style.PFLAG else 2) from None

    def _value(self, flag: Flag, word: str, text: str) -> Any:
        try:
            return flag.kind(text)
        except ValueError as error:
            if self._style is Style.GO:
                message = f'invalid value "{text}" for flag -{flag.name}: {error}'
            else:
                message = f'invalid argument "{text}" for "{word.partition("=")[0]}" flag: {error}'
            raise FlagError(message) from None

    def _split(self, word: str) -> tuple[str, bool, str]:
        if self._style is Style.PFLAG and not word.startswith("--"):
            # A shorthand is one letter; its value may be glued on: -v4, -v=4.
            letter, tail = word[1], word[2:]
            return letter, bool(tail), tail.removeprefix("=")
        name, equals, value = word.lstrip("-").partition("=")
        if self._style is Style.PFLAG:
            name = name.replace("_", "-")
        return name, bool(equals), value

    def _unknown(self, word: str, name: str) -> str:
        if name in self._not_built:
            return f"flag -{name} is not built yet"
        if self._style is Style.GO:
            return f"flag provided but not defined: -{name}"
        if not word.startswith("--"):
            return f"unknown shorthand flag: {name!r} in {word}"
        return f"unknown flag: --{name}"
