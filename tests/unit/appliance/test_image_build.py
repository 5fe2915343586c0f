# SPDX-License-Identifier: Apache-2.0
"""What a build leaves: its sums, what an earlier one left, what is compared, and the pinned packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.image import build, packages, plan, twice
from appliance.image.packages import NO_DIGEST, Package
from appliance.image.shell import BuildError, missing, run

BASH = Package("bash", "5.2", "amd64", "bash", "b" * 64)
OURS = Package("jumping-vpn", "0.1.0", "amd64", "jumping-vpn", NO_DIGEST)


def options(tmp_path: Path, locked: bool = False, update_lock: bool = False) -> build.Options:
    return build.Options(tmp_path, False, locked, update_lock, tmp_path / "key")


def test_the_sums_cover_every_output_and_no_scratch(tmp_path: Path) -> None:
    for name in ("a.raw", "slot/initrd", "work-cloud/root/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"abc")
    build.sums(tmp_path)
    build.sums(tmp_path)
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (tmp_path / build.SUMS).read_text() == f"{digest}  a.raw\n{digest}  slot/initrd\n"
    assert twice.read_sums(tmp_path / build.SUMS) == {"a.raw": digest, "slot/initrd": digest}


def test_an_earlier_builds_outputs_go_and_nothing_else(tmp_path: Path) -> None:
    for name in ("old.iso", "mine"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / build.SUMS).write_text(f"{'0' * 64}  old.iso\n{'0' * 64}  gone already\n")
    build.sweep(tmp_path)
    build.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


def test_differences_are_named() -> None:
    one, other = {"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "9", "d": "4"}
    assert twice.differences(one, other) == ["b", "c", "d"]
    assert twice.differences(one, dict(one)) == []


def test_pins_are_written_and_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "packages.lock"
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    monkeypatch.setattr(plan, "LOCK", lock)
    build.pins(options(tmp_path, update_lock=True), [BASH, OURS])
    assert lock.read_text() == packages.listing([BASH])
    build.pins(options(tmp_path, locked=True), [BASH, OURS])
    moved = [BASH._replace(version="5.3"), OURS]
    build.pins(options(tmp_path), moved)
    assert "not as pinned: bash 5.2 became 5.3" in capsys.readouterr().out
    with pytest.raises(BuildError, match="1 packages are not as"):
        build.pins(options(tmp_path, locked=True), moved)


def test_a_missed_size_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, large = tmp_path / "small.qcow2", tmp_path / "large.iso"
    small.write_bytes(b"x" * 1000)
    with large.open("wb") as file:
        file.truncate(plan.ISO_MAX_BYTES + 1)
    build.report([small, large], plan.BUILD_MAX_S + 1.0)
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("(at most 120: held)")
    assert said[1].endswith("(at most 200: MISSED)") and "on disk" in said[1]
    assert said[2].endswith("(at most 360: MISSED)")


def test_a_failed_tool_is_told_with_its_last_words() -> None:
    with pytest.raises(BuildError, match=r"sh failed with 3:\nfirst\nlast"):
        run("sh", "-c", "echo first; echo last >&2; exit 3")
    assert run("cat", stdin=b"given") == "given"


def test_missing_tools_are_named_by_their_package() -> None:
    tools = (("sh", "dash"), ("no-such-tool", "a-package"), ("no-such-other", "a-package"))
    assert missing(tools) == ["a-package"]
