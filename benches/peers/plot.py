#!/usr/bin/env python3
"""Draws docs/benchmarks.svg: the times in the table of docs/benchmarks.md, relative to this crate."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
COLORS = ["#222222", "#0072b2", "#56b4e9", "#e69f00", "#009e73", "#d55e00"]
LEFT, UNIT, BAR, GAP, TOP = 190, 62, 13, 18, 64


def number(cell):
    return float(found[0]) if (found := re.match(r"[0-9.]+", cell)) else None


def main():
    lines = [line for line in (DOCS / "benchmarks.md").read_text().splitlines() if line[:1] == "|"]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    names, rows = cells[0][1:], cells[2:]
    height = TOP + sum(BAR * sum(number(cell) is not None for cell in row[1:]) + GAP for row in rows)
    title = "Time of a step, relative to this crate (shorter is better)"
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" width="760" '
           f'style="max-width:100%;height:auto" font-family="sans-serif" font-size="12" role="img" '
           f'aria-label="{title}">', f"<title>{title}</title>",
           f'<rect width="760" height="{height}" fill="#ffffff"/>',
           f'<text x="20" y="24" font-size="16" font-weight="bold" fill="#111111">{title}</text>']
    for place, (name, color) in enumerate(zip(names, COLORS)):
        x = 20 + 122 * place
        svg.append(f'<rect x="{x}" y="36" width="11" height="11" fill="{color}"/>'
                   f'<text x="{x + 16}" y="46" fill="#111111">{name}</text>')
    y = TOP
    for row in rows:
        own, shown = number(row[1]), [c for c in zip(row[1:], COLORS) if number(c[0]) is not None]
        svg.append(f'<text x="{LEFT - 8}" y="{y + BAR * len(shown) / 2 + 4:g}" text-anchor="end" '
                   f'fill="#111111">{row[0]}</text>')
        for cell, color in shown:
            width = UNIT * number(cell) / own
            svg.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}" fill="{color}"/>'
                       f'<text x="{LEFT + width + 5:.1f}" y="{y + BAR - 3}" fill="#111111">'
                       f"{number(cell):g} ms</text>")
            y += BAR
        y += GAP
    (DOCS / "benchmarks.svg").write_text("\n".join(svg + ["</svg>", ""]))


main()
