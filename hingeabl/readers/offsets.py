"""How a file counts its offsets: told by the texts that it gives of its mentions, and turned into characters."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from hingeabl.errors import UserError

Span = tuple[int, int]  # [start, end)
Scale = Sequence[int]  # the offset at which each character of a text begins, and the one at which the text ends
UNITS: dict[str, Callable[[str], int]] = {
    "characters": lambda character: 1,
    "UTF-16 units": lambda character: 1 + (character > "\uffff"),
    "UTF-8 bytes": lambda character: len(character.encode("utf-8", "surrogatepass")),
}
LINE_ENDS = {None: "", 1: "a line end as one", 2: "a line end as two", 0: "line ends left out"}
MARK = "\ufeff"  # the byte order mark
READ_AS = "read as "  # opens the keys of Counts that tell a reading
RULE = "offsets are [start, end) in characters (Unicode code points) from 0, with \\r\\n as two"
MAY_DIFFER = 0.1  # share of the texts that may differ under a reading that is taken: some fit any by chance
FARTHEST = 20  # characters that a constant error is looked for


class Mention(NamedTuple):
    """A mention at [start, end); `place` tells in messages where it stands in the file, `told` is the text that the
    file gives of it, and `pieces` are its spans where it has several."""

    start: int
    end: int
    type: str | None
    place: str
    told: str | None = None
    pieces: tuple[Span, ...] = ()


class Counts(Counter[str]):
    """What is doubtful in a file, counted under the keys of align.WARNINGS. Of mentions whose text differs there are
    one example and what may be the cause; `silent` counts documents without told texts whose unit is not certain."""

    example = ""
    cause = ""
    silent = 0


class Reading(NamedTuple):
    """A way of counting: a unit, what a line end counts (None: its characters), whether a mark before the text does."""

    unit: str
    line_end: int | None
    mark: bool

    @property
    def name(self) -> str:
        """For messages."""
        more = [LINE_ENDS[self.line_end], "the byte order mark counted" if self.mark else ""]
        return ", ".join(filter(None, [self.unit, *more]))


def settle(
    text: str, entities: list[list[Mention]], where: str, counts: Counts, mark: bool = False
) -> tuple[list[list[Mention]], Scale]:
    """The mentions in characters, and the scale by which their file counts: characters, or the reading under which
    fewer of the told texts differ, and nearly all fit; `mark` is whether the file has a byte order mark before the
    text. Raises UserError, opening with `where`, if most texts of a document differ under each."""
    mentions = list({mention.place: mention for found in entities for mention in found}.values())
    if not mentions:
        return entities, range(len(text) + 1)
    told = [mention for mention in mentions if mention.told and mention.told.strip()]
    name, scale, wrong = _best(text, told, counts, mark)
    counts["told"] += len(told)
    counts["differ"] += len(wrong)
    if name:
        counts[READ_AS + name] += 1
    if wrong and not counts.example:
        counts.example = f"{where}: {_example(text, wrong[0], scale)}"
        counts.cause = _cause(text, told)
    if len(wrong) > 1 and 2 * len(wrong) > len(told):  # of a single one, the whole file decides
        example, cause = _example(text, wrong[0], scale), _cause(text, told)
        raise UserError(f"{where}: {differing(len(wrong), len(told), example)}; {RULE}; {cause}")
    placed = {mention.place: _placed(mention, text, scale, counts) for mention in mentions}
    return [[placed[mention.place] for mention in found] for found in entities], scale


def differing(wrong: int, told: int, example: str) -> str:
    """What is said of mentions whose text differs."""
    share = f"{wrong:,} of {told:,} mentions ({wrong / told:.1%})"
    return f"{share} have another text than that at their offsets, such as {example}"


def first_of(scale: Scale, offset: int) -> int:
    """The character that a mention begins with which starts at an offset; beyond the text, a place beyond it."""
    return bisect_right(scale, offset) - 1 if offset <= scale[-1] else len(scale) - 1 + offset - scale[-1]


def end_of(scale: Scale, offset: int) -> int:
    """The character behind a mention that ends at an offset; beyond the text, a place beyond it."""
    return bisect_left(scale, offset) if offset <= scale[-1] else len(scale) - 1 + offset - scale[-1]


def _best(text: str, told: list[Mention], counts: Counts, mark: bool) -> tuple[str, Scale, list[Mention]]:
    """The reading under which the fewest texts differ, "" for characters, with its scale and those that differ. Of
    several, it is the one of the documents before, then characters, then the simplest."""
    name, scale = "", range(len(text) + 1)
    wrong = _wrong(text, told, scale)
    readings = list(_readings(text, mark)) if wrong or not told or any(map(_is_reading, counts)) else []
    known = [reading for reading in readings if counts[READ_AS + reading.name]]
    best: tuple[str, Scale, list[Mention]] = (name, scale, wrong)
    if not told and not known:
        counts.silent += bool(readings)
        return best
    for reading in known:
        other = _scale(text, reading)
        if not (found := _wrong(text, told, other)):
            return reading.name, other, found
    for reading in readings if wrong else ():
        other = _scale(text, reading)
        found = _wrong(text, told, other)
        if len(found) < len(best[2]) and len(found) <= MAY_DIFFER * len(told):
            best = (reading.name, other, found)
    return best


def _is_reading(key: str) -> bool:
    return key.startswith(READ_AS)


def _readings(text: str, mark: bool) -> Iterator[Reading]:
    """The readings other than characters under which a text's offsets can differ, the simplest first."""
    units = ["characters"]
    if not text.isascii():
        units += ["UTF-16 units"] * any(character > "\uffff" for character in text) + ["UTF-8 bytes"]
    ends: list[int | None] = [None]
    if "\n" in text:
        ends += [1] * ("\r\n" in text) + [2] * (text.count("\n") > text.count("\r\n")) + [0]
    marks = [False, True] if mark else [False]
    found = [Reading(unit, end, marked) for marked in marks for end in ends for unit in units]
    found.sort(key=lambda one: (one.unit != "characters") + (one.line_end is not None) + one.mark)
    yield from found[1:]


