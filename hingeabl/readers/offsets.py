"""The unit in which a file counts its offsets: inferred from the texts that it states for its mentions, and converted
to characters."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from hingeabl.errors import UserError

Span = tuple[int, int]  # [start, end)
Scale = Sequence[int]  # the offset, in the file's unit, at which each character of a text begins, and the text's end
UNITS: dict[str, Callable[[str], int]] = {
    "characters": lambda character: 1,
    "UTF-16 units": lambda character: 1 + (character > "\uffff"),
    "UTF-8 bytes": lambda character: len(character.encode("utf-8", "surrogatepass")),
}
LINE_ENDS = {None: "", 1: "a line end as one", 2: "a line end as two", 0: "line ends left out"}
MARK = "\ufeff"  # the byte order mark
READ_AS = "read as "  # prefix of the keys of Counts that name a reading
RULE = "offsets are [start, end) in characters (Unicode code points) from 0, with \\r\\n as two"
MAY_DIFFER = 0.1  # largest share of the texts that may differ under the chosen reading
FARTHEST = 20  # largest constant shift, in characters, that is tried to explain wrong offsets


class AnnotatedMention(NamedTuple):
    """A mention at [start, end); `location` says where it is in the file, for messages, `stated_text` is the text that
    the file gives for it, and `pieces` are its spans if it has several."""

    start: int
    end: int
    type: str | None
    location: str
    stated_text: str | None = None
    pieces: tuple[Span, ...] = ()


class Counts(Counter[str]):
    """Counts of suspicious mentions in a file, under the keys of align.WARNINGS. `example` and `cause` are an example
    of a mention whose text differs and its likely cause; `silent` counts documents that state no texts, so that their
    unit is uncertain."""

    example = ""
    cause = ""
    silent = 0


class Reading(NamedTuple):
    """A way of counting offsets: a unit, the length of a line end (None: that of its characters), and whether a byte
    order mark before the text counts."""

    unit: str
    line_end: int | None
    mark: bool

    @property
    def name(self) -> str:
        """Its description in messages."""
        more = [LINE_ENDS[self.line_end], "the byte order mark counted" if self.mark else ""]
        return ", ".join(filter(None, [self.unit, *more]))


def to_characters(
    text: str, entities: list[list[AnnotatedMention]], where: str, counts: Counts, mark: bool = False
) -> tuple[list[list[AnnotatedMention]], Scale]:
    """The mentions in characters, and the scale in which their file counts: characters, or the reading under which
    fewer of the stated texts differ and nearly all fit. `mark` says whether the file has a byte order mark before the
    text. Raises UserError, starting with `where`, if most texts of a document differ under each reading."""
    mentions = list({mention.location: mention for entity in entities for mention in entity}.values())
    if not mentions:
        return entities, range(len(text) + 1)
    stated = [mention for mention in mentions if mention.stated_text and mention.stated_text.strip()]
    backwards = next((m for m in mentions if any(not 0 <= start <= end for start, end in _pieces(m))), None)
    if backwards and not (backwards.stated_text or "").strip():
        start, end = next(piece for piece in _pieces(backwards) if not 0 <= piece[0] <= piece[1])
        raise UserError(f"{where}: {backwards.location}: [{start}, {end}] is no span; {RULE}")
    name, scale, wrong = _best(text, stated, counts, mark)
    counts["told"] += len(stated)
    counts["differ"] += len(wrong)
    if name:
        counts[READ_AS + name] += 1
    if wrong and not counts.example:
        counts.example = f"{where}: {_example(text, wrong[0], scale)}"
        counts.cause = _cause(text, stated)
    if len(wrong) > 1 and 2 * len(wrong) > len(stated):  # a single one is judged with the whole file, see warn
        example, cause = _example(text, wrong[0], scale), _cause(text, stated)
        raise UserError(f"{where}: {mismatch_message(len(wrong), len(stated), example)}; {RULE}; {cause}")
    in_characters = {mention.location: _placed(mention, text, scale, counts) for mention in mentions}
    return [[in_characters[mention.location] for mention in entity] for entity in entities], scale


def mismatch_message(wrong: int, stated: int, example: str) -> str:
    """The message about mentions whose text differs."""
    share = f"{wrong:,} of {stated:,} mentions ({wrong / stated:.1%})"
    return f"{share} have another text than that at their offsets, such as {example}"


def start_character(scale: Scale, offset: int) -> int:
    """The first character of a mention that starts at an offset; past the text's end for an offset past it."""
    return bisect_right(scale, offset) - 1 if offset <= scale[-1] else len(scale) - 1 + offset - scale[-1]


def end_character(scale: Scale, offset: int) -> int:
    """The character after a mention that ends at an offset; past the text's end for an offset past it."""
    return bisect_left(scale, offset) if offset <= scale[-1] else len(scale) - 1 + offset - scale[-1]


def characters_of(scale: Scale, start: int, end: int) -> Span:
    """A token's span in characters; an empty token stays empty."""
    first = start_character(scale, start)
    return first, max(first, end_character(scale, end)) if start < end else first


