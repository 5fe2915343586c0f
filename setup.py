# SPDX-License-Identifier: Apache-2.0
"""Builds the native part: libsodium, libjv (csrc) and the Cython modules of gateway/dataplane.

Rule: one copy of each library per process. libsodium and libjv are shared libraries in gateway/_lib, every Cython
module links libjv with the run path $ORIGIN/../_lib, and nothing is linked in twice.

Everything is rebuilt only when a source, a header or a flag is newer than the result. Switches (environment):
  JVPN_SODIUM=system   link the system's libsodium (needs its headers) instead of building 1.0.20
  JVPN_BUILD=debug     -O0 -g
  JVPN_WERROR=1        warnings of csrc are errors (`make` sets it)
Commands beside setuptools' own: `build_ext --inplace` (what `make build` runs), `ctest` and `threadtest`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, NamedTuple

from setuptools import Command, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / "build"
CSRC = ROOT / "csrc"
DATAPLANE = ROOT / "gateway" / "dataplane"

# PyNaCl's source distribution carries the whole source of libsodium with a configure script ready to run.
SODIUM_VERSION = "1.0.20"
SODIUM_SONAME = "libsodium.so.26"
SODIUM_CARRIER = "pynacl==1.6.2"
SODIUM_CARRIER_SHA256 = "018494d6d696ae03c7e656e5e74cdfd8ea1326962cc401bcf018f1ed8436811c"
SODIUM_SOURCE_IN_CARRIER = "pynacl-1.6.2/src/libsodium"
SODIUM_HOME = BUILD / f"libsodium-{SODIUM_VERSION}"

DEBUG = os.environ.get("JVPN_BUILD") == "debug"
FLAVOUR = "debug" if DEBUG else "release"
JOBS = os.cpu_count() or 1
CC = shlex.split(os.environ.get("CC", "gcc"))

BASE_CFLAGS = (
    "-std=gnu11",
    "-D_GNU_SOURCE",
    "-fPIC",
    "-fvisibility=hidden",
    "-pthread",
    f"-I{CSRC / 'include'}",
)
WARNINGS = ("-Wall", "-Wextra", *(("-Werror",) if os.environ.get("JVPN_WERROR") == "1" else ()))
OPTIMISE = ("-O0", "-g") if DEBUG else ("-O2", "-g0", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2")
SANITIZE = (
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
)
THREADS = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=thread")
HARDEN_LINK = ("-Wl,-z,relro,-z,now", "-Wl,--no-undefined")


class BuildError(SystemExit):
    """Stops the build with one line that says what to do."""


class FetchError(Exception):
    """The source of libsodium cannot be had here."""


class Sodium(NamedTuple):
    """How to compile and link against the chosen libsodium; ``bundled`` is the file to ship, if any."""

    cflags: tuple[str, ...]
    ldflags: tuple[str, ...]
    bundled: Path | None


def say(text: str) -> None:
    print(text, flush=True)


def run(arguments: Sequence[str | Path], **options: object) -> None:
    subprocess.run([str(a) for a in arguments], check=True, **options)  # type: ignore[call-overload]


def newer(sources: Sequence[Path], result: Path) -> bool:
    """Tell whether ``result`` must be made again."""
    if not result.exists():
        return True
    made_at = result.stat().st_mtime_ns
    return any(source.stat().st_mtime_ns > made_at for source in sources)


def replace_file(source: Path, target: Path) -> None:
    """Copy unless it is the same already, so that a process which has the old file mapped keeps it whole."""
    wanted = source.stat()
    if target.exists() and (target.stat().st_mtime_ns, target.stat().st_size) == (
        wanted.st_mtime_ns,
        wanted.st_size,
    ):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copy2(source, fresh)
    os.replace(fresh, target)


# --- libsodium --------------------------------------------------------------------------------------------------


def fetch_sodium_source(into: Path) -> Path:
    """Download the carrier through pip (its configured index, pinned hash) and unpack libsodium's tree."""
    into.mkdir(parents=True, exist_ok=True)
    pinned = into / "carrier.txt"
    pinned.write_text(f"{SODIUM_CARRIER} --hash=sha256:{SODIUM_CARRIER_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # No isolation: pip asks the carrier for its metadata, and setuptools and cffi are at hand already.
    command += [
        "--no-build-isolation",
        "--no-binary",
        ":all:",
        "--require-hashes",
        "-d",
        str(into),
        "-r",
        str(pinned),
    ]
    try:
        run(command)
    except (OSError, subprocess.CalledProcessError) as error:
        raise FetchError(str(error)) from error
    archive = next(into.glob("*.tar.gz"))
    with tarfile.open(archive) as tar:
        wanted = [m for m in tar.getmembers() if m.name.startswith(SODIUM_SOURCE_IN_CARRIER + "/")]
        tar.extractall(into, members=wanted)
    return into / SODIUM_SOURCE_IN_CARRIER


def build_sodium(source: Path) -> None:
    """Configure, compile, strip and install into SODIUM_HOME; the library goes last, it is the stamp."""
    log = BUILD / "libsodium.log"
    # Its own flags (-O3 and the CPU features per file) are part of what was measured: ours stay out.
    environment = {k: v for k, v in os.environ.items() if k not in ("CFLAGS", "CPPFLAGS", "LDFLAGS")} | {
        "CC": " ".join(CC)
    }
    with log.open("w") as out:
        options = {"cwd": source, "env": environment, "stdout": out, "stderr": subprocess.STDOUT}
        try:
            run(
                ["./configure", "--disable-static", "--disable-dependency-tracking", "--prefix", SODIUM_HOME],
                **options,
            )
            run(["make", f"-j{JOBS}", "-C", "src"], **options)
        except subprocess.CalledProcessError as error:
            raise BuildError(f"libsodium did not build: see {log}") from error
    made = source / "src" / "libsodium"
    shutil.copytree(made / "include", SODIUM_HOME / "include", dirs_exist_ok=True)
    library = next(path for path in (made / ".libs").glob(f"{SODIUM_SONAME}.*") if not path.is_symlink())
    run(["strip", "--strip-unneeded", library])
    replace_file(library, SODIUM_HOME / "lib" / SODIUM_SONAME)
    shutil.copyfile(source / "LICENSE", SODIUM_HOME / "LICENSE")


def bundled_sodium() -> Sodium:
    library = SODIUM_HOME / "lib" / SODIUM_SONAME
    if not library.exists():
        say(f"[3/5] building libsodium {SODIUM_VERSION} (about 35 s, once)")
        source_home = BUILD / "libsodium-source"
        shutil.rmtree(source_home, ignore_errors=True)
        build_sodium(fetch_sodium_source(source_home))
        shutil.rmtree(source_home, ignore_errors=True)
    return Sodium((f"-isystem{SODIUM_HOME / 'include'}",), (str(library),), library)


def system_sodium() -> Sodium:
    probe = subprocess.run(
        [*CC, "-E", "-"], input="#include <sodium.h>\n", text=True, capture_output=True, check=False
    )
    if probe.returncode != 0:
        raise BuildError(
            "the system's libsodium has no headers here: apt-get install libsodium-dev, then build again"
        )
    return Sodium((), ("-lsodium",), None)


def choose_sodium() -> Sodium:
    if os.environ.get("JVPN_SODIUM") == "system":
        say(
            "[3/5] using the system's libsodium: before 1.0.19 it lacks AEGIS, and its AES-256-GCM is half as fast"
        )
        return system_sodium()
    try:
        return bundled_sodium()
    except FetchError as error:
        say(f"[3/5] libsodium {SODIUM_VERSION} cannot be fetched ({error}).")
        say(
            "      Falling back to the system's: before 1.0.19 it lacks AEGIS, and its AES-256-GCM is half as fast."
        )
        return system_sodium()


# --- csrc -------------------------------------------------------------------------------------------------------


def headers() -> list[Path]:
    return sorted(
        [*CSRC.glob("include/jv/*.h"), *CSRC.glob("src/*.h"), *CSRC.glob("test/*.h"), *CSRC.glob("fuzz/*.h")]
    )


def remember_flags(directory: Path, flags: Sequence[str]) -> Path:
    """Keep the flags in a file that is touched only when they change; results depend on it like on a source."""
    directory.mkdir(parents=True, exist_ok=True)
    stamp, text = directory / "flags", " ".join([*CC, *flags])
    if not stamp.exists() or stamp.read_text() != text:
        stamp.write_text(text)
    return stamp


def compile_objects(sources: Sequence[Path], into: Path, flags: Sequence[str]) -> list[Path]:
    """Compile what is out of date, JOBS at a time; return every object file."""
    common = [remember_flags(into, flags), *headers()]
    objects = [into / f"{source.stem}.o" for source in sources]
    stale = [(s, o) for s, o in zip(sources, objects, strict=True) if newer([s, *common], o)]
    with ThreadPoolExecutor(JOBS) as pool:
        jobs = [pool.submit(run, [*CC, *flags, "-c", source, "-o", result]) for source, result in stale]
    try:
        for job in jobs:
            job.result()
    except subprocess.CalledProcessError as error:
        raise BuildError(f"csrc does not compile (exit status {error.returncode})") from error
    return objects


def link(arguments: Sequence[str | Path], result: Path, what: str) -> None:
    try:
        run([*CC, *arguments, "-o", result])
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{what} does not link (exit status {error.returncode})") from error


def build_libjv(sodium: Sodium) -> Path:
    into = BUILD / FLAVOUR
    library = into / "libjv.so"
    sources = sorted(CSRC.glob("src/*.c"))
    flags = (*BASE_CFLAGS, *WARNINGS, *OPTIMISE, *sodium.cflags)
    linking = ("-shared", "-pthread", "-Wl,-soname,libjv.so", "-Wl,-rpath,$ORIGIN", *HARDEN_LINK)
    if newer([*sources, *headers()], library):
        say(f"[4/5] building libjv ({len(sources)} C files, {FLAVOUR})")
    objects = compile_objects(sources, into / "csrc", flags)
    stamp = remember_flags(into, (*linking, *sodium.ldflags, *map(str, objects)))
    if newer([*objects, stamp], library):
        link([*linking, *objects, *sodium.ldflags], library, "libjv")
    return library


class BuildNative(build_ext):
    """build_ext that makes the two libraries first and puts them beside the extensions."""

    def run(self) -> None:
        sodium = choose_sodium()
        home = (ROOT if self.inplace else Path(self.build_lib)) / "gateway" / "_lib"
        self._place_sodium(sodium, home)
        replace_file(build_libjv(sodium), home / "libjv.so")
        flags = remember_flags(BUILD / "extensions", (FLAVOUR, *OPTIMISE))
        for extension in self.extensions:
            extension.depends.append(str(flags))
        self.parallel = JOBS
        say(f"[5/5] building {len(self.extensions)} Cython modules where out of date")
        super().run()

    @staticmethod
    def _place_sodium(sodium: Sodium, home: Path) -> None:
        if sodium.bundled:
            replace_file(sodium.bundled, home / SODIUM_SONAME)
            replace_file(SODIUM_HOME / "LICENSE", home / "LICENSE.libsodium")
        else:
            (home / SODIUM_SONAME).unlink(missing_ok=True)


class BuildPy(build_py):
    """build_py into a folder without leftovers: a wheel must not hold a module that was deleted since."""

    def run(self) -> None:
        package, modules = Path(self.build_lib) / "gateway", {path.stem for path in DATAPLANE.glob("*.pyx")}
        for path in [*package.rglob("*.py*"), *package.glob("dataplane/*.so")]:
            if path.suffix != ".so" or path.name.split(".")[0] not in modules:
                path.unlink()
        super().run()


def extensions() -> list[Extension]:
    """One module per .pyx; linked against libjv by name, found at run time beside the package."""
    modules = sorted(DATAPLANE.glob("*.pyx"))
    if not modules or {"clean", "ctest", "threadtest", "egg_info", "dist_info", "sdist"} & set(sys.argv):
        return []
    from Cython.Build import cythonize

    found = [
        Extension(
            f"gateway.dataplane.{path.stem}",
            [str(path.relative_to(ROOT))],
            include_dirs=[str(CSRC / "include")],
            libraries=["jv"],
            library_dirs=[str(BUILD / FLAVOUR)],
            runtime_library_dirs=["$ORIGIN/../_lib"],
            extra_compile_args=["-std=gnu11", *OPTIMISE],
            extra_link_args=["-Wl,-z,relro,-z,now"],
            depends=[str(path) for path in headers()],
        )
        for path in modules
    ]
    directives = {"language_level": 3, "embedsignature": True}
    return list(cythonize(found, build_dir=str(BUILD / "cython"), compiler_directives=directives, quiet=True))


# --- C tests ----------------------------------------------------------------------------------------------------


def oldest_sodium() -> Path | None:
    """The system's libsodium from before 1.0.19, if it has one."""
    return next(iter(sorted(Path("/usr/lib").glob("*/libsodium.so.23"))), None)


class CTest(Command):
    """Builds each csrc/test/test_*.c and csrc/fuzz/fuzz_*.c with all of csrc/src under ASan and UBSan, and runs it.

    A fuzz target runs over the fixed inputs of csrc/fuzz/driver.c.
    """

    description = "run the C tests under AddressSanitizer and UndefinedBehaviorSanitizer"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None:
        pass

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        tests = sorted(CSRC.glob("test/test_*.c"))
        if not tests:
            raise BuildError("csrc/test has no test_*.c: nothing would be tested")
        programs = self._build(choose_sodium(), tests)
        failed = [program.name for program in programs if not self._passes(program)]
        if failed:
            raise BuildError(f"C tests failed under ASan+UBSan: {', '.join(failed)}")
        say(f"C tests: {len(programs)} programs passed under ASan+UBSan")

    def _build(self, sodium: Sodium, tests: Sequence[Path]) -> list[Path]:
        into = BUILD / "ctest"
        flags = (*BASE_CFLAGS, *WARNINGS, *SANITIZE, f"-I{CSRC / 'src'}", *sodium.cflags)
        library = compile_objects(sorted(CSRC.glob("src/*.c")), into / "csrc", flags)
        mains = compile_objects(tests, into / "test", flags)
        *targets, driver = compile_objects(
            [*sorted(CSRC.glob("fuzz/fuzz_*.c")), CSRC / "fuzz" / "driver.c"], into / "fuzz", flags
        )
        parts = {into / main.stem: [main] for main in mains} | {into / t.stem: [t, driver] for t in targets}
        programs = [self._link(own, library, sodium, program) for program, own in parts.items()]
        # What csrc does without AEGIS is forced, where the system has such a library, by linking that one.
        if sodium.bundled and (old := oldest_sodium()):
            without_aegis = Sodium(sodium.cflags, (str(old),), None)
            aead = [into / "test" / "test_aead.o"]
            programs.append(self._link(aead, library, without_aegis, into / "test_aead_without_aegis"))
        return programs

    @staticmethod
    def _link(own: Sequence[Path], library: Sequence[Path], sodium: Sodium, program: Path) -> Path:
        run_path = [f"-Wl,-rpath,{sodium.bundled.parent}"] if sodium.bundled else []
        if newer([*own, *library], program):
            link([*SANITIZE, "-pthread", *own, *library, *sodium.ldflags, *run_path], program, program.name)
        return program

    def _passes(self, program: Path) -> bool:
        say(f"--- {program.name}")
        strict = {"ASAN_OPTIONS": "detect_stack_use_after_return=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
        try:
            done = subprocess.run([program], env={**os.environ, **strict}, timeout=300, check=False)
        except subprocess.TimeoutExpired:
            say(f"{program.name} did not end within 300 s")
            return False
        return done.returncode == 0


class ThreadTest(Command):
    """Runs the C tests that have several threads under ThreadSanitizer, and shows that it finds a planted race.

    Leaves build/tsan/libjv.so, instrumented alike, which tests/integration/test_workers_tsan.py puts under the
    built extension.
    """

    description = "run the C tests with threads under ThreadSanitizer"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []
    THREADED: ClassVar[tuple[str, ...]] = ("test_workers", "test_ring")
    RACE_FOUND: ClassVar[int] = 66  # TSan's exit status

    def initialize_options(self) -> None:
        pass

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        sodium, into = choose_sodium(), BUILD / "tsan"
        flags = (*BASE_CFLAGS, *WARNINGS, *THREADS, f"-I{CSRC / 'src'}", *sodium.cflags)
        objects = compile_objects(sorted(CSRC.glob("src/*.c")), into / "csrc", flags)
        run_path = [f"-Wl,-rpath,{sodium.bundled.parent}"] if sodium.bundled else []
        linking = [*THREADS, "-pthread", *sodium.ldflags, *run_path]
        if newer(objects, into / "libjv.so"):
            link(["-shared", "-Wl,-soname,libjv.so", *objects, *linking], into / "libjv.so", "libjv")
        for name in self.THREADED:
            self._expect(self._program(name, (), objects, flags, linking), 0)
        self._expect(self._program("test_workers", ("PLANT_RACE",), objects, flags, linking), self.RACE_FOUND)
        say(f"C tests: {len(self.THREADED)} programs passed under TSan, and a planted race was found")

    @staticmethod
    def _program(
        name: str, defines: tuple[str, ...], objects: list[Path], flags: tuple[str, ...], linking: list[str]
    ) -> Path:
        into = BUILD / "tsan" / "-".join(("test", *defines)).lower()
        mains = compile_objects([CSRC / "test" / f"{name}.c"], into, (*flags, *(f"-D{d}" for d in defines)))
        if newer([*mains, *objects], into / name):
            link([*mains, *objects, *linking], into / name, name)
        return into / name

    def _expect(self, program: Path, status: int) -> None:
        say(f"--- {program.relative_to(BUILD)}")
        done = subprocess.run([program], timeout=300, check=False, capture_output=True, text=True)
        found = "WARNING: ThreadSanitizer: data race" in done.stderr
        if done.returncode != status or found != (status == self.RACE_FOUND):
            say(done.stdout + done.stderr)
            raise BuildError(f"{program}: exit status {done.returncode} under TSan, expected {status}")


# pip runs this file as a script and as a build backend; paths above are absolute, setuptools wants the root.
os.chdir(ROOT)
setup(
    ext_modules=extensions(),
    cmdclass={
        "build_py": BuildPy,
        "build_ext": BuildNative,
        "ctest": CTest,
        "threadtest": ThreadTest,
    },
)
