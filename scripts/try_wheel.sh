#!/usr/bin/env bash
# Installs a wheel or source archive into an empty environment, outside the checkout, and runs it: the demo, then each
# command of the last lines of the demo that needs no images of the user.
#   scripts/try_wheel.sh dist/tlcli-0.2.0-py3-none-any.whl [PYTHON]
set -euo pipefail
package=$(realpath "$1")
python=${2:-python3}
constraints=$(realpath "$(dirname "$0")/../constraints.txt")
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
cd "$home"
"$python" --version
"$python" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check -c "$constraints" "$package"
export PATH="$home/venv/bin:$PATH" TLCLI_CACHE="$home/cache" TLCLI_OFFLINE=1
tlcli --version
time tlcli demo --out demo 2> demo.log || { cat demo.log; exit 1; }
tlcli evaluate demo/run --json > evaluate.json
tlcli predict demo/run demo/digits/7 > predict.txt
tlcli recipe list > recipes.txt
tlcli inspect mobilenet_v2 --train top:30% > inspect.txt
tlcli doctor > doctor.txt
echo "installed and run: $(basename "$package")"
