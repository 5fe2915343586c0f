# SPDX-License-Identifier: Apache-2.0
"""From `perf script` to a flame graph: stacks folded and counted, then drawn as one SVG file without any script.

Rule: pure; text in, text out. The width of a frame is its share of all samples, frames of one parent stand in the order
of the alphabet, a title (shown by a browser on pointing) says name, samples and share.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

WIDTH_PX: Final = 1400
FRAME_PX: Final = 17
MARGIN_PX: Final = 8
TITLE_PX: Final = 40
CHARACTER_PX: Final = 6.6
# A narrower frame can be neither read nor pointed at.
LEAST_PX: Final = 0.4
UNKNOWN: Final = "[unknown]"
# "  ffffffff8 symbol+0x1c (/path/to/object)"
FRAME: Final = re.compile(r"^\s+[0-9a-f]+ (.*) \((.*)\)$")
OFFSET: Final = re.compile(r"\+0x[0-9a-f]+$")


def fold(lines: Iterable[str]) -> Counter[tuple[str, ...]]:
    """Samples by stack, the outermost frame first: the output of `perf script -F comm,ip,sym,dso`."""
    stacks: Counter[tuple[str, ...]] = Counter()
    comm, frames = "", list[str]()
    for line in lines:
        if not line.strip():
            _add(stacks, comm, frames)
            comm, frames = "", []
        elif found := FRAME.match(line):
            frames.append(name_of(found[1], found[2]))
        else:
            comm = line.strip()
    _add(stacks, comm, frames)
    return stacks


def _add(stacks: Counter[tuple[str, ...]], comm: str, frames: list[str]) -> None:
    if comm:
        stacks[(comm, *reversed(frames))] += 1


def name_of(symbol: str, binary: str) -> str:
    """A frame's name: the function, or the object it is in; kernel functions end in ``_[k]``."""
    kernel = binary.startswith("[kernel") or binary.endswith(".ko")
    name = OFFSET.sub("", symbol)
    if name == UNKNOWN:
        return f"[{binary.rpartition('/')[2].strip('[]')}]"
    return f"{name}_[k]" if kernel else name


def folded_text(stacks: Mapping[tuple[str, ...], int]) -> str:
    """A line per stack, as other tools read it: frames with semicolons, then the number of samples."""
    return "".join(f"{';'.join(stack)} {count}\n" for stack, count in sorted(stacks.items()))


@dataclass
class Node:
    """A frame with everything that it called."""

    samples: int = 0
    children: dict[str, Node] = field(default_factory=dict)

    def depth(self) -> int:
        """Frames below it, in the longest stack."""
        return 1 + max((child.depth() for child in self.children.values()), default=0)


def tree(stacks: Mapping[tuple[str, ...], int]) -> Node:
    """All stacks merged from their outer end."""
    root = Node()
    for stack, count in stacks.items():
        root.samples += count
        node = root
        for name in stack:
            node = node.children.setdefault(name, Node())
            node.samples += count
    return root


def svg(stacks: Mapping[tuple[str, ...], int], title: str) -> str:
    """The picture, outermost frames at the bottom."""
    root = tree(stacks)
    height = TITLE_PX + root.depth() * FRAME_PX + MARGIN_PX
    style = 'font-family="monospace" font-size="11"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH_PX}" height="{height}" {style}>'
    lines = [head, '<rect width="100%" height="100%" fill="#fffdf5"/>']
    lines += [f'<text x="{MARGIN_PX}" y="24" font-size="15">{escape(title)}</text>']
    if root.samples:
        scale = (WIDTH_PX - 2 * MARGIN_PX) / root.samples
        bottom = height - MARGIN_PX - FRAME_PX
        lines += _frames("all", root, 0, (scale, bottom, root.samples))
    return "\n".join([*lines, "</svg>", ""])


def _frames(
    name: str, node: Node, start: int, shape: tuple[float, int, int], level: int = 0
) -> Iterator[str]:
    """A frame and those above it. ``shape``: pixels per sample, y of the lowest frame, all samples."""
    scale, bottom, total = shape
    width = node.samples * scale
    if width < LEAST_PX:
        return
    yield _frame(name, node, (MARGIN_PX + start * scale, bottom - level * FRAME_PX, width), total)
    for child, below in sorted(node.children.items()):
        yield from _frames(child, below, start, shape, level + 1)
        start += below.samples


def _frame(name: str, node: Node, place: tuple[float, float, float], total: int) -> str:
    x, y, width = place
    said = f"{name}: {node.samples} samples, {node.samples / total:.1%}"
    fits = int((width - 4) / CHARACTER_PX)
    text = name if len(name) <= fits else f"{name[: fits - 1]}…" if fits > 3 else ""
    box = f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{FRAME_PX - 1}" fill="{colour(name)}"/>'
    label = f'<text x="{x + 2:.1f}" y="{y + 12}">{escape(text)}</text>' if text else ""
    return f"<g><title>{escape(said)}</title>{box}{label}</g>"


def colour(name: str) -> str:
    """By where it runs: kernel, our C, anything else; a name has the same shade in every picture."""
    shade = zlib.crc32(name.encode()) % 40
    hue = 205 if name.endswith("_[k]") else 95 if name.startswith("jv_") else 30
    return f"hsl({hue},65%,{50 + shade // 2}%)"
