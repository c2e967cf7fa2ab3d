#!/usr/bin/env bash
# Installs what building and running Spanwise needs, with apt, on Debian 12 or Ubuntu 24.04. Does nothing when all of it
# is there. Asks for sudo only if not root.
set -euo pipefail

packages=(
  build-essential cmake ninja-build pkg-config git ca-certificates
  libopenmpi-dev openmpi-bin
  protobuf-compiler libprotobuf-dev
  libspdlog-dev
  libgtest-dev
  libopenblas-openmp-dev
  libsentencepiece-dev
  libsimdjson-dev
  zlib1g-dev
  libzstd-dev
)

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "spanwise: there is no apt on this machine. Install the equivalents of these Debian packages and run again:" >&2
  printf '  %s\n' "${packages[@]}" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} = 0 ]; then exit 0; fi

echo "spanwise: installing with apt: ${missing[*]}"
sudo=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "spanwise: not root and no sudo; run as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  sudo=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
