#!/usr/bin/env python3
"""Turns the test set of llhttp into cases.jsonl: convert.py LLHTTP/test > cases.jsonl

llhttp is the HTTP/1 parser of Node.js, by Fedor Indutny and others, under the MIT licence (LICENSE beside this file). Its
tests are in its source and in packages that have it in theirs, such as the source package of Python's aiohttp (there in
vendor/llhttp/test). cases.jsonl was made from version 9.4.2.

One case a line: `name`, `side` (request or response), `bytes` (as ISO 8859-1), `messages` and `error` (what llhttp says where
it refuses the rest; else null). A message has `start` (method and target, or status), `headers` and `trailers` (name and
value), `body`, and whether it is `complete`. Only what is tested in llhttp's strict modes is taken.
"""

import json
import pathlib
import re
import sys

FENCE = r"^```[ \t]*$"
CASE = re.compile(
    r"^#+ (?P<title>[^\n]*)\n(?:(?!^#).)*?<!-- meta=(?P<meta>\{.*?\}) -->\s*```http\n(?P<input>.*?)" + FENCE
    + r"(?:(?!^#).)*?^```log\n(?P<log>.*?)" + FENCE,
    re.S | re.M,
)
SPAN = re.compile(r'off=(\d+) len=(\d+) span\[(\w+)\]')


def input_bytes(text):
    """The input as llhttp's own test runner reads it."""
    text = text.removesuffix("\n")
    text = re.sub(r"\\(\r\n|\r|\n)", "", text)
    text = re.sub(r"\r\n|\r|\n", "\r\n", text)
    for escape, character in (("\\r", "\r"), ("\\n", "\n"), ("\\t", "\t"), ("\\f", "\f")):
        text = text.replace(escape, character)
    text = re.sub(r"\\x([0-9a-fA-F]+)", lambda found: chr(int(found[1], 16)), text)
    text = re.sub(r"\\([0-7]{1,3})", lambda found: chr(int(found[1], 8)), text)
    return None if "${" in text else text.encode()


def messages(log, data):
    """What llhttp makes of the bytes: messages, and the error that ended it."""
    found, error, name, value, at_end = [], None, "", "", False
    for line in log.splitlines():
        span = SPAN.match(line)
        if line.endswith("message begin"):
            found.append({"start": [], "headers": [], "trailers": [], "body": "", "complete": False})
            at_end = False
        elif span and found:
            begin, length, kind = int(span[1]), int(span[2]), span[3]
            text = data[begin : begin + length].decode("latin-1")
            if kind == "header_field":
                name += text
            elif kind == "header_value":
                value += text
            elif kind == "body":
                found[-1]["body"] += text
            elif kind in ("method", "url"):
                found[-1]["start"].append(text)
        elif line.endswith("header_value complete"):
            found[-1]["trailers" if at_end else "headers"].append([name, value])
            name, value = "", ""
        elif "headers complete" in line:
            status = re.search(r"status=(\d+)", line)
            if status:
                found[-1]["start"] = [status[1]]
            at_end = True
            found[-1]["has_head"] = True
        elif line.endswith("message complete"):
            found[-1]["complete"] = True
        elif " error code=" in line:
            error = re.search(r'reason="(.*)"', line)[1]
    return [message for message in found if message.pop("has_head", False)], error


def main(folder):
    for file in sorted(folder.glob("re*/*.md")):
        for case in CASE.finditer(file.read_text()):
            meta = json.loads(case["meta"])
            side, data = meta["type"], input_bytes(case["input"])
            if side not in ("request", "response") or meta.keys() & {"pause", "skip", "skipBody"} or data is None:
                continue
            parsed, error = messages(case["log"], data)
            name = f"{file.parent.name}/{file.stem}: {case['title']}"
            line = {"name": name, "side": side, "bytes": data.decode("latin-1"), "messages": parsed, "error": error}
            print(json.dumps(line))


main(pathlib.Path(sys.argv[1]))
