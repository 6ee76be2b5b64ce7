"""Mutations of files, in structure and in bytes: what fuzz.py draws, and how it is applied."""

import copy
import json

from hypothesis import strategies as st

DEEP, LONG = "@deep@", "@long@"  # stand for what is written into the text afterwards: json.dumps can't nest as deeply
SPECIAL = {DEEP: lambda n: "[" * n + "]" * n, LONG: lambda n: '"' + "word " * n + '"'}

NUMBERS = [0, 1, 2, 5, -1, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**30, 10**400, 0.0, 1.0, 0.5, -0.5, 1e308]
NUMBERS += map(float, ("nan", "inf", "-inf"))
TEXTS = ["", " ", "a\nb", "\ud800", "\udfff x", "\u0000", "İstanbul ﬁ", "𝕏🎈", "\u202e\u200d\u0301", LONG + "20000"]
TEXTS += "A Na P17 P131 P31337 None 1 ../../x /etc/passwd dev.json atl docunet I32 F32 U8 F16 BF16 F8_E4M3".split()
LISTS = [[], [[]], [0], [0, 1], [1, 0], [3, 2], [0, 0], [-1, 1], [0, 2**40], [None], [{}], [True, 2], [1.0, 2.0]]
VALUES = [None, True, False, {}, {"a": 1}, DEEP + "300", DEEP + "20000", *NUMBERS, *TEXTS, *LISTS]
OPERATIONS = "replace replace replace drop rename copy swap empty retype negate grow wrap".split()
routes = st.lists(st.integers(0, 40), min_size=1, max_size=7)
edits = st.tuples(routes, st.sampled_from(OPERATIONS), st.sampled_from(VALUES))

PIECES = rb'" { } [ ] , : \ \ud800 \u0000 1e999 NaN - 0 null true {"title":"x"}'.split()
PIECES += [b"\xff", b"\x00", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b" ", b"\n", b"9" * 25]
byte_edits = st.tuples(
    st.sampled_from(["flip", "put", "cut", "end", "again", "over"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 7),
    st.integers(1, 60),
    st.sampled_from(PIECES),
)


def edit(value, route, operation, new):
    """Change one place of a JSON value, found by a walk along the route; returns the value."""
    box = [value]
    holder, key = box, 0
    for step in route:
        inner = holder[key]
        keys = list(inner) if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else []
        if not len(keys):
            break
        holder, key = inner, keys[step % len(keys)]
    old = holder[key]
    if operation == "replace":
        holder[key] = copy.deepcopy(new)
    elif operation == "drop" and holder is not box:
        del holder[key]
    elif operation == "rename" and isinstance(holder, dict):
        holder["x" + key] = holder.pop(key)
    elif operation == "copy" and isinstance(holder, list) and holder is not box:
        holder.insert(key, copy.deepcopy(old))
    elif operation == "swap":
        other = next(iter(holder)) if isinstance(holder, dict) else 0
        holder[key], holder[other] = holder[other], holder[key]
    elif operation == "empty":
        holder[key] = type(old)() if old is not None else 0
    elif operation == "retype":
        kinds = {
            list: lambda: dict(enumerate(old)),
            dict: lambda: list(old.items()),
            str: lambda: [old],
            int: lambda: float(old) if abs(old) < 2**1000 else str(old),
        }
        holder[key] = kinds.get(type(old), lambda: str(old))()
    elif operation == "negate" and isinstance(old, (int, float)):
        holder[key] = -old - 1
    elif operation == "grow":
        holder[key] = old * 2 if isinstance(old, (int, float, str, list)) else [old]
    elif operation == "wrap":
        holder[key] = [old]
    return box[0]


def to_bytes(value):
    """JSON, with what stands for special text written out."""
    text = json.dumps(value)
    for mark, write in SPECIAL.items():
        while f'"{mark}' in text:
            before, rest = text.split(f'"{mark}', 1)
            count, rest = rest.split('"', 1)
            text = before + write(int(count)) + rest if count.isdigit() else f"{before}{count}{rest}"
    return text.encode()


def edit_bytes(data, operation, place, bit, length, piece):
    """Flip a bit, put a piece in, cut a span out, end there, write a span again there, or write a piece over."""
    at = int(place * len(data))
    span = data[at : at + length]
    parts = {
        "flip": data[:at] + bytes(byte ^ 1 << bit for byte in span[:1]) + data[at + 1 :],
        "put": data[:at] + piece + data[at:],
        "cut": data[:at] + data[at + length :],
        "end": data[:at],
        "again": data[:at] + data[at // 2 : at // 2 + length] + data[at:],
        "over": data[:at] + piece + data[at + len(piece) :],
    }
    return parts[operation]


def mutated(value, structure, in_bytes):
    """A JSON file's bytes after all edits."""
    value = copy.deepcopy(value)
    for step in structure:
        value = edit(value, *step)
    data = to_bytes(value)
    for step in in_bytes:
        data = edit_bytes(data, *step)
    return data


AS_WIDE = {"F32": ["I32", "U32"], "I32": ["F32", "U32"], "F16": ["BF16", "I16"], "I64": ["F64", "U64"]}


def subtly_changed(header, data, number):
    """A change that leaves all sizes as they are: another type of the same width, another shape, a number."""
    names = [name for name in header if name != "__metadata__"]
    about = header[names[number % len(names)]]
    if number % 3 == 0:
        about["dtype"] = AS_WIDE[about["dtype"]][number % 2]
    elif number % 3 == 1:
        about["shape"] = [*about["shape"], 1] if number % 2 else about["shape"][::-1]
    else:
        at = about["data_offsets"][0] + number % 7 * 4
        data = data[:at] + (b"\0\0\xc0\x7f", b"\xff" * 4, b"\3\0\0\0")[number // 3 % 3] + data[at + 4 :]
    return data


def mutated_tensors(data, number, structure, in_bytes):
    """A safetensors file's bytes after edits of its header, and of all of it; half of these in the header."""
    size = int.from_bytes(data[:8], "little")
    header, data = json.loads(data[8 : 8 + size]), data[8 + size :]
    if number % 4 == 0:
        data = subtly_changed(header, data, number // 4)
    header = mutated(header, structure, [])
    size = len(header)
    data = size.to_bytes(8, "little") + header + data
    for number, (operation, place, *rest) in enumerate(in_bytes):
        place = place if number % 2 else place * min(1, (size + 8) / max(len(data), 1))
        data = edit_bytes(data, operation, place, *rest)
    return data
