"""Hostile HTML changed in ways that readers of HTML disagree about."""

import re
from collections.abc import Callable
from random import Random

_CONTROLS = "\x00\x01\x08\t\n\x0b\x0c\r\x1f \x7f\x85\xa0\u2028\ufeff"
_PIECES = (
    *(
        "<svg>",
        "</svg>",
        "<math>",
        "</math>",
        "<mtext>",
        "<style>",
        "</style>",
        "<title>",
        "</title>",
        "<table>",
        "<td>",
    ),
    *(
        "<noscript>",
        "</noscript>",
        "<textarea>",
        "</textarea>",
        "<xmp>",
        "</xmp>",
        "<template>",
        "</template>",
        "<p>",
    ),
    *(
        "<select>",
        "<form>",
        "</form>",
        "<a href=x>",
        "</div>",
        "<!--",
        "-->",
        "--!>",
        "<!-->",
        "<![CDATA[",
        "]]>",
        "<?",
    ),
    *(
        '"',
        "'",
        "`",
        ">",
        "<",
        "/",
        "=",
        "&",
        "&#0;",
        "&lt;",
        "&quot;",
        "&Tab;",
        "\\",
        "/**/",
        "/*",
        "*/",
        ";",
        "}",
        "(",
    ),
)
_SPLIT = re.compile(r"(?=[<>\"'=:;(){}/ ])")


def mutated(html: str, random: Random) -> str:
    """`html` with one to four changes."""
    for _ in range(random.randint(1, 4)):
        html = random.choice(_CHANGES)(html, random)
    return html


def _insert(html: str, random: Random, what: str) -> str:
    at = random.randint(0, len(html))
    return html[:at] + what + html[at:]


def _control(html: str, random: Random) -> str:
    return _insert(html, random, random.choice(_CONTROLS))


def _control_in_scheme(html: str, random: Random) -> str:
    schemes = list(re.finditer(r"(?i)javascript|data|https?|url|position|margin|image", html))
    if not schemes:
        return _control(html, random)
    at = random.randint(*random.choice(schemes).span())
    return html[:at] + random.choice(_CONTROLS) + html[at:]


def _piece(html: str, random: Random) -> str:
    pieces = _SPLIT.split(html)
    pieces.insert(random.randint(0, len(pieces)), random.choice(_PIECES))
    return "".join(pieces)


def _without_a_piece(html: str, random: Random) -> str:
    pieces = _SPLIT.split(html)
    del pieces[random.randrange(len(pieces))]
    return "".join(pieces)


def _nested(html: str, random: Random) -> str:
    before, after = random.choice(_PIECES), random.choice(_PIECES)
    return f"{before}{html}{after}{html}"


def _reference(html: str, random: Random) -> str:
    if not html:
        return html
    at = random.randrange(len(html))
    return f"{html[:at]}&#{random.choice(('', '00'))}{ord(html[at])}{random.choice((';', ''))}{html[at + 1 :]}"


def _escape(html: str, random: Random) -> str:
    if not html:
        return html
    at = random.randrange(len(html))
    return f"{html[:at]}\\{ord(html[at]):x} {html[at + 1 :]}"


def _other_case(html: str, random: Random) -> str:
    # Not of the script, which would no longer run.
    parts = re.split(r"(top\.postMessage\(\d+,`\*`\))", html)
    return "".join(part if number % 2 else _in_any_case(part, random) for number, part in enumerate(parts))


def _in_any_case(text: str, random: Random) -> str:
    return "".join(random.choice((letter.upper(), letter.lower())) for letter in text)


def _doubled_tag(html: str, random: Random) -> str:
    return re.sub(r"<([a-z]+)", lambda tag: f"<{tag[1][:2]}<{tag[1]}>{tag[1][2:]}", html, count=random.randint(1, 2))


_CHANGES: tuple[Callable[[str, Random], str], ...] = (
    *(_control, _control_in_scheme, _piece, _without_a_piece, _nested),
    *(_reference, _escape, _other_case, _doubled_tag),
)
