# Sourced by the benchmarks: what they say of the machine, and how they measure memory.

die() { printf 'bench: %s\n' "$1" >&2; exit 1; }

# Machine, load, date, versions: lines to head a result with. Arguments: the folder of the binaries, the command that
# reproduces the result.
describe() {
  printf 'command       %s\n' "$2"
  printf 'date          %s\n' "$(date -u +%Y-%m-%dT%H:%MZ)"
  printf 'machine       %s, %s cores, %s GiB\n' "$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -1)" \
    "$(nproc)" "$(awk '/^MemTotal/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo)"
  printf 'load          %s (1, 5, 15 minutes, at the start)\n' "$(cut -d' ' -f1-3 /proc/loadavg)"
  printf 'kernel        %s\n' "$(uname -r)"
  printf 'gristmill     %s at %s, %s\n' "$("$1/gristmill" --version | cut -d' ' -f2)" \
    "$(git describe --always --dirty 2>/dev/null || echo unknown)" "$(basename "$1")"
  printf 'rustc         %s\n' "$(rustc --version | cut -d' ' -f2)"
  printf 'libtorch      %s\n' "$(sed -n "s/^__version__ = '\(.*\)'/\1/p" third_party/libtorch/torch/version.py 2>/dev/null || echo unknown)"
}

# Runs a command and prints its peak memory, and that of every process that it starts, as `NAME MiB anonymous-MiB`, to the
# file named first. The kernel keeps the peak of a process (VmHWM, mapped files included); anonymous memory is polled.
with_peaks() {
  local peaks=$1
  shift
  python3 - "$peaks" "$@" <<'PYTHON'
import os, subprocess, sys, time

peaks, command = sys.argv[1], sys.argv[2:]
child = subprocess.Popen(command)
found = {}

def status(pid):
    with open(f"/proc/{pid}/status") as file:
        return dict(line.rstrip().split(":", 1) for line in file)

def family():
    pids, parents = {child.pid}, {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as file:
                parents[int(entry)] = int(file.read().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    while more := {pid for pid, parent in parents.items() if parent in pids} - pids:
        pids |= more
    return pids

while child.poll() is None:
    for pid in family():
        try:
            fields = status(pid)
            kib = lambda key: int(fields.get(key, "0 kB").split()[0])
            _, _, anonymous = found.get(pid, ("", 0, 0))
            if kib("VmHWM"):
                name = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
                found[pid] = (name, kib("VmHWM"), max(anonymous, kib("RssAnon")))
        except (OSError, KeyError, ValueError):
            continue
    time.sleep(0.05)
with open(peaks, "w") as file:
    for name, peak, anonymous in found.values():
        file.write(f"{name} {peak // 1024} {anonymous // 1024}\n")
sys.exit(child.returncode)
PYTHON
}
