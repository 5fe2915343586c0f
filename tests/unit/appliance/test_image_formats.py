# SPDX-License-Identifier: Apache-2.0
"""Layout of the disk, the VHD's footer, the grubenv of a new disk, and the sizes a slot may have."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

import pytest

from appliance.image import disk, plan, slot, vhd
from appliance.image.shell import BuildError
from appliance.update import grubenv

EPOCH = 1_700_000_000


def test_partitions_follow_each_other_and_leave_room_for_both_tables() -> None:
    end_mib = 1
    for part in plan.PARTITIONS:
        assert part.start_mib == end_mib
        end_mib += part.size_mib
    assert end_mib == plan.DISK_MIB - 1
    assert [part.label for part in plan.PARTITIONS][-1] == "data"


def test_identifiers_are_told_apart() -> None:
    guids = {part.guid for part in plan.PARTITIONS} | {plan.DISK_GUID}
    assert len(guids) == len(plan.PARTITIONS) + 1
    assert all(str(uuid.UUID(guid)).upper() == guid for guid in guids)


def test_a_vhd_has_the_footer_of_its_format() -> None:
    size = plan.DISK_MIB * plan.MIB
    footer = vhd.footer(size, EPOCH, uuid.UUID(plan.DISK_GUID))
    assert len(footer) == 512 and footer[:8] == b"conectix"
    assert struct.unpack_from(">QQ", footer, 40) == (size, size)
    assert struct.unpack_from(">I", footer, 24) == (EPOCH - 946_684_800,)
    assert struct.unpack_from(">I", footer, 60) == (2,)
    assert footer[68:84] == uuid.UUID(plan.DISK_GUID).bytes
    (checksum,) = struct.unpack_from(">I", footer, 64)
    without = footer[:64] + bytes(4) + footer[68:]
    assert checksum == ~sum(without) & 0xFFFFFFFF


# Worked by hand by the format's rule: 40 MiB, 531 MiB, 127 GiB.
@pytest.mark.parametrize(
    ("sectors", "wanted"),
    [(81_920, (963, 5, 17)), (1_087_488, (1078, 16, 63)), (266_338_304, (65278, 16, 255))],
)
def test_geometry(sectors: int, wanted: tuple[int, int, int]) -> None:
    assert vhd.geometry(sectors) == wanted


def test_a_vhd_has_whole_mib() -> None:
    with pytest.raises(ValueError, match="whole MiB"):
        vhd.footer(plan.MIB + 512, EPOCH, uuid.UUID(plan.DISK_GUID))


def test_a_new_disk_boots_slot_a_and_tries_nothing() -> None:
    assert grubenv.decode(grubenv.encode(disk.FIRST)) == {"slot": "a", "next": "", "try": "0"}


def test_put_leaves_holes(tmp_path: Path) -> None:
    image, part = tmp_path / "image", tmp_path / "part"
    with image.open("wb") as file:
        file.truncate(8 * plan.MIB)
    part.write_bytes(b"\x01" * 10 + bytes(2 * plan.MIB) + b"\x02")
    disk.put(image, part, plan.MIB)
    data = image.read_bytes()
    assert data[plan.MIB :][:10] == b"\x01" * 10 and data[3 * plan.MIB + 10] == 2
    assert len(data) == 8 * plan.MIB and data.count(0) == len(data) - 11
    assert image.stat().st_blocks * 512 < 3 * plan.MIB


def test_a_vmdk_has_a_fixed_content_id(tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    text = b"KDMV\x00\n# Disk DescriptorFile\nversion=1\nCID=1f3c9a07\nparentCID=ffffffff\n\x00\x00"
    path.write_bytes(text)
    disk.settle_vmdk(path)
    assert path.read_bytes() == text.replace(b"1f3c9a07", b"6a76706e")


def test_a_slot_must_fit_its_partitions(tmp_path: Path) -> None:
    for name in ("root.squashfs", "root.verity"):
        (tmp_path / name).write_bytes(b"x")
    slot.fits(tmp_path)
    with (tmp_path / "root.verity").open("wb") as file:
        file.truncate(plan.partition("verity-a").size_mib * plan.MIB + 1)
    with pytest.raises(BuildError, match=r"root\.verity"):
        slot.fits(tmp_path)
