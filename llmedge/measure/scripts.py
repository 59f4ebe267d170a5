"""Which script a character belongs to, which a language is written in, and how much of a text.

Python knows a character's name and category but not its script. The table holds the scripts of the
languages that can be kept, and the two that belong to none: `Common` (digits, punctuation, symbols,
emoji) and `Inherited` (combining marks, joiners).

Source: Unicode 17, Scripts.txt, property `Script`.
"""

from __future__ import annotations

import functools
import unicodedata
from bisect import bisect_right
from typing import TYPE_CHECKING

from llmedge.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

COMMON = "Common"
_SHARED = (COMMON, "Inherited")
_UNNAMED = ("Cn", "Co", "Cs")  # not assigned (in this Python's Unicode), private, surrogate
_TELLING = 5  # letters of a second word: `HIEROGLYPH A001` is of the `Hieroglyphs`
# Where a character's name does not begin with its script's one word. Words before it are shapes:
# `HALFWIDTH KATAKANA LETTER A`.
_SHAPES = frozenset(
    [
        "CIRCLED",
        "COMBINING",
        "HALFWIDTH",
        "PARENTHESIZED",
        "VERTICAL",
        "MODIFIER",
        "LETTER",
        "LEFT-FACING",
        "RIGHT-FACING",
    ]
)
_SCRIPTS_OF_WORDS = {
    **dict.fromkeys(("CJK", "HANGZHOU", "IDEOGRAPHIC", "KANGXI", "VIETNAMESE", "OLD"), "Han"),
    "HENTAIGANA": "Hiragana",
    "SQUARE": "Katakana",
    "SLAVONIC": "Cyrillic",
    "KOREAN": "Hangul",
    "YIN": "Bopomofo",
    "YANG": "Bopomofo",
    **dict.fromkeys(("LARGE", "SMALL", "TINY"), "Avestan"),
    "UNKNOWN": "Tangut",  # its ideographs have no names in Python
}
_SCRIPTS_OF_MORE_WORDS = (
    *("Anatolian Hieroglyphs", "Bassa Vah", "Canadian Aboriginal", "Caucasian Albanian"),
    *("Dives Akuru", "Egyptian Hieroglyphs", "Gunjala Gondi", "Hanifi Rohingya"),
    *("Imperial Aramaic", "Inscriptional Pahlavi", "Inscriptional Parthian", "Kayah Li"),
    *("Khitan Small Script", "Linear A", "Linear B", "Masaram Gondi", "Meetei Mayek"),
    *("Mende Kikakui", "Meroitic Cursive", "Meroitic Hieroglyphs", "New Tai Lue"),
    *("Nyiakeng Puachue Hmong", "Ol Chiki", "Old Hungarian", "Old Italic", "Old North Arabian"),
    *("Old Permic", "Old Persian", "Old Sogdian", "Old South Arabian", "Old Turkic"),
    *("Old Uyghur", "Pahawh Hmong", "Pau Cin Hau", "Psalter Pahlavi", "Sora Sompeng"),
    *("Syloti Nagri", "Tai Le", "Tai Tham", "Tai Viet", "Warang Citi", "Zanabazar Square"),
)

SCRIPTS: Mapping[str, tuple[str, ...]] = {
    "en": ("Latin",),
    "hi": ("Devanagari",),
    "hi-Latn": ("Latin",),
    "mr": ("Devanagari",),
    "bn": ("Bengali",),
    "ta": ("Tamil",),
    "te": ("Telugu",),
    "kn": ("Kannada",),
    "ml": ("Malayalam",),
    "gu": ("Gujarati",),
    "pa": ("Gurmukhi",),
    "or": ("Oriya",),
    "ur": ("Arabic",),
    "code": ("Latin",),
    "maths": ("Latin", "Greek"),
}


def scripts_of(languages: Sequence[str]) -> frozenset[str]:
    """Return the scripts that languages are written in.

    Raises:
        UsageError: A language is not known, or none is given.
    """
    for language in languages:
        if language not in SCRIPTS:
            raise UsageError(
                f"the scripts of language {language!r} are not known",
                f"known: {', '.join(SCRIPTS)}",
            )
    if not languages:
        raise UsageError("no language is given", "--lang en,hi")
    return frozenset(script for language in languages for script in SCRIPTS[language])


def find_scripts(text: str) -> frozenset[str]:
    """Return the scripts of a text; empty for one of digits, punctuation and the like alone."""
    return frozenset(script_of(char) for char in text) - {COMMON}


def script_share(text: str, scripts: Collection[str]) -> float | None:
    """Return the share of a text's letters that belong to these scripts; `None` without letters.

    Digits, punctuation, emoji and the signs that hang on an Indic letter are not counted: a share
    does not depend on how many signs its letters carry.
    """
    letters = [char for char in text if unicodedata.category(char).startswith("L")]
    found = [script for script in map(script_of, letters) if script != COMMON]
    return sum(script in scripts for script in found) / len(found) if found else None


