# Sourced by the other scripts: goes to the repository's root and into its virtual environment, .venv, made on the first
# run and again when scripts/requirements/requirements.lock changes or the clone moves. It needs Python 3.10 or newer with
# venv, and the package index; nothing outside the clone changes. With EXTRAS=yes the packages of extras.lock are added.
CDPATH='' cd -- "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11 python3.10 python; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.10 or newer with venv was found; install one, or name it: PYTHON=/path/to/python3 bash $0" >&2
    return 1
}

install_packages() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1" || {
        echo "error: the packages of $1 could not be installed; check the network and run this again" >&2
        return 1
    }
}

wanted=$(pwd -P && cat scripts/requirements/requirements.lock)
is_set_up() { [ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ]; }
if ! is_set_up; then # one script at a time: another one may be setting up
    exec 9>.setup.lock
    ! command -v flock >/dev/null || flock 9
fi
if ! is_set_up; then
    python=$(find_python) || exit 1
    echo "setting up .venv with $("$python" --version): a few minutes, once"
    "$python" -m venv --clear .venv || exit 1
    .venv/bin/python scripts/tools/torch_build.py || exit 1 # where the GPU or its driver wants another build than pip takes
    install_packages scripts/requirements/requirements.lock || exit 1
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . || exit 1
    .venv/bin/python scripts/tools/doctor.py --gpu # warns of a GPU that torch cannot use
    echo "$wanted" >.venv/installed
fi
exec 9>&-
wanted=$(cat scripts/requirements/extras.lock scripts/requirements/spacy_model.lock)
if [ "${EXTRAS:-}" = yes ] && [ "$(cat .venv/installed_extras 2>/dev/null)" != "$wanted" ]; then
    install_packages scripts/requirements/extras.lock && install_packages scripts/requirements/spacy_model.lock || exit 1
    echo "$wanted" >.venv/installed_extras
fi
source .venv/bin/activate
