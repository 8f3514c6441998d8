"""Run `btw demo` on a terminal of its own and draw what it shows: docs/demo.svg.

    pip install -c constraints.txt rich ./btw_core ./plugins/btw_exec && python tools/record_demo.py

The picture refers to no other host: it uses the reader's own fixed-width font. Takes as long as the demo.
"""

from __future__ import annotations

import argparse
import fcntl
import html
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import sysconfig
import tempfile
import termios
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

TARGET = Path(__file__).resolve().parent.parent / "docs" / "demo.svg"
FONT = 'ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace'
SPACE = "\N{NO-BREAK SPACE}"
#: Of what a long line goes on with.
INDENT = " " * 6
#: Bytes that a page should not have to load.
LARGEST = 150_000
DARK = TerminalTheme(
    (24, 26, 31),
    (214, 217, 224),
    [(60, 64, 72), (232, 104, 104), (126, 199, 120), (222, 184, 92),
     (104, 160, 232), (196, 132, 220), (94, 196, 204), (190, 194, 202)],
    [(120, 126, 138), (255, 135, 135), (156, 226, 150), (246, 212, 126),
     (140, 188, 255), (220, 166, 242), (130, 224, 230), (255, 255, 255)],
)


def record(command: list[str], columns: int, rows: int, limit: float) -> str:
    """All that the command writes to a terminal of that size. Raises SystemExit when it fails or takes longer than
    `limit` seconds; then it has been ended."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "BTW_DIR")}
    environment |= {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(rows)}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    said, end = b"", time.monotonic() + limit
    try:
        while time.monotonic() < end:
            if select.select([ours], [], [], 1.0)[0]:
                try:
                    data = os.read(ours, 65536)
                except OSError:  # EIO: the other side is closed (pty(7))
                    break
                sys.stdout.buffer.write(data)
                sys.stdout.flush()
                said += data
        code = process.wait(max(1.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        sys.exit(f"{' '.join(command)} has not ended after {limit:g} s; nothing is written")
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # the demo cleans up by itself
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        os.close(ours)
    if code:
        sys.exit(f"{' '.join(command)} ended with exit code {code}; nothing is written")
    return said.decode(errors="replace")


def lines(said: str) -> list[str]:
    """What is left to read in the end, line by line: no window titles, and of a line that was written over the last
    version. Raises SystemExit for cursor movements across lines, which only a terminal can follow."""
    said = re.sub(r"\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b\[\?\d+[hl]|\x1b\[\d*K", "", said).replace("\r\n", "\n")
    if found := re.search(r"\x1b\[[\d;]*[A-HJ]", said):
        sys.exit(f"the demo moves the cursor ({found[0]!r}): a recording of lines cannot show that")
    said = re.sub(re.escape(tempfile.gettempdir()) + r"/[\w.-]+", "/tmp/btw-demo", said)
    return [line.rpartition("\r")[2].rstrip() for line in said.strip("\n").split("\n")]


def draw(shown: list[str], columns: int) -> str:
    """As SVG, without anything from elsewhere."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor",
                      legacy_windows=False)
    for line in shown:
        first, *others = Text.from_ansi(line).wrap(console, columns - len(INDENT))
        console.print(first, *(Text(INDENT) + other for other in others), sep="\n")
    svg = console.export_svg(title="btw demo", theme=DARK, unique_id="demo")
    svg = re.sub(r"@font-face\s*\{[^}]*\}\s*", "", svg)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<text [^>]*)x="(\S+)" (y="\S+") textLength="(\S+)"([^>]*>)([^<]+)</text>', place, svg)
    return re.sub(r"font-family:[^;]*;", f"font-family: {FONT};", svg)


def place(found: re.Match[str]) -> str:
    """A <text> without the spaces around it, which some viewers leave out before they stretch the rest."""
    before, x, y, length, others, text = found.groups()
    text = html.unescape(text)
    shown, width = text.strip(SPACE), float(length) / len(text)
    left = float(x) + width * (len(text) - len(text.lstrip(SPACE)))
    room = f'x="{left:g}" {y} textLength="{width * len(shown):g}"'
    return f"{before}{room}{others}{html.escape(shown).replace(SPACE, '&#160;')}</text>" if shown else ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Record btw demo as docs/demo.svg.")
    parser.add_argument("--columns", type=int, default=110)
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--limit", type=float, default=90.0, help="seconds")
    parser.add_argument("--output", type=Path, default=TARGET)
    parser.add_argument("command", nargs="*", help="instead of: btw demo")
    given = parser.parse_args()
    command = given.command or [str(Path(sysconfig.get_path("scripts"), "btw")), "demo"]
    svg = draw(["$ btw demo", *lines(record(command, given.columns, given.rows, given.limit))], given.columns)
    elsewhere = re.findall(r"""url\((?!#)[^)]*\)|href=(?!"#)\S*|@import[^;]*""", svg)
    if elsewhere or len(svg) > LARGEST:
        sys.exit(f"{len(svg)} bytes (at most {LARGEST}), refers to {elsewhere or 'nothing'}; nothing is written")
    given.output.write_text(svg)
    print(f"{given.output}: {len(svg)} bytes")


if __name__ == "__main__":
    main()
