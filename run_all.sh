#!/usr/bin/env bash
# From a clone to results: makes or uses an environment, installs the pinned packages once, runs the notebooks.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"

usage() {
    cat <<'TEXT'
Usage: ./run_all.sh [options]              run the notebooks that are out of date
       ./run_all.sh test [pytest options]  set up and run the tests; -m "not slow" leaves the long ones out
       ./run_all.sh report [--profile NAME]  set up and make results/<profile>/report, a site of what the notebooks made
       ./run_all.sh check                  set up and check style, types and that notebooks carry no outputs
       ./run_all.sh student [--out DIR] [--results DIR]  set up and copy the notebooks without the exercises' solutions to
                                           results/student; with the outputs that they have in a results folder

Options
  --profile NAME      smoke, quick (default, or what the variable SARNB_PROFILE says), study, paper, or a .yaml file
  --data DIR          your own SAR images: class folders, or an imagefolder with metadata.jsonl;
                      results go to results/<profile>-<name of DIR>
  --unseen city,lake  classes of DIR that training does not show
  --only 05,06        these notebooks, and what they need if it is out of date
  --jobs N            notebooks side by side (default: one per core, at most 4; 1 with a graphics card)
  --seed N            seed of data, generation and bootstrap
  --param NAME=VALUE  a notebook parameter, as often as you like
  --executor NAME     a Snakemake executor such as slurm (its plugin must be installed)
  --dry-run           tell what would run and why; write nothing
  --help              this text
  -- OPTIONS          everything after it goes to Snakemake

The active venv or conda environment is used; without one, ./.venv is made. Results go to ./results, or to the folder
that the variable SARNB_RESULTS names.
TEXT
}

fail() {
    echo "run_all.sh: $*" >&2
    exit 2
}

# Option names are checked here, so that a typing error does not wait for an installation.
check_options() {
    while (($#)); do
        case "$1" in
            --) return ;;
            --help | -h) usage; exit 0 ;;
            --dry-run) ;;
            --profile=* | --data=* | --unseen=* | --only=* | --jobs=* | --seed=* | --param=* | --executor=*) ;;
            --profile | --data | --unseen | --only | --jobs | --seed | --param | --executor)
                (($# > 1)) || fail "$1 needs a value; see ./run_all.sh --help"
                shift ;;
            *) fail "unknown option '$1'; see ./run_all.sh --help" ;;
        esac
        shift
    done
}

# Sets $python: that of the active environment (conda's base does not count: pins would disturb it), or of ./.venv.
find_python() {
    if [[ -n "${VIRTUAL_ENV:-}" && -x "$VIRTUAL_ENV/bin/python" ]]; then
        python="$VIRTUAL_ENV/bin/python"
    elif [[ -n "${CONDA_PREFIX:-}" && "${CONDA_DEFAULT_ENV:-}" != base && -x "$CONDA_PREFIX/bin/python" ]]; then
        python="$CONDA_PREFIX/bin/python"
    else
        python="$root/.venv/bin/python"
        [[ -x "$python" ]] && "$python" -c 'import pip' 2>/dev/null || make_venv
    fi
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        || fail "$("$python" --version) at $python is too old; activate an environment with Python 3.11 or newer"
}

make_venv() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            echo "making the environment $root/.venv with $("$candidate" --version)"
            "$candidate" -m venv --clear "$root/.venv" \
                || fail "$candidate cannot make an environment; install its venv package (python3-venv on Debian and Ubuntu)"
            return
        fi
    done
    fail "no Python 3.11 or newer found; install it, or use conda: conda env create -f environment.yml"
}

# Installs only when pyproject.toml, the folder of this clone or the extras are not those of the last installation.
install() {
    local stamp want extras="${SARNB_EXTRAS:-test,report}"
    stamp="$("$python" -c 'import sys; print(sys.prefix)')/.sarnb-installed"
    want="$("$python" -c 'import hashlib, sys
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest(), *sys.argv[2:])' "$root/pyproject.toml" "$root" "$extras")"
    local have word lacks=""
    have="$(cat "$stamp" 2>/dev/null || true)"
    if [[ "${have% *}" == "${want% *}" ]]; then  # the same pins and clone: extras that are there already need no network
        for word in ${extras//,/ }; do
            [[ ",${have##* }," == *",$word,"* ]] || lacks=1
        done
        [[ -z "$lacks" ]] && return
        extras="${have##* },$extras" want="${want% *} ${have##* },$extras"
    fi
    echo "installing the pinned packages into $("$python" -c 'import sys; print(sys.prefix)') (once; needs the network)"
    "$python" -m pip install --quiet --editable "$root[$extras]" \
        || fail "the installation failed, see pip's message above; the next call tries again"
    echo "$want" > "$stamp"
}

python=""
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
if [[ "${1:-}" == test || "${1:-}" == check ]]; then
    find_python
    install
    cd "$root"
    if [[ "$1" == test ]]; then
        # Two processes with one thread each: small models scale badly over threads.
        OMP_NUM_THREADS=1 exec "$python" -m pytest --numprocesses 2 --dist loadfile "${@:2}"
    fi
    "$python" -m ruff check sarnb tests
    "$python" -m ruff check --select F821 notebooks/*.ipynb  # undefined names: the one fault that a run finds late
    "$python" -m ruff format --check sarnb tests
    "$python" -m mypy
    exec "$python" -m nbstripout --keep-id --verify notebooks/*.ipynb
fi
if [[ "${1:-}" == student || "${1:-}" == report ]]; then
    find_python
    install
    exec "$python" -m sarnb "$@"
fi
check_options "$@"
find_python
install
exec "$python" -m sarnb run "$@"
