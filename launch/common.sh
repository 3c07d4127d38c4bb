# shellcheck shell=bash
# Shared by the scripts of this folder; sourced, not run.

dry_run=''

# Prints its arguments as one line that a shell reads back the same.
quote() {
  local argument separator='' single="'"
  for argument in "$@"; do
    printf '%s' "${separator}"
    separator=' '
    if [[ -n "${argument}" && ! "${argument}" =~ [^A-Za-z0-9_@%+=:,./-] ]]; then
      printf '%s' "${argument}"
    else
      printf "'%s'" "${argument//${single}/${single}\\${single}${single}}"
    fi
  done
}

# Runs a command; with --dry_run prints it instead.
run() {
  if [[ -n "${dry_run}" ]]; then
    quote "$@"; echo
  else
    echo "+ $(quote "$@")" >&2
    "$@"
  fi
}

# A remark between the commands of a dry run.
note() { if [[ -n "${dry_run}" ]]; then echo "# $*"; fi; }

die() { echo "error: $*" >&2; exit 2; }

# Prints the comment at the top of a script and ends.
usage() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$1"
  exit "$2"
}

# Ends where a variable is empty: need NAME 'what it is'.
need() { [[ -n "${!1:-}" ]] || die "$1 is not set: $2; export $1=..."; }

# Ends where `train` would not be told what to train, and where to keep it on
# machines that are deleted: need_bucket FLAGS...
need_bucket() {
  local flag config='' workdir=''
  for flag in "$@"; do
    case "${flag}" in
      --config=*) config=${flag#*=} ;;
      --workdir=*) workdir=${flag#*=} ;;
      --multihost) die '--multihost is added by this script; leave it out' ;;
    esac
  done
  [[ -n "${config}" ]] || die 'no --config=FILE for train'
  [[ "${workdir}" == gs://* ]] || die "--workdir=${workdir} must be a bucket" \
    '(gs://...): what is on the machines is lost when they are preempted'
}
