#!/usr/bin/env bash
# The README's commands on a stranger's machine: a bare Debian in a folder, an ordinary user, a fresh clone of HEAD, and
# nothing of this machine's pip configuration. Needs root, debootstrap and a network; 15 GB, and 25 to 50 minutes.
#
#   tests/strangers_machine.sh FOLDER [SUITE] [TORCH]
#
# SUITE is a release of Debian: trixie (Python 3.13), bookworm (3.11), forky. TORCH is a build for `make setup`, such as
# cpu. What each command printed is in FOLDER/log, its times and sizes in FOLDER/log/summary. FOLDER stays, for a look.
set -euo pipefail
folder=$(realpath -m "${1:?the folder to put Debian into}")
suite=${2:-trixie}
torch=${3:-}
repository=$(realpath "$(dirname "$0")/..")
machine=$folder/debian
log=$folder/log
mkdir -p "$log"

[ -d "$machine/etc" ] || debootstrap --variant=minbase --include=ca-certificates,git,make,python3,python3-venv \
  "$suite" "$machine" > "$log/debootstrap"
cp /etc/resolv.conf /etc/hosts "$machine/etc/"
cp -L /etc/ssl/certs/ca-certificates.crt "$machine/etc/ssl/certs/"  # a proxy's certificate, where there is one
chroot "$machine" id stranger > /dev/null 2>&1 || chroot "$machine" useradd --create-home stranger
rm -rf "$machine/home/stranger/my nuLLM"  # a path with a space, as strangers have
git clone --quiet "$repository" "$machine/home/stranger/my nuLLM"
chroot "$machine" chown -R stranger /home/stranger
trap 'for part in proc sys dev; do umount --quiet --recursive --lazy "$machine/$part"; done' EXIT
for part in proc sys dev; do mountpoint -q "$machine/$part" || mount --rbind --make-rslave "/$part" "$machine/$part"; done

# Run one command as the stranger, in the clone.
stranger() {
  chroot --userspec=stranger "$machine" env -i HOME=/home/stranger USER=stranger TERM=xterm LANG=C.UTF-8 \
    PATH=/usr/local/bin:/usr/bin:/bin PIP_CONFIG_FILE=/dev/null SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt HTTPS_PROXY="${HTTPS_PROXY:-}" bash -c "cd ~/'my nuLLM' && $1"
}

# Run it, keep what it prints, and note its time and how it ended.
timed() {
  local name=$1 start=$SECONDS status=0
  stranger "$2" > "$log/$name" 2>&1 || status=$?
  printf '%-10s exit %d  %4d s  %s\n' "$name" $status $((SECONDS - start)) "$(tail -n 1 "$log/$name")" | tee -a "$log/summary"
}

size() { printf '%-10s %s MB\n' "$1" "$(du -sm "$machine/home/stranger/my nuLLM/.venv" | cut -f 1)" | tee -a "$log/summary"; }

stranger 'python3 --version; git log --format=%h -n 1' | tee "$log/summary"
timed setup "make setup ${torch:+TORCH=$torch}"
size .venv
timed train 'make train'
timed serve "(timeout 120 make serve ARGS='--port 8765' & python3 - <<'PYTHON'
import json, time, urllib.request
for attempt in range(60):
    try:
        urllib.request.urlopen('http://127.0.0.1:8765/ready')
        break
    except OSError:
        time.sleep(1)
body = json.dumps({'prompt': 'Return the', 'max_tokens': 12, 'temperature': 0}).encode()
request = urllib.request.Request('http://127.0.0.1:8765/v1/completions', body, {'content-type': 'application/json'})
print(json.load(urllib.request.urlopen(request))['choices'][0]['text'])
PYTHON
status=\$?; kill \$!; wait; exit \$status)"
timed docs 'make docs'
timed test 'make test ARGS=-rs'
size 'to test'
