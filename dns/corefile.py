"""The Corefile: text → server blocks with their plugins' lines, as CoreDNS (Caddy) reads it.

    (snippet) { ... }            import snippet, import FILE-GLOB
    ZONE[:PORT] CIDR ... {       # comment
        plugin arg "quoted arg" {$ENVIRONMENT} {
            option arg
        }
    }

Syntax only: what a plugin's line means is the plugin's affair. Every complaint names file and line in CoreDNS's
words, so that an operator finds it where he looked for it before.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from dns.names import BadName, fqdn, to_wire, zones_of_cidr

MAX_IMPORTS = 100
_TRANSPORTS_LATER = ("tls", "https", "grpc", "quic", "https3")


class CorefileError(ValueError):
    """A Corefile that cannot be used; the text is for the operator and names file and line."""


class Token(msgspec.Struct, frozen=True):
    """A word and where it stands."""

    text: str
    file: str
    line: int
    quoted: bool = False

    def wrong(self, message: str) -> CorefileError:
        """Return an error at this place, in Caddy's words."""
        return CorefileError(f"{self.file}:{self.line} - Error during parsing: {message}")


class Directive(msgspec.Struct, frozen=True):
    """A line: a plugin or an option of one, with what stands in its braces."""

    word: Token
    args: tuple[str, ...] = ()
    block: tuple["Directive", ...] = ()

    @property
    def name(self) -> str:
        """The first word of the line."""
        return self.word.text

    def wrong(self, message: str) -> CorefileError:
        """Return an error about this line."""
        return self.word.wrong(message)

    def one_arg(self) -> str:
        """Return the only argument. Raises CorefileError when there is none or more than one."""
        if len(self.args) != 1:
            raise self.wrong(f"wrong argument count or unexpected line ending after '{self.name}'")
        return self.args[0]


class ServerBlock(msgspec.Struct, frozen=True):
    """A block: the (zone, port) pairs that it serves and its plugins' lines."""

    zones: tuple[tuple[str, int], ...]
    directives: tuple[Directive, ...]
    where: Token


def parse(text: str, *, file: str, environment: Mapping[str, str], default_port: int = 53) -> list[ServerBlock]:
    """Parse a Corefile. Raises CorefileError."""
    return _Parser(file, environment, default_port).parse(text)


def tokens(text: str, file: str) -> list[Token]:
    """Split a text into words. Raises CorefileError for a quote that does not end."""
    found = []
    for match in _WORD.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["open"] is not None:
            raise Token("", file, line).wrong("quoted string does not end")
        if match["quoted"] is not None:
            word = re.sub(r'\\(["\\])', r"\1", match["quoted"])
            found.append(Token(word, file, line, quoted=True))
        elif match["word"] is not None:
            found.append(Token(match["word"], file, line))
    return found


_WORD = re.compile(r'(?P<comment>#[^\n]*)|"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<open>")|(?P<word>\S+)', re.DOTALL)
_KEY = re.compile(r"(?:(?P<cidr>[^/]+/\d+)|(?P<zone>[^:/]*))(?::(?P<port>[^:]*))?")
_VARIABLE = re.compile(r"\{\$(\w+)\}|\{%(\w+)%\}")


