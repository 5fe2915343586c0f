# SPDX-License-Identifier: Apache-2.0
"""The slot rule of grub.cfg, run by a small interpreter of GRUB's script, against the Python one over every state."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from appliance.update.slotrule import GRUB_LINES, Start, boot_choice
from appliance.update.slots import BootState

GRUB_CFG: Final = Path(__file__).resolve().parents[3] / "appliance/image/files/grub/grub.cfg"
ENV_FILE: Final = "/grub/grubenv"


class Grub:
    """As much of GRUB's script as the rule uses: set, if/else/fi, [ ], load_env, save_env. All else is an error."""

    def __init__(self, state: BootState, slots: set[str], can_save: bool) -> None:
        self.stored = {"slot": state.slot, "next": state.next, "try": state.try_}
        self.files = {f"/{slot}/slot.cfg" for slot in slots}
        self.can_save = can_save
        self.variables = {"envfile": ENV_FILE}

    def run(self, script: str) -> None:
        text = "\n".join(line for line in script.splitlines() if not line.lstrip().startswith("#"))
        # "then" and "else" stand before a command; alone on a part they are easier to read.
        words = re.sub(r"\b(then|else)\b", r"\n\1\n", text)
        parts = iter([part.strip() for part in re.split(r"[;\n]", words) if part.strip()])
        assert self._block(parts, active=True) == "", "fi or else without if"

    def _block(self, parts: Iterator[str], active: bool) -> str:
        """Run commands up to else or fi and say which; where not ``active``, only find the end."""
        for part in parts:
            if part in ("else", "fi"):
                return part
            if part.startswith("if "):
                self._if(part.removeprefix("if "), parts, active)
            elif active:
                assert self._command(part), part
        return ""

    def _if(self, condition: str, parts: Iterator[str], active: bool) -> None:
        truth = active and self._command(condition)
        assert next(parts) == "then"
        end = self._block(parts, truth)
        if end == "else":
            end = self._block(parts, active and not truth)
        assert end == "fi"

    def _command(self, text: str) -> bool:
        """One command; whether it succeeded."""
        match [self._value(word) for word in text.split()]:
            case ["set", assignment]:
                name, _, value = assignment.partition("=")
                self.variables[name] = value
                return True
            case ["load_env", "--file", file, *names]:
                assert file == ENV_FILE
                self.variables |= {name: self.stored[name] for name in names}
                return True
            case ["save_env", "--file", file, *names]:
                assert file == ENV_FILE
                if self.can_save:
                    self.stored |= {name: self.variables[name] for name in names}
                return self.can_save
            case ["[", "!", "-f", path, "]"]:
                return path not in self.files
            case ["[", left, "=", right, "]"]:
                return left == right
        raise AssertionError(f"not understood: {text}")

    def _value(self, word: str) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda found: self.variables.get(found[1], ""), word).strip('"')


def started(script: str, state: BootState, slots: set[str], can_save: bool) -> Start:
    grub = Grub(state, slots, can_save)
    grub.run(script)
    assert grub.variables["trial"] in ("", "jvpn.trial=1")
    left = BootState(grub.stored["slot"], grub.stored["next"], grub.stored["try"])
    return Start(grub.variables["pick"], grub.variables["trial"] != "", left)


@pytest.mark.parametrize("can_save", [True, False])
@pytest.mark.parametrize("slots", [set(), {"a"}, {"b"}, {"a", "b"}])
def test_both_rules_say_the_same(slots: set[str], can_save: bool) -> None:
    names = ("a", "b", "")
    for slot, next_, try_ in itertools.product(names, names, ("0", "1", "", "2")):
        state = BootState(slot, next_, try_)
        assert started(GRUB_LINES, state, slots, can_save) == boot_choice(
            state, slots.__contains__, can_save
        ), state


def test_a_trial_happens_once_and_only_if_it_can_be_noted() -> None:
    armed = BootState("a", "b", "1")
    first = boot_choice(armed, {"a", "b"}.__contains__)
    assert first == Start("b", True, BootState("a", "b", "0"))
    assert boot_choice(first.state, {"a", "b"}.__contains__).slot == "a"
    assert boot_choice(armed, {"a", "b"}.__contains__, can_save=False) == Start("a", False, armed)


def test_grub_cfg_states_the_rule() -> None:
    text = GRUB_CFG.read_text()
    assert text.count(GRUB_LINES) == 1
    assert f"set envfile={ENV_FILE}\n" in text.split(GRUB_LINES)[0]
    kernel = next(line for line in text.splitlines() if line.lstrip().startswith("linux "))
    assert kernel.endswith("${trial}"), "the kernel must hear of a trial"
