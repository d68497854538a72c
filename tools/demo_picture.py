"""Turn what `make demo` printed into the README's picture and its table of figures.

    make demo | tee .lab/demo.log
    python tools/demo_picture.py .lab/demo.log

Writes docs/images/demo.png with headless Chromium, and the table between the marker lines of README.md. Every figure
comes from the log; nothing is typed by hand.
"""

from __future__ import annotations

import html
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "demo.png"
README = ROOT / "README.md"
BEGIN = "<!-- figures: from the output of `make demo`, by `python tools/demo_picture.py` -->"
END = "<!-- end of figures -->"
LONGEST_LINE = 118

STYLE = """
body { margin: 0; background: #f4f1ea; font: 15px/1.5 "DejaVu Sans Mono", monospace; }
main { margin: 28px; border-radius: 10px; overflow: hidden; background: #171b21; color: #d8d5cc;
       box-shadow: 0 6px 24px #0004; }
header { background: #242a33; padding: 10px 16px; color: #8b93a1; }
header i { display: inline-block; width: 12px; height: 12px; border-radius: 6px; margin-right: 8px;
           background: #4a5260; }
pre { margin: 0; padding: 14px 22px 20px; font: inherit; white-space: pre; }
b { color: #fff; }
.release { color: #6fc3c8; } .good { color: #8fcf7a; } .bad { color: #f08a7a; } .faint { color: #8b93a1; }
"""


def lines_of(log: str) -> list[str]:
    """The demo's own lines, without colours, and with the checkout's path as `.`."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log).replace(f"{ROOT}/", "./")
    lines = plain.splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith("Backstay demo")), 0)
    last = next((number for number, line in enumerate(lines) if "make demo-down removes" in line), len(lines) - 1)
    return [line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}…" for line in lines[first : last + 1]]


def figures(lines: list[str]) -> list[tuple[str, str]]:
    """The rows of the table at the end of the demo, as printed; who answered how many is in the picture."""
    rows = [re.fullmatch(r"  (\S.*?)  +(\S.*)", line) for line in lines]
    found = [(row[1], row[2]) for row in rows if row]
    first = next((number for number, (name, _value) in enumerate(found) if name == "releases"), len(found))
    return [
        (name, value)
        for name, value in found[first:]
        if not name.startswith(("answered by", "audit-portal runs", "refused"))
    ]


def coloured(line: str) -> str:
    """One line as HTML."""
    text = html.escape(line)
    text = re.sub(r"\b\d{4}-\d+\.\d+\.\d+\b", r'<span class="release">\g<0></span>', text)
    if line.startswith("Backstay demo"):
        return f"<b>{text}</b>"
    if "every promise held" in line or re.fullmatch(r"  (failed|kept connections closed.*?) {2,}0", line):
        return f'<span class="good">{text}</span>'
    if "promise broken" in line:
        return f'<span class="bad">{text}</span>'
    if line.startswith(("  visitors arrive", "  the same as JSON", "  make demo-down")):
        return f'<span class="faint">{text}</span>'
    return text


def draw(lines: list[str], target: Path) -> None:
    """Write the picture. Raises CalledProcessError when Chromium fails."""
    body = "\n".join(coloured(line) for line in lines)
    page = (
        f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>"
        f"<main><header><i></i><i></i><i></i>$ make demo</header><pre>{body}</pre></main>"
    )
    width = max(len(line) for line in lines) * 9 + 104
    height = round(len(lines) * 22.5) + 138
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "demo.html")
        file.write_text(page, encoding="utf-8")
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={directory}/profile", f"--window-size={width},{height}", f"--screenshot={target}"]
        subprocess.run([*command, file.as_uri()], check=True, capture_output=True, timeout=120)


def with_figures(text: str, lines: list[str]) -> str:
    """The README with these figures between its markers."""
    rows = [f"| {name} | {value} |" for name, value in figures(lines)]
    table = "\n".join([BEGIN, "| `make demo` | measured |", "|---|---|", *rows, END])
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _found: table, text, flags=re.DOTALL)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.exit("demo_picture: name the file that holds what `make demo` printed.")
    lines = lines_of(Path(arguments[0]).read_text(encoding="utf-8"))
    if not figures(lines):
        sys.exit(f"demo_picture: {arguments[0]} holds no table of figures: it is not the output of a whole demo.")
    draw(lines, PICTURE)
    README.write_text(with_figures(README.read_text(encoding="utf-8"), lines), encoding="utf-8")
    print(f"wrote {PICTURE.relative_to(ROOT)} and the figures of {README.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