@functools.lru_cache(maxsize=1 << 17)
def script_of(char: str) -> str:
    """Return a character's script; `Common` where it belongs to none, or is not assigned.

    Outside the table it is found by how the character's name begins.
    """
    starts, ends, names = _table()
    at = bisect_right(starts, ord(char)) - 1
    if at >= 0 and ord(char) <= ends[at]:
        return COMMON if names[at] in _SHARED else names[at]
    if unicodedata.category(char) in _UNNAMED:
        return COMMON
    return _script_of_name(unicodedata.name(char, "UNKNOWN"))


def _script_of_name(name: str) -> str:
    """Return the script that a character's name speaks of.

    Source: Unicode, Scripts.txt, which says the same of all characters outside the table but one,
    `SQUARE HIRAGANA HOKA`.
    """
    words = name.split()
    while len(words) > 1 and words[0] in _SHAPES:
        del words[0]
    named = [script for script in _SCRIPTS_OF_MORE_WORDS if script.upper().split()[0] == words[0]]
    for script in named:
        if len(named) == 1 or words[1].startswith(script.upper().split()[1][:_TELLING]):
            return script
    return _SCRIPTS_OF_WORDS.get(words[0], words[0].title())


@functools.cache
def _table() -> tuple[list[int], list[int], list[str]]:
    rows: list[tuple[int, int, str]] = []
    for script, ranges in _RANGES.items():
        for part in ranges.split():
            first, _, last = part.partition("-")
            rows.append((int(first, 16), int(last or first, 16), script))
    rows.sort()
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


