#!/usr/bin/env bash
# Table 1 of the paper; see reproduce.sh.
exec bash "$(dirname "${BASH_SOURCE[0]}")/reproduce.sh" table1 "$@"
