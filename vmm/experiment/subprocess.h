// Runs another program of the host's.
#ifndef QUIRE_VMM_EXPERIMENT_SUBPROCESS_H_
#define QUIRE_VMM_EXPERIMENT_SUBPROCESS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quire {

// Runs `words[0]`, found in PATH, with the other words, gives it `input` (a few KiB at most) to read, and waits for its
// end. What it wrote to standard output. Errors: FailedPrecondition, there is no such program; Internal, it failed:
// with what it wrote to standard error.
absl::StatusOr<std::string> RunProgram(const std::vector<std::string>& words, absl::string_view input = "");

}  // namespace quire

#endif  // QUIRE_VMM_EXPERIMENT_SUBPROCESS_H_