class _Parser:
    def __init__(self, file: str, environment: Mapping[str, str], default_port: int) -> None:
        self._file = file
        self._environment = environment
        self._default_port = default_port
        self._snippets: dict[str, list[Token]] = {}
        self._imports = 0

    def parse(self, text: str) -> list[ServerBlock]:
        words = [self._expanded(token) for token in tokens(text, self._file)]
        blocks = []
        at = 0
        while at < len(words):
            first = words[at]
            if first.text == "import":
                if at + 1 == len(words):
                    raise first.wrong("wrong argument count or unexpected line ending after 'import'")
                words[at : at + 2] = self._imported(words[at + 1])
                continue
            keys, at = self._keys(words, at)
            body, at = self._body(words, at, keys[-1])
            snippet = re.fullmatch(r"\(([^()]+)\)", first.text)
            if snippet is not None and len(keys) == 1:
                if snippet[1] in self._snippets:
                    raise first.wrong(f"redeclaration of previously declared snippet {snippet[1]}")
                self._snippets[snippet[1]] = body
                continue
            zones = tuple(pair for key in keys for pair in self._zones(key))
            blocks.append(ServerBlock(zones, tuple(self._directives(body)), first))
        return blocks

    def _expanded(self, token: Token) -> Token:
        text = _VARIABLE.sub(lambda match: self._environment.get(match[1] or match[2], ""), token.text)
        return msgspec.structs.replace(token, text=text)

    def _keys(self, words: list[Token], at: int) -> tuple[list[Token], int]:
        keys: list[Token] = []
        while at < len(words) and (words[at].quoted or words[at].text != "{"):
            token = words[at]
            if token.text == "}" and not token.quoted:
                raise token.wrong("unexpected '}' because no matching opening brace")
            if keys and token.line != keys[-1].line and not keys[-1].text.endswith(","):
                break  # Only a Corefile with one block and no braces puts plugins here; we ask for the braces.
            keys.append(token)
            at += 1
        if not keys:
            raise words[at].wrong("unexpected '{': no zone before it")
        return keys, at

    def _body(self, words: list[Token], at: int, last: Token) -> tuple[list[Token], int]:
        if at >= len(words) or words[at].text != "{" or words[at].quoted:
            raise last.wrong(f"expected '{{' after '{last.text}'")
        if at + 1 < len(words) and words[at + 1].line == words[at].line:
            raise words[at].wrong("unexpected token after '{' on the same line")
        depth, start = 1, at + 1
        for end in range(start, len(words)):
            if not words[end].quoted:
                depth += (words[end].text == "{") - (words[end].text == "}")
            if not depth:
                return words[start:end], end + 1
        raise words[-1].wrong("unexpected EOF, missing '}'")

    def _directives(self, body: list[Token]) -> Iterator[Directive]:
        body = list(body)
        at = 0
        while at < len(body):
            word = body[at]
            line = at + 1
            while line < len(body) and body[line].line == word.line and body[line].file == word.file:
                if body[line].text in "{}" and not body[line].quoted:
                    break
                line += 1
            args = tuple(token.text for token in body[at + 1 : line])
            if word.text == "import" and not word.quoted:
                if len(args) != 1:
                    raise word.wrong("wrong argument count or unexpected line ending after 'import'")
                body[at:line] = self._imported(body[at + 1])
                continue
            if word.text in ("{", "}") and not word.quoted:
                raise word.wrong(f"unexpected '{word.text}'")
            block: tuple[Directive, ...] = ()
            if line < len(body) and body[line].text == "{" and body[line].line == word.line:
                inner, line = self._body(body, line, word)
                block = tuple(self._directives(inner))
            yield Directive(word, args, block)
            at = line

    def _imported(self, pattern: Token) -> list[Token]:
        self._imports += 1
        if self._imports > MAX_IMPORTS:
            raise pattern.wrong(f"more than {MAX_IMPORTS} imports: one imports itself")
        if pattern.text in self._snippets:
            return list(self._snippets[pattern.text])
        folder = Path(self._file).parent
        paths = [Path(pattern.text)] if Path(pattern.text).is_absolute() else sorted(folder.glob(pattern.text))
        found = []
        for path in paths:
            try:
                text = path.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise pattern.wrong(f"could not import {path}: {error}") from None
            found += [self._expanded(token) for token in tokens(text, str(path))]
        if not paths and not re.search(r"[*?\[]", pattern.text):
            raise pattern.wrong(f"file to import not found: {pattern.text}")
        return found

    def _zones(self, key: Token) -> list[tuple[str, int]]:
        text = key.text.rstrip(",")
        transport, separator, rest = text.partition("://")
        if separator:
            if transport in _TRANSPORTS_LATER:
                raise key.wrong(f"transport '{transport}' is not built yet; dns:// is")
            if transport != "dns":
                raise key.wrong(f"unknown transport '{transport}'")
            text = rest
        match = _KEY.fullmatch(text)
        if match is None:
            raise key.wrong(f"'{text[:80]}' is no zone")
        zone, digits = match["cidr"] or match["zone"] or "", match["port"] or str(self._default_port)
        if not (digits.isascii() and digits.isdigit() and 0 < int(digits) < 65536):
            raise key.wrong(f"'{digits[:20]}' is no port")
        return [(name, int(digits)) for name in zone_names(zone, key)]


def zone_names(text: str, where: Token) -> list[str]:
    """Return the zones that a word names: itself, or the reverse zones of a CIDR. Raises CorefileError."""
    try:
        if "/" in text:
            return zones_of_cidr(text)
        zone = fqdn(text or ".")
        to_wire(zone)
    except BadName as error:
        raise where.wrong(str(error)) from None
    except ValueError:
        raise where.wrong(f"'{text[:80]}' is no CIDR") from None
    return [zone]
