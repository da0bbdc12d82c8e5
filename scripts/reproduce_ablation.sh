#!/usr/bin/env bash
# Every setting of the method, one at a time, in one table; see reproduce.sh.
exec bash "$(dirname "${BASH_SOURCE[0]}")/reproduce.sh" ablation "$@"