def _scale(text: str, reading: Reading) -> Scale:
    width = UNITS[reading.unit]
    place = width(MARK) if reading.mark else 0
    scale = []
    for number, character in enumerate(text):
        scale.append(place)
        if reading.line_end is None or character not in "\r\n":
            place += width(character)
        elif character == "\n":
            place += reading.line_end
        elif not text.startswith("\n", number + 1):
            place += 1
    return [*scale, place]


def _wrong(text: str, told: list[Mention], scale: Scale) -> list[Mention]:
    """The mentions whose text is not the one told."""
    return [mention for mention in told if _plain(_at(text, mention, scale)) != _plain(mention.told or "")]


def _at(text: str, mention: Mention, scale: Scale) -> str:
    """The text at a mention's offsets, "" where they are not in it."""
    pieces = _pieces(mention)
    if not all(scale[0] <= start <= end <= scale[-1] for start, end in pieces):
        return ""
    return " ".join(text[first_of(scale, start) : end_of(scale, end)] for start, end in pieces)


def _pieces(mention: Mention) -> Sequence[Span]:
    return mention.pieces or [(mention.start, mention.end)]


def _plain(text: str) -> str:
    """A text without what programs change when they copy it: white space, case, the Unicode form."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _example(text: str, mention: Mention, scale: Scale) -> str:
    return (
        f"{mention.place}: {(mention.told or '')[:60]!r}, where {_at(text, mention, scale)[:60]!r} is at "
        f"[{mention.start}, {mention.end}]"
    )


def _cause(text: str, told: list[Mention]) -> str:
    """What makes all told texts fit that no reading allows, and else what is to be checked."""
    changes: dict[str, Callable[[Span], Span]] = {
        "add 1 to each end, which is included here": lambda span: (span[0], span[1] + 1),
        "subtract 1 from each start, as they count from 1": lambda span: (span[0] - 1, span[1]),
        "add its start to each end, which is a length here": lambda span: (span[0], span[0] + span[1]),
    }
    for step in range(1, FARTHEST + 1):
        for by in (-step, step):
            changes[f"add {by} to each"] = lambda span, by=by: (span[0] + by, span[1] + by)  # type: ignore[misc]
    scale = range(len(text) + 1)
    composed = unicodedata.normalize("NFC", text)
    if composed != text and not _wrong(composed, told, range(len(composed) + 1)):
        return "with this they would fit: write the text in Unicode's form NFC, in which they were counted"
    for cause, change in changes.items():
        moved = [mention._replace(pieces=tuple(map(change, _pieces(mention)))) for mention in told]
        if not _wrong(text, moved, scale):
            return f"with this they would fit: {cause}"
    return "is the text the one that was annotated? Take that one, or correct the offsets"


def _placed(mention: Mention, text: str, scale: Scale, counts: Counts) -> Mention:
    """A mention in characters, of one piece: white space alone between two pieces is no gap."""
    pieces = sorted((first_of(scale, start), end_of(scale, end)) for start, end in _pieces(mention))
    start, end = pieces[0]
    gaps = 0
    for first, last in pieces[1:]:
        gaps += bool(text[end:first].strip())
        end = max(end, last)
    counts["gaps"] += gaps > 0
    return mention._replace(start=start, end=max(start, end), pieces=())