def _best(
    text: str, stated: list[AnnotatedMention], counts: Counts, mark: bool
) -> tuple[str, Scale, list[AnnotatedMention]]:
    """The reading under which the fewest texts differ: its name, "" for characters, its scale, and the mentions that
    differ. In a tie, a reading used for earlier documents wins, then characters, then the simplest."""
    name, scale = "", range(len(text) + 1)
    wrong = _wrong(text, stated, scale)
    known = any(key.startswith(READ_AS) for key in counts)
    readings = list(_readings(text, mark)) if wrong or not stated or known else []
    used_before = [reading for reading in readings if counts[READ_AS + reading.name]]
    best: tuple[str, Scale, list[AnnotatedMention]] = (name, scale, wrong)
    if not stated and not used_before:
        counts.silent += bool(readings)
        return best
    for reading in used_before:
        reading_scale = _scale(text, reading)
        if not (other_wrong := _wrong(text, stated, reading_scale)):
            return reading.name, reading_scale, other_wrong
    for reading in readings if wrong else ():
        reading_scale = _scale(text, reading)
        other_wrong = _wrong(text, stated, reading_scale)
        if len(other_wrong) < len(best[2]) and len(other_wrong) <= MAY_DIFFER * len(stated):
            best = (reading.name, reading_scale, other_wrong)
    return best


def _readings(text: str, mark: bool) -> Iterator[Reading]:
    """The readings other than characters under which offsets in this text can differ, the simplest first."""
    units = ["characters"]
    if not text.isascii():
        units += ["UTF-16 units"] * any(character > "\uffff" for character in text) + ["UTF-8 bytes"]
    ends: list[int | None] = [None]
    if "\n" in text:
        ends += [1] * ("\r\n" in text) + [2] * (text.count("\n") > text.count("\r\n")) + [0]
    marks = [False, True] if mark else [False]
    readings = [Reading(unit, end, marked) for marked in marks for end in ends for unit in units]
    readings.sort(key=lambda reading: (reading.unit != "characters") + (reading.line_end is not None) + reading.mark)
    yield from readings[1:]


def _scale(text: str, reading: Reading) -> Scale:
    width = UNITS[reading.unit]
    offset = width(MARK) if reading.mark else 0
    scale = []
    for number, character in enumerate(text):
        scale.append(offset)
        if reading.line_end is None or character not in "\r\n":
            offset += width(character)
        elif character == "\n":
            offset += reading.line_end
        elif not text.startswith("\n", number + 1):
            offset += 1
    return [*scale, offset]


def _wrong(text: str, stated: list[AnnotatedMention], scale: Scale) -> list[AnnotatedMention]:
    """The mentions whose text differs from the stated one."""
    return [mention for mention in stated if _plain(_at(text, mention, scale)) != _plain(mention.stated_text or "")]


def _at(text: str, mention: AnnotatedMention, scale: Scale) -> str:
    """The text at a mention's offsets, "" if they are outside the text."""
    pieces = _pieces(mention)
    if not all(scale[0] <= start <= end <= scale[-1] for start, end in pieces):
        return ""
    return " ".join(text[start_character(scale, start) : end_character(scale, end)] for start, end in pieces)


def _pieces(mention: AnnotatedMention) -> Sequence[Span]:
    return mention.pieces or [(mention.start, mention.end)]


def _plain(text: str) -> str:
    """A text without what programs change when they copy it: white space, case, the Unicode form."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _example(text: str, mention: AnnotatedMention, scale: Scale) -> str:
    return (
        f"{mention.location}: {(mention.stated_text or '')[:60]!r}, where {_at(text, mention, scale)[:60]!r} is at "
        f"[{mention.start}, {mention.end}]"
    )


def _cause(text: str, stated: list[AnnotatedMention]) -> str:
    """The change that makes all stated texts fit if no reading does, or else what to check."""
    changes: dict[str, Callable[[Span], Span]] = {
        "add 1 to each end, which is included here": lambda span: (span[0], span[1] + 1),
        "subtract 1 from each start, as they count from 1": lambda span: (span[0] - 1, span[1]),
        "add its start to each end, which is a length here": lambda span: (span[0], span[0] + span[1]),
    }
    for step in range(1, FARTHEST + 1):
        for shift in (-step, step):
            changes[f"add {shift} to each"] = lambda span, shift=shift: (span[0] + shift, span[1] + shift)  # type: ignore[misc]
    scale = range(len(text) + 1)
    composed = unicodedata.normalize("NFC", text)
    if composed != text and not _wrong(composed, stated, range(len(composed) + 1)):
        return "with this they would fit: write the text in Unicode's form NFC, in which they were counted"
    for cause, change in changes.items():
        moved = [mention._replace(pieces=tuple(map(change, _pieces(mention)))) for mention in stated]
        if not _wrong(text, moved, scale):
            return f"with this they would fit: {cause}"
    return "is the text the one that was annotated? Take that one, or correct the offsets"


def _placed(mention: AnnotatedMention, text: str, scale: Scale, counts: Counts) -> AnnotatedMention:
    """A mention in characters, with its pieces as one; a gap is text other than white space between two pieces."""
    pieces = sorted((start_character(scale, start), end_character(scale, end)) for start, end in _pieces(mention))
    start, end = pieces[0]
    gaps = 0
    for next_start, next_end in pieces[1:]:
        gaps += bool(text[end:next_start].strip())
        end = max(end, next_end)
    counts["gaps"] += gaps > 0
    return mention._replace(start=start, end=max(start, end), pieces=())
