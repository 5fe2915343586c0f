# SPDX-License-Identifier: Apache-2.0
"""The installer on a plain file as its disk, with the real sfdisk and mkfs.ext4; and which disks it refuses."""

from __future__ import annotations

import json
import lzma
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.image import plan
from appliance.update import programs
from appliance.update.disk import RealDisk
from appliance.update.install import Machine, Medium, install, require_block_device, require_disk
from appliance.update.partitions import LEAST_DISK_BYTES, MIB, PARTITIONS, data_bytes, partition
from appliance.update.slotcfg import SlotConfig
from gateway.errors import HostError, JumpError, ProtocolError, Refused
from tests.unit.appliance.updating import make_slot, quiet

DISK_BYTES = 700 * MIB + 12345


@pytest.fixture
def medium(tmp_path: Path) -> Medium:
    """As the ISO has it."""
    folder = tmp_path / "medium"
    slot = make_slot(tmp_path / "slot")
    (folder / "live").mkdir(parents=True)
    (folder / "install").mkdir()
    shutil.copy(slot / "root.squashfs", folder / "live")
    for name in ("root.verity", "slot.cfg"):
        shutil.copy(slot / name, folder / "install")
    (folder / "install/mbr.bin").write_bytes(b"\xeb\x63" + b"m" * 438)
    (folder / "install/bios.bin").write_bytes(b"core" * 5000)
    (folder / "install/esp.img.xz").write_bytes(
        lzma.compress(b"FAT." * (partition("esp").size_bytes // 4), preset=0)
    )
    return Medium(folder)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An old disk, full of something else at both ends."""
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.write(b"\xaa" * MIB)
        file.truncate(DISK_BYTES)
        file.seek(DISK_BYTES - MIB)
        file.write(b"\xaa" * MIB)
    return path


def at(target: Path, label: str, size_bytes: int) -> bytes:
    return RealDisk().read(target, partition(label).start_bytes, size_bytes)


needs_tools = pytest.mark.skipif(
    shutil.which("sfdisk") is None or shutil.which("mkfs.ext4") is None,
    reason="sfdisk or mkfs.ext4 is not installed",
)


@needs_tools
def test_a_disk_has_everything_where_the_image_has_it(medium: Medium, target: Path) -> None:
    config = install(medium, target, RealDisk(), programs.run, quiet)
    assert isinstance(config, SlotConfig) and config.version == "2.0.0"
    squashfs = medium.squashfs.read_bytes()
    assert at(target, "root-a", len(squashfs)) == squashfs
    assert at(target, "verity-a", 4096) == medium.file("root.verity").read_bytes()[:4096]
    assert at(target, "bios", 20000) == b"core" * 5000
    assert at(target, "esp", partition("esp").size_bytes) == b"FAT." * (partition("esp").size_bytes // 4)
    head = RealDisk().read(target, 0, 512)
    assert head[:440] == medium.file("mbr.bin").read_bytes()
    assert head[510:] == b"\x55\xaa"


@needs_tools
def test_the_table_is_the_image_s_and_data_takes_the_rest(medium: Medium, target: Path) -> None:
    install(medium, target, RealDisk(), programs.run, quiet)
    table = json.loads(programs.run(["sfdisk", "--json", str(target)]))["partitiontable"]
    found = [(row["name"], row["start"] * 512, row["size"] * 512, row["type"]) for row in table["partitions"]]
    expected = [(p.label, p.start_bytes, p.size_bytes, p.type_guid) for p in PARTITIONS]
    expected[-1] = (*expected[-1][:2], data_bytes(DISK_BYTES), expected[-1][3])
    assert found == expected
    assert data_bytes(DISK_BYTES) == 700 * MIB - MIB - 466 * MIB
    assert subprocess.run(["sfdisk", "--verify", target], capture_output=True, check=False).returncode == 0


@needs_tools
def test_two_disks_have_identifiers_of_their_own(medium: Medium, target: Path) -> None:
    identifiers = set()
    for _ in range(2):
        install(medium, target, RealDisk(), programs.run, quiet)
        table = json.loads(programs.run(["sfdisk", "--json", str(target)]))["partitiontable"]
        identifiers |= {table["id"], *(row["uuid"] for row in table["partitions"])}
    assert len(identifiers) == 2 * (1 + len(PARTITIONS))


@needs_tools
def test_data_is_an_empty_file_system_of_the_right_size(medium: Medium, target: Path, tmp_path: Path) -> None:
    install(medium, target, RealDisk(), programs.run, quiet)
    data = tmp_path / "data"
    with target.open("rb") as disk, data.open("wb") as file:
        disk.seek(partition("data").start_bytes)
        file.write(disk.read(data_bytes(DISK_BYTES)))
    said = programs.run(["dumpe2fs", "-h", str(data)])
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in said.splitlines())
    }
    assert facts["Filesystem volume name"] == "jvpn-data"
    assert int(facts["Block count"]) * int(facts["Block size"]) <= data_bytes(DISK_BYTES)
    assert int(facts["Block count"]) * int(facts["Block size"]) > data_bytes(DISK_BYTES) - MIB
    programs.run(["e2fsck", "-fn", str(data)])


def test_what_is_missing_on_the_medium_is_named_and_nothing_is_written(medium: Medium, target: Path) -> None:
    before = target.read_bytes()
    medium.file("esp.img.xz").unlink()
    with pytest.raises(Refused, match=r"esp\.img\.xz not found"):
        install(medium, target, RealDisk(), programs.run, quiet)
    assert target.read_bytes() == before


def test_boot_code_of_another_size_is_refused(medium: Medium, target: Path) -> None:
    medium.file("mbr.bin").write_bytes(bytes(446))
    with pytest.raises(ProtocolError, match="440 bytes"):
        install(medium, target, RealDisk(), programs.run, quiet)


@pytest.mark.parametrize("name", ["live/root.squashfs", "install/root.verity", "install/esp.img.xz"])
def test_a_damaged_medium_leaves_a_disk_that_does_not_boot(medium: Medium, target: Path, name: str) -> None:
    path = medium.folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)

    def no_programs(command: object, _text: str) -> str:
        raise AssertionError(f"{command} was run")

    with pytest.raises(JumpError):
        install(medium, target, RealDisk(), no_programs, quiet)
    assert RealDisk().read(target, 0, MIB) == bytes(MIB), "no boot code and no table"


def test_a_squashfs_larger_than_its_partition_is_refused(medium: Medium, target: Path) -> None:
    with medium.squashfs.open("r+b") as file:
        file.truncate(partition("root-a").size_bytes + 1)
    with pytest.raises(HostError, match="root-a: the medium holds more"):
        install(medium, target, RealDisk(), programs.run, quiet)


# --- which disks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """sda with two partitions: nothing is used. sdb is small."""
    root = tmp_path / "machine"
    for name, size in (("sda", 2 * LEAST_DISK_BYTES), ("sdb", LEAST_DISK_BYTES - 512)):
        folder = root / "sys/class/block" / name
        (folder / "device").mkdir(parents=True)
        (folder / "holders").mkdir()
        (folder / "size").write_text(f"{size // 512}\n")
        (folder / "ro").write_text("0\n")
        (folder / "dev").write_text("8:0\n" if name == "sda" else "8:16\n")
        (folder / "device/model").write_text("ROTATING RUST \n")
    for number in (1, 2):
        folder = root / f"sys/class/block/sda/sda{number}"
        (folder / "holders").mkdir(parents=True)
        (folder / "partition").write_text(f"{number}\n")
        (folder / "dev").write_text(f"8:{number}\n")
        (root / f"sys/class/block/sda{number}").symlink_to(folder)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("22 1 7:0 / / rw - squashfs /dev/loop0 ro\n")
    (root / "proc/swaps").write_text("Filename\tType\tSize\tUsed\tPriority\n")
    return Machine(root)


def test_a_free_disk_is_taken(machine: Machine) -> None:
    facts = require_disk(machine, Path("/dev/sda"))
    assert (facts.name, facts.model, facts.size_bytes) == ("sda", "ROTATING RUST", 2 * LEAST_DISK_BYTES)
    assert facts.sentence() == "sda: ROTATING RUST, 1.1 GB"


def test_other_disks_are_not(machine: Machine) -> None:
    for device, word in (
        ("sdz", "no block device"),
        ("sda1", "is a partition"),
        ("sdb", "the appliance needs 531"),
    ):
        with pytest.raises(Refused, match=word):
            require_disk(machine, Path("/dev") / device)
    (machine.block("sda") / "ro").write_text("1\n")
    with pytest.raises(Refused, match="cannot be written"):
        require_disk(machine, Path("/dev/sda"))


@pytest.mark.parametrize("dev", ["8:0", "8:2"])
def test_a_mounted_disk_is_not(machine: Machine, dev: str) -> None:
    path = machine.root / "proc/self/mountinfo"
    path.write_text(path.read_text() + f"23 22 {dev} / /mnt rw - ext4 /dev/sda2 rw\n")
    with pytest.raises(Refused, match="is in use"):
        require_disk(machine, Path("/dev/sda"))


def test_swap_and_mappings_count_as_use(machine: Machine) -> None:
    swaps = machine.root / "proc/swaps"
    before = swaps.read_text()
    swaps.write_text(before + "/dev/sda2 partition 100 0 -2\n")
    with pytest.raises(Refused, match="sda2 is in use"):
        require_disk(machine, Path("/dev/sda"))
    swaps.write_text(before)
    (machine.block("sda") / "sda1/holders/dm-0").touch()
    with pytest.raises(Refused, match="sda1 is in use"):
        require_disk(machine, Path("/dev/sda"))


def test_a_plain_file_is_no_disk(tmp_path: Path) -> None:
    (tmp_path / "sda").touch()
    for path, word in ((tmp_path / "sda", "no block device"), (tmp_path / "none", "No such file")):
        with pytest.raises(Refused, match=word):
            require_block_device(path)


def test_the_layout_is_the_image_s() -> None:
    image = [(p.label, p.start_mib, p.size_mib, p.type_guid) for p in plan.PARTITIONS]
    assert image == [(p.label, p.start_mib, p.size_mib, p.type_guid) for p in PARTITIONS]
    assert plan.DISK_MIB * MIB == LEAST_DISK_BYTES
