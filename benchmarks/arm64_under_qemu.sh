#!/bin/sh
# Run polarindex on an emulated ARM64 processor: that "neon" gives the right answers, not how fast.
#
#   benchmarks/arm64_under_qemu.sh FOLDER [ARGUMENTS OF PYTHON]
#
# Wants: Debian 12 on x86-64 (apt, dpkg, python3 with pip), no root; 1.5 GB in FOLDER, where nothing is put twice.
# Takes: qemu-user and Python 3.11 for arm64 from deb.debian.org, wheels for aarch64 from pypi.org.
# Without arguments it runs the tests of "neon" that execute code, 7 minutes on one core; the others read assembly and
# are as good on x86. The emulated processor says what a Neoverse N1 says, so dispatch must find the dot product from
# its name: LLVM's list of its features has no "dotprod".
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift

if [ ! -e "$folder/ready" ]; then
    cd "$folder"
    mkdir -p apt/lists/partial apt/cache/archives/partial
    : > apt/status
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    {
        echo "deb [signed-by=$keys] http://deb.debian.org/debian bookworm main"
        echo "deb [signed-by=$keys] http://deb.debian.org/debian-security bookworm-security main"
    } > apt/sources.list
    for arch in amd64 arm64; do
        set_apart="-o Dir::State=$folder/apt -o Dir::State::status=$folder/apt/status -o Dir::Cache=$folder/apt/cache
            -o Dir::Etc::sourcelist=$folder/apt/sources.list -o Dir::Etc::sourceparts=-
            -o APT::Architecture=$arch -o APT::Architectures=$arch"
        wanted="qemu-user-static"
        [ $arch = amd64 ] || wanted="python3.11 libstdc++6"
        apt-get $set_apart update
        apt-get $set_apart --download-only --no-install-recommends --yes install $wanted
    done
    for package in apt/cache/archives/*_arm64.deb apt/cache/archives/*_all.deb; do dpkg -x "$package" arm64; done
    dpkg -x apt/cache/archives/qemu-user-static_*_amd64.deb host
    python3 -m pip install --target wheels --only-binary=:all: --python-version 3.11 --implementation cp \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
        --platform manylinux2014_aarch64 \
        numpy "numba>=0.61" "h5py>=3.11" "typer>=0.16" "rich>=13.7" xxhash pytest hypothesis scipy
    mkdir -p arm64/proc # qemu looks for a file's name here first
    printf '%s\n' "processor : 0" \
        "Features : fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp" \
        "CPU implementer : 0x41" "CPU architecture: 8" "CPU variant : 0x3" "CPU part : 0xd0c" "CPU revision : 1" \
        > arm64/proc/cpuinfo
    touch ready
fi

cd "$here"
[ $# -gt 0 ] || set -- -m pytest -q -p no:cacheprovider tests/kernels/test_neon.py -k "formula or plain or alone or seen"
export PYTHONPATH="$here:$folder/wheels" PYTHONDONTWRITEBYTECODE=1 NUMBA_CACHE_DIR="$folder/numba"
exec "$folder/host/usr/bin/qemu-aarch64-static" -cpu max -L "$folder/arm64" "$folder/arm64/usr/bin/python3.11" "$@"
