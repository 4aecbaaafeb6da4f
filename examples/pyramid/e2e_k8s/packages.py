"""Brings in what requirements.txt names, once, with nothing but Python and pip.

The packages go to `.packages/<python and digest of requirements.txt>` beside the file (or below
$E2E_K8S_PACKAGES, which many copies of the app may share), never into the machine's Python, and need
neither `venv` nor rights. A directory appears there whole or not at
all, so an interrupted install is simply done again. `python3 -m e2e_k8s.packages` only installs:
the restart rule for requirements.txt runs it while the old process still answers.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import site
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"

NO_PIP = f"""\
e2e_k8s: this Python ({sys.executable}) has no pip, which is needed once to install Pyramid.
  Debian, Ubuntu: apt-get install python3-pip    Fedora: dnf install python3-pip
  elsewhere:      {sys.executable} -m ensurepip --user"""


def ensure():
    """Makes every package of requirements.txt importable, installing when it must."""
    if sys.version_info < (3, 9):
        sys.exit("e2e_k8s: Python 3.9 or newer is needed, this is " + sys.version.split()[0])
    try:
        text = REQUIREMENTS.read_text(encoding="utf-8")
    except OSError as error:
        sys.exit(f"e2e_k8s: cannot read {REQUIREMENTS}: {error.strerror}")
    if installed(text):
        return
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    shared = os.environ.get("E2E_K8S_PACKAGES")
    home = Path(shared or REQUIREMENTS.parent / ".packages") / f"{python}-{digest}"
    if not home.is_dir():
        install(home)
    site.addsitedir(str(home))
    # Before the machine's own packages, so that the pinned versions win.
    sys.path.remove(str(home))
    sys.path.insert(0, str(home))


def installed(text):
    """Says whether this Python already has each `name==version` line; any other line means no."""
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        pin = re.fullmatch(r"([\w.-]+)==([\w.]+)", line)
        if pin is None:
            return False
        try:
            if importlib.metadata.version(pin[1]) != pin[2]:
                return False
        except importlib.metadata.PackageNotFoundError:
            return False
    return True


def install(home):
    """Runs pip into a directory beside `home`, then gives it its name. One start at a time does."""
    if importlib.util.find_spec("pip") is None:
        sys.exit(NO_PIP)
    home.parent.mkdir(parents=True, exist_ok=True)
    with open(home.with_suffix(".lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.is_dir():
            run_pip(home, lock)


def run_pip(home, lock):
    """Fills and names `home`. pip inherits the lock: should we be killed, the next start waits for it."""
    part = home.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    print(f"e2e_k8s: installing requirements.txt into {home} (once)", flush=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install",
           "--quiet", "--root-user-action=ignore", "--target", str(part), "-r", str(REQUIREMENTS)]
    code = subprocess.run(pip, stdin=subprocess.DEVNULL, pass_fds=[lock.fileno()]).returncode
    if code != 0:
        shutil.rmtree(part, ignore_errors=True)
        sys.exit(f"e2e_k8s: pip ended with {code}; its message stands above. "
                 "Is the network there? Start again to try again.")
    os.rename(part, home)


if __name__ == "__main__":
    ensure()
