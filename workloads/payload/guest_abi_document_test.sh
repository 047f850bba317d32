#!/bin/bash
# The example in docs/guest_abi.md is hello.c to the letter, and the command given there makes a program of it.
set -euo pipefail

readonly DOCUMENT=docs/guest_abi.md
readonly EXAMPLE=workloads/payload/hello.c

# Prints what stands between ```$1 and ``` in the document.
block() { sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/p" "$DOCUMENT" | sed '1d;$d'; }

diff <(block c) "$EXAMPLE" || {
  echo "$DOCUMENT (<) differs from $EXAMPLE (>)"
  exit 1
}

command=$(block sh | grep '^gcc ')
program=$TEST_TMPDIR/hello
${command% -o hello} -Wall -Wextra -Werror -o "$program"
[[ $(od -An -tx1 -N5 "$program") == " 7f 45 4c 46 02" ]] # ELF64
