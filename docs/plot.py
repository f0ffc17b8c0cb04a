#!/usr/bin/env python3
"""Draws docs/results/*.svg from the CSV files beside them: `python3 docs/plot.py`."""
import csv
import pathlib

RESULTS = pathlib.Path(__file__).parent / "results"
FONT = 'font-family="sans-serif" font-size="13"'


def rows(name):
    with open(RESULTS / name, newline="") as file:
        return list(csv.DictReader(file))


def write(name, width, height, parts):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    ground = f'<rect width="{width}" height="{height}" fill="white"/>'
    (RESULTS / name).write_text("\n".join([head, ground, *parts, "</svg>"]) + "\n")


def sizes():
    """One bar per program: bits per byte, and what a read of one byte has to decode."""
    data = sorted(rows("sizes.csv"), key=lambda row: float(row["bits_per_byte"]))
    left, scale, step = 290, 150, 24
    parts = [f'<text x="10" y="22" {FONT} font-weight="bold">Bits per byte, and the least that a read decodes</text>']
    for i, row in enumerate(data):
        y = 36 + i * step
        value = float(row["bits_per_byte"])
        ours = row["program"].startswith("s3a")
        solid = row["access"] == "solid"
        colour = "#c0392b" if ours else "#bbbbbb" if solid else "#5b7fa6"
        parts.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end" {FONT}>{row["program"]}, {row["access"]}</text>')
        parts.append(f'<rect x="{left}" y="{y + 2}" width="{value * scale:.0f}" height="{step - 6}" fill="{colour}"/>')
        parts.append(f'<text x="{left + value * scale + 6:.0f}" y="{y + 15}" {FONT}>{value:.3f}</text>')
    write("sizes.svg", 780, 50 + len(data) * step, parts)


def training():
    """Bits per byte of held-out and of training text against tokens seen."""
    data = rows("training.csv")
    width, height, left, bottom, top = 760, 360, 60, 320, 40
    most = max(float(row["tokens"]) for row in data)
    low, high = 1.1, 1.9
    x = lambda row: left + float(row["tokens"]) / most * (width - left - 20)
    y = lambda value: bottom - (min(value, high) - low) / (high - low) * (bottom - top)
    parts = [f'<text x="10" y="22" {FONT} font-weight="bold">Training of the default model: bits per byte against millions of tokens</text>']
    for tick in range(11, 20):
        at = y(tick / 10)
        parts.append(f'<line x1="{left}" y1="{at:.0f}" x2="{width - 20}" y2="{at:.0f}" stroke="#eeeeee"/>')
        parts.append(f'<text x="{left - 8}" y="{at + 4:.0f}" text-anchor="end" {FONT}>{tick / 10}</text>')
    for million in range(0, int(most / 1e6) + 1, 5):
        at = left + million * 1e6 / most * (width - left - 20)
        parts.append(f'<text x="{at:.0f}" y="{bottom + 20}" text-anchor="middle" {FONT}>{million}</text>')
    for key, colour in (("train_bpb", "#bbbbbb"), ("held_out_bpb", "#c0392b")):
        line = " ".join(f"{x(row):.1f},{y(float(row[key])):.1f}" for row in data)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
    parts.append(f'<text x="{width - 210}" y="{top + 16}" {FONT} fill="#c0392b">held-out text</text>')
    parts.append(f'<text x="{width - 210}" y="{top + 34}" {FONT} fill="#888888">training text, smoothed</text>')
    write("training.svg", width, height, parts)


sizes()
training()