_RANGES = {
    "Arabic": """
        600-604 606-60B 60D-61A 61C-61E 620-63F 641-64A 656-66F 671-6DC 6DE-6FF 750-77F 870-891
        897-8E1 8E3-8FF FB50-FD3D FD40-FDCF FDF0-FDFF FE70-FE74 FE76-FEFC 10E60-10E7E
        10EC2-10EC7 10EC9-10EEE 10EF0-10EFF 1EE00-1EE03 1EE05-1EE1F 1EE21-1EE22 1EE24 1EE27
        1EE29-1EE32 1EE34-1EE37 1EE39 1EE3B 1EE42 1EE47 1EE49 1EE4B 1EE4D-1EE4F 1EE51-1EE52
        1EE54 1EE57 1EE59 1EE5B 1EE5D 1EE5F 1EE61-1EE62 1EE64 1EE67-1EE6A 1EE6C-1EE72
        1EE74-1EE77 1EE79-1EE7C 1EE7E 1EE80-1EE89 1EE8B-1EE9B 1EEA1-1EEA3 1EEA5-1EEA9
        1EEAB-1EEBB 1EEF0-1EEF1
    """,
    "Bengali": """
        980-983 985-98C 98F-990 993-9A8 9AA-9B0 9B2 9B6-9B9 9BC-9C4 9C7-9C8 9CB-9CE 9D7 9DC-9DD
        9DF-9E3 9E6-9FE 11DF0-11DF1
    """,
    "Common": """
        0-40 5B-60 7B-A9 AB-B9 BB-BF D7 F7 2B9-2DF 2E5-2E9 2EC-2FF 374 37E 385 387 605 60C 61B
        61F 640 6DD 8E2 964-965 E3F FD5-FD8 10FB 16EB-16ED 1735-1736 1802-1803 1805 1CD3 1CE1
        1CE9-1CEC 1CEE-1CF3 1CF5-1CF7 1CFA 2000-200B 200E-2064 2066-2070 2074-207E 2080-208F
        20A0-20C4 2100-2125 2127-2129 212C-2131 2133-214D 214F-215F 2189-218B 2190-2429
        2440-244A 2460-27FF 2900-2B73 2B76-2BFF 2E00-2E5D 2E60-2E63 2FF0-3004 3006 3008-3020
        3030-3037 303C-303F 309B-309C 30A0 30FB-30FC 3190-319F 31C0-31E5 31EF 3220-325F
        327F-32CF 32FF 3358-33FF 4DC0-4DFF A700-A721 A788-A78A A830-A839 A92E A9CF AB5B
        AB6A-AB6B FD3E-FD3F FE10-FE19 FE30-FE52 FE54-FE66 FE68-FE6B FEFF FF01-FF20 FF3B-FF40
        FF5B-FF65 FF70 FF9E-FF9F FFE0-FFE6 FFE8-FFEE FFF9-FFFD 10100-10102 10107-10133
        10137-1013F 10190-1019C 101D0-101FC 102E1-102FB 1BCA0-1BCA3 1CC00-1CCFC 1CD00-1CEB3
        1CEBA-1CED0 1CED2-1CED4 1CEDD-1CEFD 1CF50-1CFC3 1D000-1D0F5 1D100-1D126 1D129-1D166
        1D16A-1D17A 1D183-1D184 1D18C-1D1A9 1D1AE-1D1FF 1D250-1D25A 1D25D-1D281 1D2C0-1D2D3
        1D2E0-1D2F3 1D300-1D356 1D360-1D378 1D400-1D454 1D456-1D49C 1D49E-1D49F 1D4A2
        1D4A5-1D4A6 1D4A9-1D4AC 1D4AE-1D4B9 1D4BB 1D4BD-1D4C3 1D4C5-1D505 1D507-1D50A
        1D50D-1D514 1D516-1D51C 1D51E-1D539 1D53B-1D53E 1D540-1D544 1D546 1D54A-1D550
        1D552-1D6A6 1D6A8-1D7CB 1D7CE-1D7FF 1DB00-1DB1C 1EC71-1ECB4 1ED01-1ED3D 1F000-1F02B
        1F030-1F093 1F0A0-1F0AE 1F0B1-1F0BF 1F0C1-1F0CF 1F0D1-1F0F5 1F100-1F1AE 1F1E6-1F1FF
        1F201-1F202 1F210-1F23B 1F240-1F248 1F250-1F251 1F260-1F265 1F300-1F6D9 1F6DC-1F6EC
        1F6F0-1F6FC 1F700-1F7DB 1F7E0-1F7EB 1F7F0-1F80B 1F810-1F847 1F850-1F859 1F860-1F887
        1F890-1F8AD 1F8B0-1F8BB 1F8C0-1F8C1 1F8D0-1F8D8 1F900-1FA57 1FA60-1FA6D 1FA70-1FA7C
        1FA80-1FAC6 1FAC8 1FACC-1FADD 1FADF-1FAEB 1FAEF-1FAFA 1FB00-1FB92 1FB94-1FBFA E0001
        E0020-E007F
    """,
    "Devanagari": """
        900-950 955-963 966-97F A8E0-A8FF 11B00-11B0A
    """,
    "Greek": """
        370-373 375-377 37A-37D 37F 384 386 388-38A 38C 38E-3A1 3A3-3E1 3F0-3FF 1D26-1D2A
        1D5D-1D61 1D66-1D6A 1DBF 1F00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B
        1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FC4 1FC6-1FD3 1FD6-1FDB 1FDD-1FEF 1FF2-1FF4 1FF6-1FFE
        2126 AB65 10140-1018E 101A0 1D200-1D245 1DFF3-1DFF4
    """,
    "Gujarati": """
        A81-A83 A85-A8D A8F-A91 A93-AA8 AAA-AB0 AB2-AB3 AB5-AB9 ABC-AC5 AC7-AC9 ACB-ACD AD0
        AE0-AE3 AE6-AF1 AF9-AFF
    """,
    "Gurmukhi": """
        A01-A03 A05-A0A A0F-A10 A13-A28 A2A-A30 A32-A33 A35-A36 A38-A39 A3C A3E-A42 A47-A48
        A4B-A4D A51 A59-A5C A5E A66-A76
    """,
    "Inherited": """
        300-36F 485-486 64B-655 670 951-954 1AB0-1AF0 1CD0-1CD2 1CD4-1CE0 1CE2-1CE8 1CED 1CF4
        1CF8-1CF9 1DC0-1DFF 200C-200D 20D0-20F0 302A-302D 3099-309A FE00-FE0F FE20-FE2D 101FD
        102E0 1133B 1CF00-1CF2D 1CF30-1CF46 1D127-1D128 1D167-1D169 1D17B-1D182 1D185-1D18B
        1D1AA-1D1AD 1D25B-1D25C E0100-E01EF
    """,
    "Kannada": """
        C80-C8C C8E-C90 C92-CA8 CAA-CB3 CB5-CB9 CBC-CC4 CC6-CC8 CCA-CCD CD5-CD6 CDC-CDE CE0-CE3
        CE6-CEF CF1-CF3
    """,
    "Latin": """
        41-5A 61-7A AA BA C0-D6 D8-F6 F8-2B8 2E0-2E4 1D00-1D25 1D2C-1D5C 1D62-1D65 1D6B-1D77
        1D79-1DBE 1E00-1EFF 2071 207F 2090-209F 212A-212B 2132 214E 2160-2188 2C60-2C7F
        A722-A787 A78B-A7DD A7E2 A7F1-A7FF AB30-AB5A AB5C-AB64 AB66-AB69 AB6C-AB6D FB00-FB06
        FF21-FF3A FF41-FF5A 10780-10785 10787-107B0 107B2-107BF 1DF00-1DF81 1DF90-1DF96
        1DFCD-1DFF2 1DFF5-1DFFF
    """,
    "Malayalam": """
        D00-D0C D0E-D10 D12-D44 D46-D48 D4A-D4F D54-D63 D66-D7F
    """,
    "Oriya": """
        B01-B03 B05-B0C B0F-B10 B13-B28 B2A-B30 B32-B33 B35-B39 B3C-B44 B47-B48 B4B-B4D B53-B57
        B5C-B5D B5F-B63 B66-B77
    """,
    "Tamil": """
        B82-B83 B85-B8A B8E-B90 B92-B95 B99-B9A B9C B9E-B9F BA3-BA4 BA8-BAA BAE-BB9 BBE-BC2
        BC6-BC8 BCA-BCD BD0 BD7 BE6-BFA 11FC0-11FF1 11FFF
    """,
    "Telugu": """
        C00-C0C C0E-C10 C12-C28 C2A-C39 C3C-C44 C46-C48 C4A-C4D C55-C56 C58-C5A C5C-C5D C60-C63
        C66-C6F C77-C7F
    """,
}
