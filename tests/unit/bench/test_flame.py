# SPDX-License-Identifier: Apache-2.0
"""Flame graphs: stacks folded as perf prints them, drawn as well-formed SVG whose widths are shares."""

from __future__ import annotations

from xml.etree import ElementTree

from bench.tunnel.flame import MARGIN_PX, WIDTH_PX, fold, folded_text, svg, tree

SCRIPT = """\
python
\tffffffff81234567 tun_get_user+0x1c ([kernel.kallsyms])
\tffffffff81234566 writev+0x9 ([kernel.kallsyms])
\t    7f0000001234 jv_sink_flush+0x10 (/somewhere/libjv.so)
\t    7f0000009999 [unknown] (/usr/bin/python3.11)

python
\t    7f0000001234 jv_sink_flush+0x99 (/somewhere/libjv.so)
\t    7f0000009999 [unknown] (/usr/bin/python3.11)

other <thread>
\t    7f0000001234 operator<(a, b)+0x99 (/somewhere/lib&.so)
"""
SVG = "{http://www.w3.org/2000/svg}"


def test_stacks_are_folded_from_the_outside() -> None:
    stacks = fold(SCRIPT.splitlines())
    outer = ("python", "[python3.11]", "jv_sink_flush")
    assert dict(stacks) == {
        (*outer, "writev_[k]", "tun_get_user_[k]"): 1,
        outer: 1,
        ("other <thread>", "operator<(a, b)"): 1,
    }
    assert "python;[python3.11];jv_sink_flush;writev_[k];tun_get_user_[k] 1\n" in folded_text(stacks)


def test_a_frame_counts_everything_above_it() -> None:
    root = tree(fold(SCRIPT.splitlines()))
    assert root.samples == 3
    assert root.children["python"].samples == 2
    assert root.depth() == 6


def test_the_picture_is_well_formed_and_its_widths_are_shares() -> None:
    picture = ElementTree.fromstring(svg(fold(SCRIPT.splitlines()), "a <title> & more"))
    frames = {
        group.find(f"{SVG}title").text: float(group.find(f"{SVG}rect").get("width"))  # type: ignore[union-attr, arg-type]
        for group in picture.iter(f"{SVG}g")
    }
    whole = WIDTH_PX - 2 * MARGIN_PX
    assert abs(frames["all: 3 samples, 100.0%"] - whole) < 0.1
    assert abs(frames["python: 2 samples, 66.7%"] - whole * 2 / 3) < 0.1
    assert "operator<(a, b): 1 samples, 33.3%" in frames


def test_nothing_sampled_is_an_empty_picture() -> None:
    assert len(list(ElementTree.fromstring(svg({}, "nothing")).iter(f"{SVG}g"))) == 0
